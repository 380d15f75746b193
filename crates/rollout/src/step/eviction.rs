//! Checks a step that evicts pods, because a changed template would not replace them.

use meshwright_model::Name;
use meshwright_model::plan::Sidecar;

use super::StepCheck;
use crate::ports::{
    ClusterError, LivePod, MeshClusters, ObjectVersion, ObservedWorkload, PodReadiness,
};

/// Checks whether a pod, named as `name/uid`, is still there.
pub(super) async fn check_pod(
    world: &dyn MeshClusters,
    member: &Name,
    namespace: &str,
    pod: &str,
) -> Result<StepCheck, ClusterError> {
    let version = ObjectVersion(pod.to_owned());
    let found = world.observe_pod(member, namespace, &version).await?;
    Ok(match found {
        None => StepCheck::Done,
        Some(pod) if pod.deleted => StepCheck::Waiting("the pod is still ending".to_owned()),
        Some(_) => StepCheck::Ready {
            capture: None,
            version,
        },
    })
}

/// Checks which pod is evicted next. A pod that serves is evicted only while every pod that was
/// replaced serves; one that does not serve costs nothing. The step ends with the last
/// pod that has another sidecar, even if the workload's own fault keeps its pods from serving.
pub(super) fn check_workload(wanted: &Sidecar, seen: &ObservedWorkload) -> StepCheck {
    let (right, mut others): (Vec<&LivePod>, Vec<&LivePod>) = seen
        .live
        .iter()
        .partition(|pod| pod.sidecar.as_ref() == Some(wanted));
    // The pod with the highest ordinal comes first, as in a roll-out of a StatefulSet.
    others.sort_by_key(|pod| std::cmp::Reverse((pod.version.0.find('/'), &pod.version.0)));
    let replacing = |reason: String| StepCheck::Replacing {
        reason,
        replaced: right.len(),
    };
    if others.is_empty() {
        return StepCheck::Done;
    }
    let ending = others.iter().filter(|pod| pod.deleted).count();
    if ending > 0 {
        return replacing(format!("{ending} old pods are still ending"));
    }
    let serves = |pod: &LivePod| pod.readiness == PodReadiness::Ready;
    let settled = right.iter().all(|pod| serves(pod) && !pod.deleted);
    match others.iter().find(|pod| settled || !serves(pod)) {
        Some(pod) => StepCheck::Ready {
            capture: seen.stamp.clone(),
            version: pod.version.clone(),
        },
        None => replacing("a pod that was replaced does not serve yet".to_owned()),
    }
}
