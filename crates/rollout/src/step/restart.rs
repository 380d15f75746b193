//! Checks a step that replaces a workload's pods.

use meshwright_model::Name;
use meshwright_model::operation::Problem;
use meshwright_model::plan::{Sidecar, Stamp, WorkloadRef};
use meshwright_model::problem::ProblemCode;

use super::{StepCheck, StepContext, eviction};
use crate::ports::{
    ClusterError, LivePod, MeshClusters, ObservedWorkload, PodReadiness, Readiness,
};

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
    Ok(check_stamp(
        place,
        (member, workload),
        (wanted, stamp),
        seen,
    ))
}

/// Checks a workload that is restarted by a stamp on its pod template.
fn check_stamp(
    place: &StepContext<'_>,
    (member, workload): (&Name, &WorkloadRef),
    (wanted, stamp): (&Sidecar, &Stamp),
    seen: ObservedWorkload,
) -> StepCheck {
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
        return StepCheck::Done;
    }
    if (place.progress.is_started() && seen.stamp == goal) || (carried && !restores) {
        return check_rollout(member, workload, wanted, &seen);
    }
    match describe_replacement(&seen) {
        Some(state) => StepCheck::Deferred {
            reason: format!(
                "its pods are being replaced already, and a restart now would take one more away: {state}"
            ),
            replaced: seen.updated,
            capture: seen.stamp,
            version: seen.version,
        },
        None => StepCheck::Ready {
            capture: seen.stamp,
            version: seen.version,
        },
    }
}

/// Describes the replacement of pods that a new stamp would overlap with, so that the workload would
/// lose one pod more than its owner allows. Returns `None` if there is none. Broken pods are no
/// reason to wait, because the restart may be what repairs them.
fn describe_replacement(seen: &ObservedWorkload) -> Option<String> {
    if !seen.takes_next_at_once {
        return None;
    }
    let (ending, kept): (Vec<&LivePod>, Vec<_>) = seen.live.iter().partition(|pod| pod.deleted);
    let count = |state| kept.iter().filter(|pod| pod.readiness == state).count();
    let (ending, starting) = (ending.len(), count(PodReadiness::Starting));
    match &seen.rollout {
        _ if ending + starting > 0 => {
            Some(format!("{ending} are ending, {starting} do not serve yet"))
        }
        // Between its end and the start of the next one, no pod shows that it is being replaced.
        Readiness::Pending(missing) if count(PodReadiness::Broken) == 0 => Some(missing.clone()),
        _ => None,
    }
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

#[cfg(test)]
mod tests;
