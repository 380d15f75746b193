//! Implements the actions of every step: check and classify its target, write once, or name the
//! step that restores it.
//!
//! | state of the target | result of `check` |
//! |---|---|
//! | start | `Ready` |
//! | goal | `Done`, or `Waiting` until it has taken effect |
//! | goal, with a former address | `Ready` |
//! | ours in part | `Ready`: a write goes on, an undo removes all of it |
//! | neither | `Blocked`: the value is never overwritten |

use std::collections::BTreeMap;

use jiff::Timestamp;
use meshwright_model::ids::OperationId;
use meshwright_model::operation::{Problem, Progress};
use meshwright_model::plan::{Stamp, Step, Target};
use meshwright_model::version::RevisionName;

use crate::converge::{Goal, NewRestart, WorkloadKey};
use crate::ports::{
    ClusterError, FencingToken, MeshClusters, ObjectVersion, Readiness, UserSearch,
};

mod converge;
mod eviction;
#[cfg(test)]
mod fixed_clusters;
mod restart;
mod set;
mod soak;
mod unused;

/// Result of the check of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepCheck {
    /// The target is at its goal.
    Done,
    /// The target is at its start, and one write brings it to the goal.
    Ready {
        /// Value that an undo restores; `None` if the target is absent.
        capture: Option<String>,
        /// Version of the target that was checked. The write is refused when the target has changed
        /// since.
        version: ObjectVersion,
    },
    /// The target is at its start, but its pods are being replaced already, and a write now would
    /// take one more away. The write follows when they are replaced, or when that makes no progress
    /// for the limit of the step.
    Deferred {
        /// Reason why the write waits.
        reason: String,
        /// Number of pods that the newest template has made. A higher number than before is
        /// progress.
        replaced: usize,
        /// Value that an undo restores; `None` if the target is absent.
        capture: Option<String>,
        /// Version of the target that was checked.
        version: ObjectVersion,
    },
    /// No action is possible yet, for this reason: check again later.
    Waiting(String),
    /// The revision that has to be unused has these users, or places that did not answer. Each
    /// search for them lists all workloads and pods of every member.
    InUse(String),
    /// The pods of a workload are being replaced.
    Replacing {
        /// Reason why the replacement is not complete.
        reason: String,
        /// Number of live pods with the wanted sidecar that are not terminating. A higher number
        /// than before is progress.
        replaced: usize,
    },
    /// No action is possible before this time.
    WaitUntil {
        /// Reason for the wait, in words for the user.
        reason: String,
        /// Time at which the step can go on.
        until: Timestamp,
    },
    /// These restarts have to be added to the plan.
    Restarts(Vec<NewRestart>),
    /// These evictions have to be added to the plan.
    Evictions {
        /// Evictions to add.
        added: Vec<NewRestart>,
        /// Pods that are left to evict, in words for the user.
        left: Vec<String>,
    },
    /// The step can do no more, and this is left. Changes in the cluster may still solve it.
    Partial {
        /// Names what is left.
        problem: Problem,
        /// True if the next wave begins without what is left.
        goes_on: bool,
    },
    /// The target is in a state that the plan did not expect. The step writes nothing.
    Blocked(Problem),
}

/// A step with the parts of its operation that its actions need.
#[derive(Debug, Clone, Copy)]
pub struct StepContext<'a> {
    /// Operation that the step belongs to.
    pub operation: OperationId,
    /// Number of the step in the operation's plan.
    pub number: i32,
    /// Step that is checked and carried out.
    pub step: &'a Step,
    /// Progress of the step, summed up from its step events.
    pub progress: &'a Progress,
    /// Time of the check.
    pub now: Timestamp,
    /// Restarts that a [`Step::Converge`] has added to its wave or to an earlier one, in the order in
    /// which they were added; for a [`Step::Soak`] those of the wave before it. Empty for other
    /// steps.
    pub restarts: &'a [(&'a Step, &'a Progress)],
    /// Restart stamps from before the upgrade, which a rollback restores.
    pub former_stamps: &'a BTreeMap<WorkloadKey, Option<String>>,
    /// Search with which the same plan has proved that the revision is unused which this step
    /// removes. The proof does not outlive its look, so the search is repeated before the removal: a
    /// pause may lie in between.
    pub unused_proof: Option<UserSearch<'a>>,
}

impl StepContext<'_> {
    /// Returns the value that a restart writes. The value derives from the operation, so writing it
    /// twice restarts once. `attempt` rises only when a person asks for a retry.
    pub fn restart_stamp(&self, stamp: &Stamp) -> Option<String> {
        match stamp {
            Stamp::Evict => None,
            // A retry has to restart the workload again, whichever stamp is the final one.
            Stamp::Former { value } if self.progress.attempt == 0 => value.clone(),
            Stamp::Fresh | Stamp::Former { .. } => Some(format!(
                "{}/{}/{}",
                self.operation, self.number, self.progress.attempt
            )),
        }
    }

    /// Checks the target and classifies its state.
    ///
    /// # Errors
    /// Returns an error when the cluster cannot be read.
    pub async fn check(&self, world: &dyn MeshClusters) -> Result<StepCheck, ClusterError> {
        match self.step {
            Step::Set { target, from, to } => {
                let found = set::check(self, world, target, from, to).await?;
                if let (StepCheck::Ready { .. }, Some(search)) = (&found, &self.unused_proof) {
                    let used = unused::check_unused(world, search).await?;
                    return Ok(if used == StepCheck::Done { found } else { used });
                }
                Ok(found)
            }
            Step::Restart {
                member,
                workload,
                wanted,
                stamp,
            } => restart::check(self, world, member, workload, (wanted, stamp)).await,
            Step::Evict {
                member,
                namespace,
                pod,
            } => eviction::check_pod(world, member, namespace, pod).await,
            Step::Converge {
                off,
                outdated,
                namespaces,
                selection,
                max_failures,
                evict,
                on_failure,
                limits: _,
            } => {
                let goal = Goal {
                    off: off.as_ref(),
                    outdated: *outdated,
                    // A rollback has to end, so it evicts such pods without being asked.
                    evict: *evict || !*outdated,
                    max_failures: *max_failures,
                    failures: self.count_failures(),
                };
                let scope = converge::Scope {
                    namespaces: namespaces.as_deref(),
                    selection: selection.as_ref(),
                    on_failure: *on_failure,
                };
                converge::check(self, world, &goal, &scope).await
            }
            Step::Soak { seconds } => Ok(soak::check(self, *seconds)),
            Step::Probe {
                member,
                asks,
                wanted,
            } => Ok(match world.probe_injection(member, asks, wanted).await? {
                Ok(()) => StepCheck::Done,
                // The API server's own admission sees a webhook configuration a moment after the
                // write.
                Err(reason) => StepCheck::Waiting(reason),
            }),
            Step::AwaitReady { revision, members } => Ok(check_from_readiness(
                world.check_readiness(revision, members).await?,
            )),
            Step::AwaitUnused { .. } => {
                let search = user_search(self.step).expect("the step waits for users");
                unused::check_unused(world, &search).await
            }
            Step::AwaitGone { member } => {
                let left = world.list_remaining_objects(member).await?;
                Ok(if left.is_empty() {
                    StepCheck::Done
                } else {
                    StepCheck::Waiting(format!("still there: {}", summarize_list(&left)))
                })
            }
            Step::LeaveBehind { member } => unused::check_still_lost(world, member).await,
        }
    }

    /// Writes the target once. Only a step whose check returned `Ready` is written.
    ///
    /// # Errors
    /// Returns the same errors as [`MeshClusters::write_target`].
    pub async fn act(
        &self,
        world: &dyn MeshClusters,
        seen: &ObjectVersion,
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        match self.step {
            Step::Set { target, to, .. } => {
                world
                    .write_target(target, to.as_deref(), seen, permit)
                    .await
            }
            Step::Evict {
                member, namespace, ..
            } => world.evict_pod(member, namespace, seen, permit).await,
            Step::Restart {
                member,
                workload,
                stamp: Stamp::Evict,
                ..
            } => {
                let namespace = &workload.namespace;
                world.evict_pod(member, namespace, seen, permit).await
            }
            Step::Restart { stamp, .. } => {
                let target = self
                    .step
                    .written_target()
                    .expect("a restart writes a workload");
                world
                    .write_target(&target, self.restart_stamp(stamp).as_deref(), seen, permit)
                    .await
            }
            Step::Converge { .. }
            | Step::Soak { .. }
            | Step::Probe { .. }
            | Step::AwaitReady { .. }
            | Step::AwaitUnused { .. }
            | Step::AwaitGone { .. }
            | Step::LeaveBehind { .. } => Ok(()),
        }
    }
}

/// Returns the step that restores the capture of a started step, or `None` when the target needs no
/// restoration.
///
/// Custom resource definitions are never restored, because their stored versions have moved on
/// (requirement B7). Restarts are not undone one by one, because the live pods show which workloads
/// have the wrong sidecar. Limits are valid for both revisions.
pub fn undo(step: &Step, capture: &Option<String>) -> Option<Step> {
    match step {
        Step::Set {
            target:
                Target::Crds { .. }
                | Target::Limits
                | Target::Certificates { .. }
                | Target::Workload { .. },
            ..
        } => None,
        Step::Set { target, to, .. } if to != capture => Some(Step::Set {
            target: target.clone(),
            from: to.clone(),
            to: capture.clone(),
        }),
        _ => None,
    }
}

/// Returns the revision that a step removes, if it removes a part of one.
pub fn removed_revision(step: &Step) -> Option<&RevisionName> {
    match step {
        Step::Set {
            target:
                Target::ControlPlane { revision }
                | Target::MemberObjects { revision, .. }
                | Target::Address { revision },
            to: None,
            ..
        } => Some(revision),
        _ => None,
    }
}

/// Returns the search that a step makes which waits until a revision is unused.
pub fn user_search(step: &Step) -> Option<UserSearch<'_>> {
    match step {
        Step::AwaitUnused {
            revision,
            left_behind,
            own_tags,
        } => Some(UserSearch {
            revision,
            left_behind,
            own_tags: *own_tags,
            members_only: false,
        }),
        _ => None,
    }
}

/// Returns true for a step whose first effect cannot be undone.
pub fn is_irrevocable(step: &Step) -> bool {
    removed_revision(step).is_some()
}

/// Turns the readiness of a target into the result of a check.
fn check_from_readiness(settled: Readiness) -> StepCheck {
    match settled {
        Readiness::Ready => StepCheck::Done,
        Readiness::Pending(reason) => StepCheck::Waiting(reason),
        Readiness::Failing(problem) => StepCheck::Blocked(problem),
    }
}

/// Returns the first entries of a list, and the number of the remaining ones.
pub(crate) fn summarize_list(list: &[String]) -> String {
    /// Maximum number of entries that are listed before the rest is only counted.
    const MAX_LISTED: usize = 5;
    let shown = list
        .iter()
        .take(MAX_LISTED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if list.len() > MAX_LISTED {
        format!("{shown} and {} more", list.len() - MAX_LISTED)
    } else {
        shown
    }
}

#[cfg(test)]
mod tests;
