//! Decides one round of an operation in pure functions: the steps to check, the meaning of the
//! checks for the plan, and the end of a stage that has met a problem. The engine does the calls and
//! the records around them.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use meshwright_model::ids::OperationId;
use meshwright_model::operation::{OperationKind, Problem, Progress, StepEvent};
use meshwright_model::plan::{PlannedStep, Step, Target};
use meshwright_model::problem::ProblemCode;

use crate::converge::WorkloadKey;
use crate::decide::Timeouts;
use crate::step::{StepContext, removed_revision, user_search};

mod actions;
mod limits;
mod samples;
#[cfg(test)]
mod tests;

pub use actions::{RoundActions, StageStop, started_writes};
pub use samples::Samples;

/// Time between two looks for further workloads while restarts are under way. New pods of a
/// workload may need a restart long before the slowest one is done.
const LOOK_INTERVAL_DURING_RESTARTS: SignedDuration = SignedDuration::from_secs(30);

/// Plan of an operation with the progress of its steps, before a round.
#[derive(Debug, Clone, Copy)]
pub struct Round<'a> {
    /// Kind of the operation.
    pub kind: OperationKind,
    /// Steps of the plan in the order of their numbers, with those that a search has added.
    pub steps: &'a [PlannedStep],
}

impl<'a> Round<'a> {
    /// Returns the steps to check in this round: the search for workloads, then the steps in
    /// progress, then new ones up to the limits of the wave. `width` returns the limit of a wave. A
    /// deferred restart may wait for hours, so it takes the place of no other one. A retry may open
    /// an earlier wave again; restarts of later waves that are under way count and go on.
    pub fn steps_to_check(
        &self,
        width: impl FnOnce(usize) -> usize,
        is_deferred: impl Fn(&PlannedStep) -> bool,
    ) -> Vec<usize> {
        let open = |item: &&PlannedStep| !self.is_closed(item);
        let Some(wave) = self.steps.iter().filter(open).map(|item| item.wave).min() else {
            return Vec::new();
        };
        let is_due = |item: &PlannedStep| {
            let under_way = item.progress.begun && replaces_pods(&item.step);
            !self.is_closed(item) && (item.wave == wave || under_way)
        };
        let (looks, mut chosen): (Vec<usize>, Vec<usize>) = (0..self.steps.len())
            .filter(|index| is_due(&self.steps[*index]))
            .partition(|index| is_converge(&self.steps[*index].step));
        chosen.sort_by_key(|index| {
            let item = &self.steps[*index];
            (!item.progress.begun, is_deferred(item))
        });
        let limits = self.restart_limits(wave);
        let chosen = self.within_limits(chosen, width(wave), limits);
        looks.into_iter().chain(chosen).collect()
    }

    /// Returns true for a step on which no more work follows, unless a person asks for it.
    fn is_closed(&self, item: &PlannedStep) -> bool {
        item.progress.is_closed() || (item.progress.failed.is_some() && self.may_stand_aside(item))
    }

    /// Returns true for a step whose failure must not stop the others: a restart in a wave that
    /// looks for workloads again and again. The look names the failed ones at the end.
    fn may_stand_aside(&self, item: &PlannedStep) -> bool {
        replaces_pods(&item.step) && self.belongs_to_search(item)
    }

    /// Returns true for a step that looks for workloads, and for the restarts that it has added.
    fn belongs_to_search(&self, item: &PlannedStep) -> bool {
        self.steps
            .iter()
            .any(|other| other.wave == item.wave && is_converge(&other.step))
    }

    /// Returns the event with which a step stands aside because of a problem, or `None` if the
    /// problem stops the operation. A cluster that is silent stops it, because both revisions must
    /// be kept for that cluster.
    pub fn stand_aside(&self, item: &PlannedStep, problem: &Problem) -> Option<StepEvent> {
        let problem = problem.clone();
        // The label belongs to the users. A value that another party has set meanwhile is theirs.
        let moves = matches!(self.kind, OperationKind::Roll | OperationKind::Rollback);
        let foreign_label = moves
            && matches!(
                item.step,
                Step::Set {
                    target: Target::NamespaceLabel { .. },
                    ..
                }
            )
            && problem.code.known() == Some(ProblemCode::ChangedBySomeoneElse);
        if foreign_label {
            return Some(StepEvent::Excluded { problem });
        }
        (self.may_stand_aside(item) && !problem.is_cluster_lost())
            .then_some(StepEvent::Failed { problem })
    }

    /// Returns the minimum time between two checks of a step. `in_use` is true if the last check has
    /// found users of a revision.
    pub fn min_check_interval(
        &self,
        item: &PlannedStep,
        in_use: bool,
        timeouts: &Timeouts,
    ) -> SignedDuration {
        let configured = timeouts.min_check_interval(&item.step, in_use);
        if is_converge(&item.step) && self.has_open_restart(item.wave) {
            configured.max(LOOK_INTERVAL_DURING_RESTARTS)
        } else {
            configured
        }
    }

    /// Returns true for a search whose restarts are under way. Each of them has its own limit
    /// meanwhile.
    pub fn awaits_restarts(&self, item: &PlannedStep) -> bool {
        is_converge(&item.step) && self.has_open_restart(item.wave)
    }

    /// Returns true while a restart of the wave is to be begun or under way.
    fn has_open_restart(&self, wave: usize) -> bool {
        self.steps.iter().any(|item| {
            item.wave == wave && matches!(item.step, Step::Restart { .. }) && !self.is_closed(item)
        })
    }

    /// Returns the events that hold back the restarts of a wave which have not begun, if too many
    /// others have failed. After a retry, a look adds them again.
    pub fn restarts_to_hold_back(&self) -> Vec<(i32, StepEvent)> {
        let mut events = Vec::new();
        for search in self.steps.iter().filter(|item| !self.is_closed(item)) {
            let Step::Converge {
                max_failures,
                outdated,
                ..
            } = &search.step
            else {
                continue;
            };
            let beside = |item: &&PlannedStep| {
                item.wave == search.wave && matches!(item.step, Step::Restart { .. })
            };
            // Failures of earlier waves count too.
            let failed = |item: &&PlannedStep| {
                replaces_pods(&item.step)
                    && item.wave <= search.wave
                    && item.progress.failed.is_some()
                    && !item.progress.is_closed()
            };
            let failures = self.steps.iter().filter(failed).count();
            if failures < *max_failures {
                continue;
            }
            let problem = Problem::new(
                ProblemCode::RolloutPartial,
                format!("The restart was not begun, because {failures} others have failed."),
                "Solve what the others complain about, then retry.",
            );
            // A rollback evicts the pods of a failed restart, so the failure must not hold that back.
            let waiting = |item: &&PlannedStep| {
                !item.progress.begun
                    && !self.is_closed(item)
                    && (*outdated || !item.step.evicts_pods())
            };
            events.extend(
                self.steps
                    .iter()
                    .filter(beside)
                    .filter(waiting)
                    .map(|item| {
                        let problem = problem.clone();
                        (item.number, StepEvent::Excluded { problem })
                    }),
            );
        }
        events
    }

    /// Returns the restarts that a search for workloads has added to its wave and to earlier ones,
    /// and for a soak those of the wave before it; empty for other steps.
    pub fn restarts_before(&self, item: &PlannedStep) -> Vec<(&'a Step, &'a Progress)> {
        let before = |other: &&PlannedStep| {
            let belongs = match item.step {
                Step::Converge { .. } => other.wave <= item.wave,
                Step::Soak { .. } => other.wave + 1 == item.wave,
                _ => false,
            };
            belongs && replaces_pods(&other.step)
        };
        self.steps
            .iter()
            .filter(before)
            .map(|other| (&other.step, &other.progress))
            .collect()
    }

    /// Returns the context that the checks and writes of a step of this operation need.
    pub fn step_context(
        &self,
        (operation, now): (OperationId, Timestamp),
        item: &'a PlannedStep,
        restarts: &'a [(&'a Step, &'a Progress)],
        former_stamps: &'a BTreeMap<WorkloadKey, Option<String>>,
    ) -> StepContext<'a> {
        let unused_proof = removed_revision(&item.step).and_then(|removed| {
            let mut searches = self
                .steps
                .iter()
                .filter_map(|other| user_search(&other.step));
            searches.find(|search| search.revision == removed)
        });
        StepContext {
            operation,
            number: item.number,
            step: &item.step,
            progress: &item.progress,
            now,
            restarts,
            former_stamps,
            unused_proof,
        }
    }

    /// Returns the numbers of the steps that a retry lets try again: those that failed, and the
    /// labels that were left to another party. Restarts get a new stamp, because the attempt is part
    /// of it.
    pub fn steps_to_retry(&self) -> Vec<i32> {
        let retried = |item: &&PlannedStep| {
            let excluded = item.progress.excluded.is_some();
            item.progress.failed.is_some() || (excluded && matches!(item.step, Step::Set { .. }))
        };
        self.steps
            .iter()
            .filter(retried)
            .map(|item| item.number)
            .collect()
    }

    /// Returns the events of a skip. The steps of a search that failed, and the workloads that no
    /// restart of ours can replace, are left. The search ends with them, unless it has held back
    /// others: these can be restarted, so the search goes on with them.
    pub fn events_of_skip(&self) -> Vec<(i32, StepEvent)> {
        let held_back = |wave: usize| {
            self.steps
                .iter()
                .any(|item| item.wave == wave && item.progress.is_held_back())
        };
        let event = |item: &PlannedStep| {
            let search_goes_on = is_converge(&item.step) && held_back(item.wave);
            let event = if search_goes_on {
                StepEvent::Retried
            } else {
                StepEvent::Skipped
            };
            (item.number, event)
        };
        self.steps
            .iter()
            .filter(|item| self.belongs_to_search(item) && !item.progress.is_held_back())
            .filter(|item| item.progress.failed.is_some() || item.progress.excluded.is_some())
            .map(event)
            .collect()
    }
}

/// Returns true for the steps that a search for workloads adds to its wave.
fn replaces_pods(step: &Step) -> bool {
    matches!(step, Step::Restart { .. } | Step::Evict { .. })
}

fn is_converge(step: &Step) -> bool {
    matches!(step, Step::Converge { .. })
}
