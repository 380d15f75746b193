//! Sorts the decisions of one round by what the engine has to do about them.

use jiff::Timestamp;
use meshwright_model::operation::{OperationKind, Problem, Progress, StepEvent};
use meshwright_model::plan::{PlannedStep, Step, Target};
use meshwright_model::problem::ProblemCode;

use super::Round;
use crate::converge::NewRestart;
use crate::decide::Decision;
use crate::ports::ObjectVersion;

/// Work that follows from the decisions of one round. Steps are named by their index in the plan.
#[derive(Debug, Default)]
pub struct RoundActions {
    /// Events to record, each with the number of its step.
    pub events: Vec<(i32, StepEvent)>,
    /// Steps to write, each with the capture to record first and the version that was checked.
    pub writes: Vec<(usize, Option<String>, ObjectVersion)>,
    /// Steps at their goal.
    pub at_goal: Vec<usize>,
    /// Steps that stop the operation, each with its problem.
    pub blocked: Vec<(usize, Problem)>,
    /// Reason why the first waiting step waits.
    pub waits: Option<String>,
    /// Time at which a step can go on, with the reason of the wait.
    pub later: Option<(String, Timestamp)>,
    /// Steps to add to the plan.
    pub added: Vec<PlannedStep>,
    /// Events of the added steps, to be recorded only together with these steps.
    pub added_events: Vec<(i32, StepEvent)>,
}

/// Way in which a problem stops a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StageStop {
    /// The operation pauses, and a person has to act.
    Pause(Problem),
    /// The operation ends, and what it has written is restored at once.
    Fail(Problem),
}

impl Round<'_> {
    /// Sorts the decisions for the checked steps. Returns `None` if the lease may have ended.
    pub fn sort_decisions(&self, decisions: Vec<(usize, Decision)>) -> Option<RoundActions> {
        let mut actions = RoundActions::default();
        for (index, decision) in decisions {
            let item = &self.steps[index];
            match decision {
                Decision::Done => actions.at_goal.push(index),
                Decision::Act { capture, version } => {
                    actions.writes.push((index, capture, version));
                }
                Decision::Wait(reason) => {
                    let name = || format!("{}: {reason}", item.step);
                    actions.waits.get_or_insert_with(name);
                }
                Decision::WaitUntil { reason, until } => {
                    actions.waits.get_or_insert_with(|| reason.clone());
                    actions.later = Some((reason, until));
                }
                Decision::AddRestarts(restarts) => {
                    (actions.added, actions.added_events) =
                        self.number_restarts(item.wave, restarts);
                }
                Decision::Pause(problem) => {
                    if let Some(event) = self.stand_aside(item, &problem) {
                        actions.events.push((item.number, event));
                        continue;
                    }
                    let event = StepEvent::Failed {
                        problem: problem.clone(),
                    };
                    actions.events.push((item.number, event));
                    actions.blocked.push((index, problem));
                }
                Decision::Stop => return None,
            }
        }
        Some(actions)
    }

    /// Builds the steps for restarts that a look found, and the events of those that are excluded.
    fn number_restarts(
        &self,
        wave: usize,
        found: Vec<NewRestart>,
    ) -> (Vec<PlannedStep>, Vec<(i32, StepEvent)>) {
        let first = self.steps.iter().map(|item| item.number + 1).max();
        let (mut steps, mut events) = (Vec::new(), Vec::new());
        for (number, restart) in (first.unwrap_or(0)..).zip(found) {
            if let Some(problem) = restart.excluded {
                events.push((number, StepEvent::Excluded { problem }));
            }
            steps.push(PlannedStep {
                number,
                wave,
                step: restart.step,
                progress: Progress::default(),
            });
        }
        (steps, events)
    }

    /// Merges the problems of the steps that are blocked in one round, in the order of the steps.
    /// The result is the problem of the first step; its message also counts and names the other
    /// steps, so that a person who solves the first one knows of them.
    pub fn merge_problems(&self, blocked: Vec<(usize, Problem)>) -> Option<Problem> {
        /// Maximum number of other steps that are named before the rest is only counted.
        const MAX_NAMED: usize = 3;
        let mut blocked = blocked.into_iter();
        let (_, first) = blocked.next()?;
        let others: Vec<String> = blocked
            .map(|(index, _)| self.steps[index].step.to_string())
            .collect();
        let count = others.len();
        if count == 0 {
            return Some(first);
        }
        let verb = if count == 1 { "step is" } else { "steps are" };
        let mut named = others[..count.min(MAX_NAMED)].join("; ");
        if count > MAX_NAMED {
            named = format!("{named}; and {} more", count - MAX_NAMED);
        }
        let message = format!(
            "{} And {count} more {verb} blocked: {named}.",
            first.message
        );
        Some(Problem { message, ..first })
    }

    /// Decides how a problem stops the stage. A promotion that stops between its first tag and its
    /// last leaves members on different revisions. If every cluster answers, the written tags are
    /// restored at once. If a cluster is silent, the operation is paused and both revisions stay
    /// protected until a person decides.
    pub fn stop_for(&self, problem: Problem) -> StageStop {
        let tags = || {
            self.steps.iter().filter(|item| {
                matches!(
                    item.step,
                    Step::Set {
                        target: Target::Tag { .. },
                        ..
                    }
                )
            })
        };
        let moved =
            self.kind == OperationKind::Promote && tags().any(|item| item.progress.is_started());
        if !moved {
            return StageStop::Pause(problem);
        }
        if !problem.is_unreachable() {
            return StageStop::Fail(problem);
        }
        if tags().all(|item| item.progress.done) {
            return StageStop::Pause(problem);
        }
        StageStop::Pause(tag_split_problem(&problem))
    }
}

/// Builds the problem of a promotion that a silent cluster stops between its tags.
fn tag_split_problem(problem: &Problem) -> Problem {
    let message = format!(
        "Some tags point to the new revision and some to the old one. {}",
        problem.message
    );
    let hint = format!("Both revisions serve and are protected. {}", problem.hint);
    Problem::new(ProblemCode::TagSplit, message, hint)
}

/// Returns the targets of steps that were started and are not done, each with its goal.
pub fn started_writes(steps: &[PlannedStep]) -> impl Iterator<Item = (Target, Option<String>)> {
    steps
        .iter()
        .filter(|item| item.progress.is_started() && !item.progress.done)
        .filter_map(|item| {
            let goal = if let Step::Set { to, .. } = &item.step {
                to.clone()
            } else {
                None
            };
            Some((item.step.written_target()?, goal))
        })
}
