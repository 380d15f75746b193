//! Replacing a workload's pods.

use model::Name;
use model::operation::Problem;
use model::plan::{Sidecar, Stamp, WorkloadRef};

use super::{Check, Place};
use crate::ports::{Settled, WorkloadSeen, World, WorldError};

pub(super) async fn check(
    place: &Place<'_>,
    world: &dyn World,
    member: &Name,
    workload: &WorkloadRef,
    (wanted, stamp): (&Sidecar, &Stamp),
) -> Result<Check, WorldError> {
    let Some(seen) = world.workload(member, workload).await? else {
        // Its owner took it away: there is nothing left to restart.
        return Ok(Check::Done);
    };
    let goal = place.stamp(stamp);
    let carried = seen.live.iter().all(|pod| pod.sidecar.as_ref() == Some(wanted));
    if carried && seen.rolled == Settled::Yes {
        return Ok(Check::Done);
    }
    if place.progress.started() && seen.stamp == goal {
        return Ok(rolling(member, workload, wanted, &seen));
    }
    Ok(Check::Ready { capture: seen.stamp, mark: seen.mark })
}

/// The template is as it should be; the pods are on their way.
fn rolling(member: &Name, workload: &WorkloadRef, wanted: &Sidecar, seen: &WorkloadSeen) -> Check {
    match &seen.rolled {
        Settled::NotYet(reason) => Check::Waiting(reason.clone()),
        Settled::Failing(problem) => Check::Blocked(problem.clone()),
        Settled::Yes => {
            let mut odd = seen.live.iter().filter(|pod| pod.sidecar.as_ref() != Some(wanted));
            // Controllers count a pod as gone as soon as it begins to end.
            let Some(stray) = odd.clone().find(|pod| !pod.leaving) else {
                return Check::Waiting(format!("{} old pods are still ending", odd.by_ref().count()));
            };
            let found = match &stray.sidecar {
                Some(sidecar) => format!("injected by {} with {}", sidecar.revision, sidecar.image),
                None => "not injected at all".into(),
            };
            Check::Blocked(Problem::new(
                "injected_by_another_revision",
                format!(
                    "{workload} in {member} was restarted, and a pod of it came back {found} where {} was wanted.",
                    wanted.revision
                ),
                "Look at the labels of the namespace and of the pod template, then retry, or roll back.",
            ))
        }
    }
}
