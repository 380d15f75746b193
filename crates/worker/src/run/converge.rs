//! Connects a run with the pure decisions of a round: the steps to check, the restarts to hold back,
//! and the steps that a look has added.

use meshwright_model::operation::{Problem, Progress, StepEvent};
use meshwright_model::plan::{PlannedStep, Step};
use meshwright_rollout::round::{Round, Samples};
use meshwright_rollout::step::StepContext;
use meshwright_store::{NewStep, StoreError};

use super::Run;

impl Run<'_> {
    /// Returns the plan with its progress, from which a round is decided.
    pub(super) fn round(&self) -> Round<'_> {
        Round {
            kind: self.operation.kind,
            steps: &self.steps,
        }
    }

    /// Returns the steps to check in this round.
    pub(super) fn steps_to_check(&self) -> Vec<usize> {
        let waves = self.operation.waves.as_ref();
        let width = |wave: usize| {
            let head = waves.and_then(|waves| waves.get(wave));
            head.map_or(usize::MAX, |head| head.width)
        };
        let deferred = |item: &PlannedStep| {
            let samples = self.samples.get(&item.number);
            samples.is_some_and(Samples::is_deferred)
        };
        self.round().steps_to_check(width, deferred)
    }

    /// Returns the event with which a step stands aside because of a problem, or `None` if the
    /// problem stops the operation.
    pub(super) fn stand_aside(&self, item: &PlannedStep, problem: &Problem) -> Option<StepEvent> {
        self.round().stand_aside(item, problem)
    }

    /// Holds back the restarts of a wave which have not begun, if too many others have failed.
    pub(super) async fn hold_back_restarts(&mut self) -> Result<(), StoreError> {
        let events = self.round().restarts_to_hold_back();
        if events.is_empty() {
            return Ok(());
        }
        let waits = self.waiting_for.clone();
        self.record_intent(events, Vec::new(), &[], waits).await
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

    /// Returns the restarts that a search for workloads, or a soak, has to know of.
    pub(super) fn restarts_before(&self, item: &PlannedStep) -> Vec<(&Step, &Progress)> {
        self.round().restarts_before(item)
    }

    /// Returns the context that the checks and writes of a step need.
    pub(super) fn step_context<'a>(
        &'a self,
        item: &'a PlannedStep,
        restarts: &'a [(&'a Step, &'a Progress)],
    ) -> StepContext<'a> {
        let at = (self.claim.operation, self.now());
        self.round()
            .step_context(at, item, restarts, &self.former_stamps)
    }
}

/// Returns the form in which a step that was added is recorded.
pub(super) fn new_step(added: PlannedStep) -> NewStep {
    NewStep {
        number: added.number,
        wave: i32::try_from(added.wave).expect("a plan has few waves"),
        step: added.step,
    }
}
