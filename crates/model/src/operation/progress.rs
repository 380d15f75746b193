//! Defines the events of a plan's steps, and the progress that they add up to.

use serde::{Deserialize, Serialize};

use super::Problem;
use crate::closed_set;

/// Event of a step, in the order of recording. Events are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum StepEvent {
    /// Recorded before the first write of the step. It holds the value found in the cluster, which
    /// an undo restores. If the step is started more than once, the first capture counts.
    Started {
        /// Value of the target that was found; `None` if it was absent.
        capture: Option<String>,
    },
    /// A check saw the goal of the step.
    Done,
    /// The step cannot go on by itself.
    Failed {
        /// Reason for the failure, with a hint for the user.
        problem: Problem,
    },
    /// A person asked to try again after a failure or an exclusion.
    Retried,
    /// No restart of ours can replace the workload's pods now, so nothing was written.
    Excluded {
        /// Reason for the exclusion, with a hint for the user.
        problem: Problem,
    },
    /// A person decided to go on without the step.
    Skipped,
}

/// Name of a step's state, which [`Progress::state`] computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepState {
    /// The step has written nothing yet.
    Pending,
    /// The step has recorded its capture, so its write may have been made.
    Started,
    /// A check saw the goal of the step.
    Done,
    /// The step cannot go on by itself.
    Failed,
    /// No restart of ours can replace the workload's pods, so the step writes nothing.
    Excluded,
    /// A person decided to go on without the step.
    Skipped,
}

closed_set!(StepState {
    Pending = "pending",
    Started = "started",
    Done = "done",
    Failed = "failed",
    Excluded = "excluded",
    Skipped = "skipped",
});

/// Progress of one step, computed from its events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// First capture; the outer `None` means that the step was not started, the inner `None` that
    /// the target was absent.
    pub capture: Option<Option<String>>,
    /// True once the step has begun since the last retry. A step that is tried again begins again,
    /// because it writes again.
    pub begun: bool,
    /// True once a check saw the goal.
    pub done: bool,
    /// Problem that stops the step; `None` after a retry or after the end.
    pub failed: Option<Problem>,
    /// Reason why the step writes nothing; `None` for a step that was not excluded.
    pub excluded: Option<Problem>,
    /// True once a person decided to go on without the step.
    pub skipped: bool,
    /// Number of times that a person asked to try again; part of the restart stamp.
    pub attempt: u32,
}

impl Progress {
    /// Applies one more event.
    pub fn apply_event(&mut self, fact: &StepEvent) {
        match fact {
            StepEvent::Started { capture } => {
                self.capture.get_or_insert_with(|| capture.clone());
                self.begun = true;
            }
            StepEvent::Done => {
                self.done = true;
                self.failed = None;
            }
            StepEvent::Failed { problem } => self.failed = Some(problem.clone()),
            StepEvent::Retried => {
                self.failed = None;
                self.excluded = None;
                self.begun = false;
                self.attempt += 1;
            }
            StepEvent::Excluded { problem } => self.excluded = Some(problem.clone()),
            StepEvent::Skipped => {
                self.failed = None;
                self.skipped = true;
            }
        }
    }

    /// Returns the state of the step.
    pub fn state(&self) -> StepState {
        match (self.done, self.failed.is_some(), self.is_started()) {
            (true, ..) => StepState::Done,
            _ if self.skipped => StepState::Skipped,
            _ if self.excluded.is_some() => StepState::Excluded,
            (_, true, _) => StepState::Failed,
            (_, _, true) => StepState::Started,
            _ => StepState::Pending,
        }
    }

    /// Returns true if no more work follows on the step: it is done, excluded or skipped.
    pub fn is_closed(&self) -> bool {
        self.done || self.skipped || self.excluded.is_some()
    }

    /// Returns true for a restart that was not begun because too many others have failed.
    pub fn is_held_back(&self) -> bool {
        let excluded = self.excluded.as_ref();
        excluded.is_some_and(Problem::is_partial_rollout)
    }

    /// Returns true once the step has recorded its capture. From then on, its write may have been
    /// made.
    pub fn is_started(&self) -> bool {
        self.capture.is_some()
    }
}
