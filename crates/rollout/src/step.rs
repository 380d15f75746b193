//! What every step does: look and class what is there, push once, or say which step restores it.
//!
//! | | start | goal | ours in part | neither |
//! |---|---|---|---|---|
//! | `check` | `Ready` | `Done`, or `Waiting` until it has settled | `Ready`: a push goes on, an undo removes all of it | `Blocked`: never overwritten |

use model::ids::OperationId;
use model::operation::{Problem, Progress};
use model::plan::{Stamp, Step, Target};

use crate::ports::{ObjectVersion, FencingToken, Readiness, Usage, MeshClusters, ClusterError};

mod restart;
mod set;

/// What a look means for a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepCheck {
    /// The goal is there.
    Done,
    /// The start is there: one push brings the goal.
    Ready {
        /// What an undo would restore.
        capture: Option<String>,
        /// The version that was looked at; the push is refused when it has moved on.
        version: ObjectVersion,
    },
    /// Nothing to do but to look again.
    Waiting(String),
    /// Something that the plan did not expect. Nothing is written.
    Blocked(Problem),
}

/// A step with everything that its verbs need to know about its run.
#[derive(Debug, Clone, Copy)]
pub struct StepContext<'a> {
    /// The operation.
    pub operation: OperationId,
    /// The step's number in the operation's plan.
    pub number: i32,
    /// The step.
    pub step: &'a Step,
    /// What its facts add up to.
    pub progress: &'a Progress,
}

impl StepContext<'_> {
    /// The value that a restart writes. It derives from the operation, so writing it twice restarts once; `attempt`
    /// rises only when a person asks for another try.
    pub fn restart_stamp(&self, stamp: &Stamp) -> Option<String> {
        match stamp {
            // A person who asks for another try wants another restart, whatever the stamp is to be in the end.
            Stamp::Former { value } if self.progress.attempt == 0 => value.clone(),
            Stamp::Fresh | Stamp::Former { .. } => {
                Some(format!("{}/{}/{}", self.operation, self.number, self.progress.attempt))
            }
        }
    }

    /// Looks and classes.
    ///
    /// # Errors
    /// The cluster could not be asked.
    pub async fn check(&self, world: &dyn MeshClusters) -> Result<StepCheck, ClusterError> {
        match self.step {
            Step::Set { target, from, to } => set::check(self, world, target, from, to).await,
            Step::Restart { member, workload, wanted, stamp } => {
                restart::check(self, world, member, workload, (wanted, stamp)).await
            }
            Step::Probe { member, asks, wanted } => Ok(match world.probe_injection(member, asks, wanted).await? {
                Ok(()) => StepCheck::Done,
                // Webhook configurations reach the API server's own admission a moment after the write.
                Err(reason) => StepCheck::Waiting(reason),
            }),
            Step::AwaitReady { revision, members } => Ok(check_from_readiness(world.check_readiness(revision, members).await?)),
            Step::AwaitUnused { revision, left_behind } => Ok(match world.check_usage(revision, left_behind).await? {
                Usage::Unused => StepCheck::Done,
                Usage::InUse(users) => StepCheck::Waiting(format!("still in use: {}", summarize_list(&users))),
                Usage::Unknown(silent) => StepCheck::Waiting(format!("unknown counts as used: {}", summarize_list(&silent))),
            }),
            Step::AwaitGone { member } => {
                let left = world.list_remaining_objects(member).await?;
                Ok(if left.is_empty() { StepCheck::Done } else { StepCheck::Waiting(format!("still there: {}", summarize_list(&left))) })
            }
            Step::LeaveBehind { member } => match world.list_injectors(member).await {
                Ok(_) => Ok(StepCheck::Blocked(member_answers(member))),
                Err(error) if error.is_lost() => Ok(StepCheck::Done),
                Err(error) => Err(error),
            },
        }
    }

    /// Pushes once. Only steps that were found `Ready` are pushed.
    ///
    /// # Errors
    /// As for [`World::set`].
    pub async fn act(&self, world: &dyn MeshClusters, seen: &ObjectVersion, permit: &FencingToken) -> Result<(), ClusterError> {
        match self.step {
            Step::Set { target, to, .. } => world.write_target(target, to.as_deref(), seen, permit).await,
            Step::Restart { stamp, .. } => {
                let target = self.step.written_target().expect("a restart writes a workload");
                world.write_target(&target, self.restart_stamp(stamp).as_deref(), seen, permit).await
            }
            Step::Probe { .. }
            | Step::AwaitReady { .. }
            | Step::AwaitUnused { .. }
            | Step::AwaitGone { .. }
            | Step::LeaveBehind { .. } => Ok(()),
        }
    }
}

/// The step that restores what a started one captured; `None` where nothing needs restoring.
///
/// Custom resource definitions are never taken back: their stored versions have moved on (requirement B7). Restarts are
/// not undone one by one: which workloads carry the wrong sidecar is read from live pods. Limits hold for both revisions.
pub fn undo(step: &Step, capture: &Option<String>) -> Option<Step> {
    match step {
        Step::Set {
            target: Target::Crds { .. } | Target::Limits | Target::Certificates { .. } | Target::Workload { .. },
            ..
        } => None,
        Step::Set { target, to, .. } if to != capture => {
            Some(Step::Set { target: target.clone(), from: to.clone(), to: capture.clone() })
        }
        _ => None,
    }
}

/// True for a step after whose first effect there is no way back.
pub fn is_irrevocable(step: &Step) -> bool {
    matches!(
        step,
        Step::Set {
            target: Target::ControlPlane { .. } | Target::MemberObjects { .. } | Target::Address { .. },
            to: None,
            ..
        }
    )
}

/// A member that was to be left behind answers: it is cleaned up like the others.
fn member_answers(member: &model::Name) -> Problem {
    Problem::new(
        "member_answers",
        format!("{member} was to be left behind, but it answers now."),
        "Ask for the deletion once more, with `--force` as before: it is cleaned up like the others.",
    )
}

fn check_from_readiness(settled: Readiness) -> StepCheck {
    match settled {
        Readiness::Ready => StepCheck::Done,
        Readiness::Pending(reason) => StepCheck::Waiting(reason),
        Readiness::Failing(problem) => StepCheck::Blocked(problem),
    }
}

/// The first few of a list, and how many more there are.
fn summarize_list(list: &[String]) -> String {
    const MAX_LISTED: usize = 5;
    let shown = list.iter().take(MAX_LISTED).cloned().collect::<Vec<_>>().join(", ");
    if list.len() > MAX_LISTED { format!("{shown} and {} more", list.len() - MAX_LISTED) } else { shown }
}

#[cfg(test)]
mod tests {
    use model::operation::StepEvent;

    use super::*;

    #[test]
    fn retried_restart_gets_a_new_stamp() {
        let step = Step::AwaitGone { member: "c1".parse().expect("a name") };
        let mut progress = Progress::default();
        let operation: OperationId = format!("op_{:026}", 1).parse().expect("an id");
        let stamp =
            |progress: &Progress, stamp: &Stamp| StepContext { operation, number: 3, step: &step, progress }.restart_stamp(stamp);
        let former = Stamp::Former { value: Some("before".into()) };
        assert_eq!(stamp(&progress, &former).as_deref(), Some("before"));
        progress.apply_event(&StepEvent::Retried);
        let again = stamp(&progress, &former);
        assert_eq!(again, stamp(&progress, &Stamp::Fresh));
        assert_ne!(again.as_deref(), Some("before"), "the workload would not be restarted again");
    }
}
