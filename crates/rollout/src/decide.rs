//! Decides what the engine does next with a step: a pure function of the latest check and of how
//! long the step has lasted.

use jiff::{SignedDuration, Timestamp};
use meshwright_model::operation::Problem;
use meshwright_model::plan::{Step, Target};
use meshwright_model::problem::ProblemCode;

use crate::converge::NewRestart;
use crate::ports::{ClusterError, ObjectVersion};
use crate::step::{StepCheck, summarize_list};

/// Limits of one step, after which the operation is paused and a person has to act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Maximum time from the first check of a step to its goal. For the restart of a workload it is
    /// the maximum time without progress: a large `StatefulSet` may take hours.
    pub step: SignedDuration,
    /// Maximum time until a dry run is injected as wanted. The API server needs seconds to call a
    /// webhook that was just written. The shorter of this limit and [`Self::step`] applies.
    pub dry_run: SignedDuration,
    /// Maximum time without an answer from the cluster.
    pub unreachable: SignedDuration,
    /// Number of consecutive checks that must show a revision as unused.
    pub unused_samples: u32,
    /// Minimum time between the first and the last of these checks. Proxies reconnect about every
    /// half hour, so one empty check between two connections proves nothing.
    pub unused_min_span: SignedDuration,
    /// Time between two checks of a revision's usage, or of the workloads that a roll-out moves. The
    /// interval limits the load, because each check lists all workloads and pods of every member.
    pub unused_check_interval: SignedDuration,
    /// Minimum time for which only workloads are left that cannot be restarted, before the operation
    /// pauses for a person. Pods have half a minute to end, and a namespace that is being deleted
    /// refuses new pods.
    pub partial_min_span: SignedDuration,
}

impl Timeouts {
    /// Returns the maximum time from the first check of this step to its goal.
    fn for_step(&self, step: &Step) -> SignedDuration {
        if matches!(step, Step::Probe { .. }) {
            self.dry_run.min(self.step)
        } else {
            self.step
        }
    }
}

impl Timeouts {
    /// Returns the minimum time between two checks of a step. `in_use` is true if the last check has
    /// found users of a revision. The removal of a revision searches for them before its write, and
    /// other checks of it cost one call.
    pub fn min_check_interval(&self, step: &Step, in_use: bool) -> SignedDuration {
        match step {
            _ if in_use => self.unused_check_interval,
            // A disruption budget may refuse an eviction for minutes.
            step if step.evicts_pods() => self.unused_check_interval,
            Step::Soak { .. } | Step::AwaitUnused { .. } | Step::Converge { .. } => {
                self.unused_check_interval
            }
            _ => SignedDuration::ZERO,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            step: SignedDuration::from_mins(10),
            dry_run: SignedDuration::from_mins(2),
            unreachable: SignedDuration::from_mins(2),
            unused_samples: 3,
            unused_min_span: SignedDuration::from_mins(2),
            unused_check_interval: SignedDuration::from_secs(5),
            partial_min_span: SignedDuration::from_secs(40),
        }
    }
}

/// Times of a step so far, kept by the worker that runs the step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepTiming {
    /// Time since the first check of the step, or since it last made progress.
    pub waited: SignedDuration,
    /// Time since the cluster last answered.
    pub silent: SignedDuration,
    /// Number of consecutive checks that showed the goal, and the time since the first of them.
    pub goal_seen: (u32, SignedDuration),
    /// Number of consecutive checks that left only workloads which cannot be restarted, and the time
    /// since the first of them.
    pub partial_seen: (u32, SignedDuration),
    /// Number of consecutive checks that added evictions although no fewer pods were left than
    /// before.
    pub vain_evictions: u32,
    /// Reason why the cluster did not allow the last write, if it may allow it later.
    pub delayed: Option<String>,
}

/// Number of consecutive checks after which a roll-out counts as partial.
const PARTIAL_SAMPLES: u32 = 2;

/// Number of rounds of evictions after which pods count as coming back with the same sidecar.
const MAX_VAIN_EVICTIONS: u32 = 5;

/// Next action of the engine for a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Record the step as done.
    Done,
    /// Commit the capture to the database, then write.
    Act {
        /// Value that an undo restores; `None` if the target is absent.
        capture: Option<String>,
        /// Version of the target that was checked.
        version: ObjectVersion,
    },
    /// Check again later, for this reason.
    Wait(String),
    /// Check again at this time, for this reason.
    WaitUntil {
        /// Reason for the wait, in words for the user.
        reason: String,
        /// Time of the next check.
        until: Timestamp,
    },
    /// Add these restarts to the plan.
    AddRestarts(Vec<NewRestart>),
    /// Pause the operation with this problem, because a person has to act.
    Pause(Problem),
    /// Stop without a further write, because the lease may have ended.
    Stop,
}

/// Decides the next action for one step from its latest check, its times and the limits.
pub fn decide(
    step: &Step,
    looked: Result<StepCheck, ClusterError>,
    run: &StepTiming,
    patience: &Timeouts,
) -> Decision {
    match looked {
        Ok(StepCheck::Done)
            if matches!(step, Step::AwaitUnused { .. }) && !is_proven_unused(run, patience) =>
        {
            Decision::Wait("no use seen so far; looking several times before it counts".into())
        }
        Ok(StepCheck::Done) => Decision::Done,
        Ok(StepCheck::Ready { .. }) if run.waited > patience.for_step(step) => {
            let reason = run.delayed.as_deref();
            let reason = reason.unwrap_or("what is pushed does not come true");
            Decision::Pause(timeout_problem(step, reason))
        }
        Ok(StepCheck::Ready {
            capture,
            version: mark,
        }) => Decision::Act {
            capture,
            version: mark,
        },
        // A replacement that makes no progress may need this write as its repair.
        Ok(StepCheck::Deferred {
            capture, version, ..
        }) if run.waited > patience.for_step(step) => Decision::Act { capture, version },
        Ok(StepCheck::Blocked(problem)) => Decision::Pause(problem),
        Ok(StepCheck::WaitUntil { reason, until }) => Decision::WaitUntil { reason, until },
        Ok(StepCheck::Evictions { left, .. }) if run.vain_evictions > MAX_VAIN_EVICTIONS => {
            Decision::Pause(vain_eviction_problem(&left))
        }
        Ok(StepCheck::Restarts(added) | StepCheck::Evictions { added, .. }) => {
            Decision::AddRestarts(added)
        }
        // A pod that is just ending, or a short refusal, must not pause a whole roll-out.
        Ok(StepCheck::Partial { problem, goes_on }) => {
            let (samples, over) = run.partial_seen;
            if samples < PARTIAL_SAMPLES || over < patience.partial_min_span {
                Decision::Wait(problem.message)
            } else if goes_on {
                Decision::Done
            } else {
                Decision::Pause(problem)
            }
        }
        Ok(StepCheck::InUse(users)) if run.waited > patience.for_step(step) => {
            Decision::Pause(in_use_problem(step, &users))
        }
        Ok(StepCheck::Waiting(reason) | StepCheck::Replacing { reason, .. })
            if run.waited > patience.for_step(step) =>
        {
            Decision::Pause(timeout_problem(step, &reason))
        }
        Ok(
            StepCheck::InUse(reason)
            | StepCheck::Waiting(reason)
            | StepCheck::Deferred { reason, .. }
            | StepCheck::Replacing { reason, .. },
        ) => Decision::Wait(reason),
        Err(ClusterError::Changed { place }) => wait_after_change(&place),
        Err(ClusterError::Delayed { place, cause }) => Decision::Wait(format!("{place}: {cause}")),
        Err(ClusterError::Unreachable { place, code, cause })
            if run.silent > patience.unreachable =>
        {
            Decision::Pause(unreachable_problem(code, &place, &cause))
        }
        Err(ClusterError::Unreachable { place, .. }) => {
            Decision::Wait(format!("{place} does not answer"))
        }
        Err(ClusterError::Refused { place, code, cause }) => Decision::Pause(Problem::new(
            code,
            format!("{place} refused: {cause}."),
            "Put right what it complains about, then retry, or roll back.",
        )),
        Err(ClusterError::Expired) => Decision::Stop,
    }
}

/// Decides the next action after the observation for a plan or for a precheck has failed. `silent`
/// is the time since a cluster last answered.
pub fn decide_after_planning_failure(
    error: &ClusterError,
    silent: SignedDuration,
    patience: &Timeouts,
) -> Decision {
    let hint = match error {
        ClusterError::Changed { place } => return wait_after_change(place),
        ClusterError::Delayed { .. } => return Decision::Wait(error.to_string()),
        ClusterError::Expired => return Decision::Stop,
        ClusterError::Unreachable { .. } if silent <= patience.unreachable => {
            return Decision::Wait(error.to_string());
        }
        error if error.is_lost() => {
            "Bring the cluster back or renew its credential, then retry. Nothing was changed by this stage."
        }
        _ => "Put right what it complains about, then retry. Nothing was changed by this stage.",
    };
    let problem = error.to_problem(hint);
    Decision::Pause(Problem {
        message: format!("No plan could be made: {}", problem.message),
        ..problem
    })
}

/// Waits for the next check after a target has changed between the check and the write.
fn wait_after_change(place: &str) -> Decision {
    Decision::Wait(format!("{place} changed in between; looking again"))
}

/// Returns true when enough checks over a long enough time have shown a revision as unused.
fn is_proven_unused(run: &StepTiming, patience: &Timeouts) -> bool {
    let (samples, over) = run.goal_seen;
    samples >= patience.unused_samples && over >= patience.unused_min_span
}

/// Builds the problem of a step that exceeded its time limit.
fn timeout_problem(step: &Step, reason: &str) -> Problem {
    let (code, hint) = match step {
        Step::Restart { .. } | Step::Evict { .. } => (
            ProblemCode::WorkloadNotReady,
            "Look at the workload's pods; retry when they can become ready, or roll back.",
        ),
        Step::AwaitReady { .. }
        | Step::Set {
            target: Target::ControlPlane { .. },
            ..
        } => (
            ProblemCode::ControlPlaneNotReady,
            "Look at the message; retry when its cause is gone, or roll back.",
        ),
        Step::Converge { .. } => (
            ProblemCode::RolloutPartial,
            "Look at the workloads that are listed, then retry, skip what is left, or roll back.",
        ),
        Step::AwaitGone { .. } => (
            ProblemCode::StillThere,
            "See what keeps the objects, a finalizer for example; retry when it is gone.",
        ),
        Step::Probe { .. } => (
            ProblemCode::DryRunFailed,
            "Look at the webhooks of the member, then retry, or roll back.",
        ),
        Step::Set { .. }
        | Step::Soak { .. }
        | Step::AwaitUnused { .. }
        | Step::LeaveBehind { .. } => (ProblemCode::StepTimedOut, "Retry, or roll back."),
    };
    give_up_problem(step, reason, code, hint)
}

/// Builds the problem of a revision that is still in use at the time limit of the step that waits
/// for its users, or that removes a part of it.
fn in_use_problem(step: &Step, users: &str) -> Problem {
    let hint = "Restart or remove what is listed, then retry.";
    give_up_problem(step, users, ProblemCode::RevisionInUse, hint)
}

fn give_up_problem(step: &Step, reason: &str, code: ProblemCode, hint: &str) -> Problem {
    let message = format!("Gave up waiting: {step}. Last seen: {reason}.");
    Problem::new(code, message, hint)
}

/// Builds the problem of pods that evictions do not move: what creates them, or a tag that another
/// party has moved, asks for the same revision again.
fn vain_eviction_problem(left: &[String]) -> Problem {
    Problem::new(
        ProblemCode::RolloutPartial,
        format!(
            "Pods were evicted {MAX_VAIN_EVICTIONS} times, and others came back with the same sidecar: {}.",
            summarize_list(left)
        ),
        "Look at the labels of these pods and of their namespace, and at the tags; then retry, or roll back.",
    )
}

/// Builds the problem of a cluster that has not answered for longer than the limit.
fn unreachable_problem(code: ProblemCode, place: &str, cause: &str) -> Problem {
    Problem::new(
        code,
        format!("{place} has not answered for a while ({cause})."),
        "Bring the cluster back or renew its credential, then retry. Both revisions are kept meanwhile.",
    )
}

#[cfg(test)]
mod tests;
