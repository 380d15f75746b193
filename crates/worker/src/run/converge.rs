//! Keeps a roll-out going while single workloads cannot be restarted: chooses the steps of a round,
//! adds the restarts that a look found, and lets a failed restart stand aside.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use meshwright_model::Name;
use meshwright_model::operation::{OperationKind, Problem, Progress, StepEvent};
use meshwright_model::plan::{Step, Target};
use meshwright_model::problem::ProblemCode;
use meshwright_model::rollout::RestartLimits;
use meshwright_rollout::converge::NewRestart;
use meshwright_rollout::step::{StepContext, removed_revision, user_search};
use meshwright_store::{NewStep, PlannedStep, StoreError};

use super::Run;

/// Time between two looks for further workloads while restarts are under way. New pods of a
/// workload may need a restart long before the slowest one is done.
const LOOK_INTERVAL_DURING_RESTARTS: SignedDuration = SignedDuration::from_secs(30);

impl Run<'_> {
    /// Returns the steps to check in this round: the search for workloads, then the steps in
    /// progress, then new ones up to the limits of the wave. A deferred restart may wait for hours,
    /// so it takes the place of no other one.
    pub(super) fn steps_to_check(&self) -> Vec<usize> {
        let open = |item: &&PlannedStep| !self.is_closed(item);
        let Some(wave) = self.steps.iter().filter(open).map(|item| item.wave).min() else {
            return Vec::new();
        };
        let width = self
            .operation
            .waves
            .as_ref()
            .and_then(|waves| waves.get(wave))
            .map_or(usize::MAX, |head| head.width);
        let (looks, mut chosen): (Vec<usize>, Vec<usize>) = (0..self.steps.len())
            .filter(|index| self.steps[*index].wave == wave && !self.is_closed(&self.steps[*index]))
            .partition(|index| is_converge(&self.steps[*index].step));
        chosen.sort_by_key(|index| {
            let item = &self.steps[*index];
            (!item.progress.is_started(), self.is_deferred(item))
        });
        let limits = self.restart_limits(&looks);
        looks
            .into_iter()
            .chain(self.within_limits(chosen, width, limits))
            .collect()
    }

    /// Returns the limits of the search for workloads among these steps; no limits without one.
    fn restart_limits(&self, looks: &[usize]) -> RestartLimits {
        let limits = looks
            .iter()
            .find_map(|index| match &self.steps[*index].step {
                Step::Converge { limits, .. } => Some(*limits),
                _ => None,
            });
        limits.unwrap_or_default()
    }

    /// Takes the first steps of which no cluster and no namespace has more than its limit.
    fn within_limits(&self, chosen: Vec<usize>, width: usize, limits: RestartLimits) -> Vec<usize> {
        let (mut by_cluster, mut by_namespace) = (BTreeMap::new(), BTreeMap::new());
        let fits = |index: &usize| {
            let Some((member, namespace)) = place_of_pods(&self.steps[*index].step) else {
                return true;
            };
            let in_cluster: &mut u32 = by_cluster.entry(member.clone()).or_default();
            let in_namespace: &mut u32 = by_namespace
                .entry((member.clone(), namespace.to_owned()))
                .or_default();
            let full = |count: u32, limit: Option<u32>| limit.is_some_and(|limit| count >= limit);
            if full(*in_cluster, limits.max_concurrent_per_cluster)
                || full(*in_namespace, limits.max_concurrent_per_namespace)
            {
                return false;
            }
            *in_cluster += 1;
            *in_namespace += 1;
            true
        };
        chosen.into_iter().filter(fits).take(width).collect()
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
    pub(super) fn belongs_to_search(&self, item: &PlannedStep) -> bool {
        self.steps
            .iter()
            .any(|other| other.wave == item.wave && is_converge(&other.step))
    }

    /// Returns the event with which a step stands aside because of a problem, or `None` if the
    /// problem stops the operation. A cluster that is silent stops it, because both revisions must
    /// be kept for that cluster.
    pub(super) fn stand_aside(&self, item: &PlannedStep, problem: &Problem) -> Option<StepEvent> {
        let problem = problem.clone();
        // The label belongs to the users. A value that another party has set meanwhile is theirs.
        let moves = matches!(
            self.operation.kind,
            OperationKind::Roll | OperationKind::Rollback
        );
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

    /// Returns the minimum time between two checks of a step. `in_use` is true if the last one has
    /// found users of a revision.
    pub(super) fn min_check_interval(&self, item: &PlannedStep, in_use: bool) -> SignedDuration {
        let timeouts = &self.engine.settings.timeouts;
        let configured = timeouts.min_check_interval(&item.step, in_use);
        if is_converge(&item.step) && self.has_open_restart(item.wave) {
            configured.max(LOOK_INTERVAL_DURING_RESTARTS)
        } else {
            configured
        }
    }

    /// Returns true while a restart of the wave is to be begun or under way.
    pub(super) fn has_open_restart(&self, wave: usize) -> bool {
        self.steps.iter().any(|item| {
            item.wave == wave && matches!(item.step, Step::Restart { .. }) && !self.is_closed(item)
        })
    }

    /// Holds back the restarts of a wave which have not begun, if too many others have failed. After
    /// a retry, a look adds them again.
    pub(super) async fn hold_back_restarts(&mut self) -> Result<(), StoreError> {
        let events = self.restarts_to_hold_back();
        if events.is_empty() {
            return Ok(());
        }
        let waits = self.waiting_for.clone();
        self.record_intent(events, Vec::new(), &[], waits).await
    }

    fn restarts_to_hold_back(&self) -> Vec<(i32, StepEvent)> {
        let mut events = Vec::new();
        for search in self.steps.iter().filter(|item| !self.is_closed(item)) {
            let Step::Converge { max_failures, .. } = &search.step else {
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
            let waiting =
                |item: &&PlannedStep| !item.progress.is_started() && !self.is_closed(item);
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

    /// Builds the steps for restarts that a look found, and the events of those that are excluded.
    pub(super) fn number_restarts(
        &self,
        wave: usize,
        found: Vec<NewRestart>,
    ) -> (Vec<NewStep>, Vec<(i32, StepEvent)>) {
        let first = self.steps.iter().map(|item| item.number + 1).max();
        let wave = i32::try_from(wave).expect("a plan has few waves");
        let (mut steps, mut events) = (Vec::new(), Vec::new());
        for (number, restart) in (first.unwrap_or(0)..).zip(found) {
            if let Some(problem) = restart.excluded {
                events.push((number, StepEvent::Excluded { problem }));
            }
            steps.push(NewStep {
                number,
                wave,
                step: restart.step,
            });
        }
        (steps, events)
    }

    /// Takes steps that were recorded into the plan of this claim.
    pub(super) fn extend_plan(&mut self, added: &[NewStep]) {
        self.steps.extend(added.iter().map(|new| PlannedStep {
            number: new.number,
            wave: usize::try_from(new.wave).expect("waves are counted from 0"),
            step: new.step.clone(),
            progress: Progress::default(),
        }));
    }

    /// Returns the restarts that a search for workloads has added to its wave and to earlier ones,
    /// and for a soak those of the wave before it; empty for other steps.
    pub(super) fn restarts_before(&self, item: &PlannedStep) -> Vec<(&Step, &Progress)> {
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

    /// Returns the context that the checks and writes of a step need.
    pub(super) fn step_context<'a>(
        &'a self,
        item: &'a PlannedStep,
        restarts: &'a [(&'a Step, &'a Progress)],
    ) -> StepContext<'a> {
        let unused_proof = removed_revision(&item.step).and_then(|removed| {
            let mut searches = self
                .steps
                .iter()
                .filter_map(|other| user_search(&other.step));
            searches.find(|search| search.revision == removed)
        });
        StepContext {
            operation: self.claim.operation,
            number: item.number,
            step: &item.step,
            progress: &item.progress,
            now: self.now(),
            restarts,
            former_stamps: &self.former_stamps,
            unused_proof,
        }
    }
}

/// Returns true for the steps that a search for workloads adds to its wave.
fn replaces_pods(step: &Step) -> bool {
    matches!(step, Step::Restart { .. } | Step::Evict { .. })
}

/// Returns the cluster and the namespace whose pods a step replaces.
fn place_of_pods(step: &Step) -> Option<(&Name, &str)> {
    match step {
        Step::Restart {
            member, workload, ..
        } => Some((member, &workload.namespace)),
        Step::Evict {
            member, namespace, ..
        } => Some((member, namespace)),
        _ => None,
    }
}

fn is_converge(step: &Step) -> bool {
    matches!(step, Step::Converge { .. })
}
