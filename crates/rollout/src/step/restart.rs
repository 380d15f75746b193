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
    let carried = seen.live.iter().all(|live| live.as_ref() == Some(wanted));
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
            let odd = seen.live.iter().find(|live| live.as_ref() != Some(wanted));
            let found = match odd {
                Some(Some(sidecar)) => format!("injected by {} with {}", sidecar.revision, sidecar.image),
                _ => "not injected at all".into(),
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
