//! Checks a step that replaces a workload's pods.

use meshwright_model::Name;
use meshwright_model::operation::Problem;
use meshwright_model::plan::{Sidecar, Stamp, WorkloadRef};
use meshwright_model::problem::ProblemCode;

use super::{StepCheck, StepContext, eviction};
use crate::ports::{ClusterError, MeshClusters, ObservedWorkload, Readiness};

/// Checks whether every live pod of the workload has the wanted sidecar. The workload is ready for
/// a restart until our stamp is on its pod template.
pub(super) async fn check(
    place: &StepContext<'_>,
    world: &dyn MeshClusters,
    member: &Name,
    workload: &WorkloadRef,
    (wanted, stamp): (&Sidecar, &Stamp),
) -> Result<StepCheck, ClusterError> {
    let Some(seen) = world.observe_workload(member, workload).await? else {
        // The owner removed the workload, so no pod has to be restarted.
        return Ok(StepCheck::Done);
    };
    if *stamp == Stamp::Evict {
        return Ok(eviction::check_workload(wanted, &seen));
    }
    let goal = place.restart_stamp(stamp);
    let carried = seen
        .live
        .iter()
        .all(|pod| pod.sidecar.as_ref() == Some(wanted));
    // A workload whose live pods all carry the sidecar is not restarted once more, even if the
    // controller is not content with the pods. Only a former stamp is still restored, once.
    let restores =
        matches!(stamp, Stamp::Former { .. }) && place.progress.attempt == 0 && seen.stamp != goal;
    if carried && !restores && seen.rollout == Readiness::Ready {
        return Ok(StepCheck::Done);
    }
    if (place.progress.is_started() && seen.stamp == goal) || (carried && !restores) {
        return Ok(check_rollout(member, workload, wanted, &seen));
    }
    Ok(StepCheck::Ready {
        capture: seen.stamp,
        version: seen.version,
    })
}

/// Checks the rollout of a workload whose pod template has our stamp already.
fn check_rollout(
    member: &Name,
    workload: &WorkloadRef,
    wanted: &Sidecar,
    seen: &ObservedWorkload,
) -> StepCheck {
    match &seen.rollout {
        Readiness::Pending(reason) => StepCheck::Replacing {
            reason: reason.clone(),
            replaced: seen
                .live
                .iter()
                .filter(|pod| !pod.terminating && pod.sidecar.as_ref() == Some(wanted))
                .count(),
        },
        Readiness::Failing(problem) => StepCheck::Blocked(problem.clone()),
        Readiness::Ready => {
            let mut odd = seen
                .live
                .iter()
                .filter(|pod| pod.sidecar.as_ref() != Some(wanted));
            // Controllers count a pod as gone as soon as it begins to terminate, so a finished
            // rollout can still have old pods.
            let Some(stray) = odd.clone().find(|pod| !pod.terminating) else {
                return StepCheck::Waiting(format!(
                    "{} old pods are still ending",
                    odd.by_ref().count()
                ));
            };
            let found = match &stray.sidecar {
                Some(sidecar) => format!("injected by {} with {}", sidecar.revision, sidecar.image),
                None => "not injected at all".into(),
            };
            StepCheck::Blocked(Problem::new(
                ProblemCode::InjectedByAnotherRevision,
                format!(
                    "{workload} in {member} was restarted, and a pod of it came back {found} where {} was wanted.",
                    wanted.revision
                ),
                "Look at the labels of the namespace and of the pod template, then retry, or roll back.",
            ))
        }
    }
}
