//! Runs one round of an operation, as the worker does.

use std::collections::BTreeMap;

use jiff::Timestamp;
use meshwright_model::operation::{OperationKind, Problem, StepEvent};
use meshwright_model::plan::PlannedStep;
use meshwright_rollout::decide::{Decision, StepTiming, decide};
use meshwright_rollout::ports::{ClusterError, ObjectVersion};
use meshwright_rollout::round::{RoundActions, Samples, StageStop, started_writes};

use super::{Driver, Ending, RoundEnd, at, now, timeouts};
use crate::worlds::cells::operation_id;
use crate::worlds::planted::Planted;
use crate::worlds::world::World;

impl Driver {
    /// Runs one round.
    pub(super) fn reconcile(&mut self, world: &World) -> RoundEnd {
        let held_back = self.round().restarts_to_hold_back();
        self.record(&held_back);
        let widths = &self.operation.widths;
        let width = |wave: usize| widths.get(wave).copied().unwrap_or(usize::MAX);
        let deferred = |item: &PlannedStep| {
            let samples = self.claim.samples.get(&item.number);
            samples.is_some_and(Samples::is_deferred)
        };
        let chosen = self.round().steps_to_check(width, deferred);
        if chosen.is_empty() {
            return RoundEnd::Ended(Ending::Succeeded);
        }
        let due = self.due_steps(chosen, at(world.now()));
        if due.is_empty() {
            return RoundEnd::Waiting;
        }
        if !self.retry_fencing(world) {
            return RoundEnd::LeaseLost;
        }
        let Some(actions) = self.check_steps(&due, world) else {
            return RoundEnd::LeaseLost;
        };
        self.carry_out(actions, world)
    }

    fn due_steps(&self, mut chosen: Vec<usize>, now: Timestamp) -> Vec<usize> {
        let (round, limits) = (self.round(), timeouts());
        chosen.retain(|index| {
            let item = &round.steps[*index];
            self.claim.samples.get(&item.number).is_none_or(|samples| {
                let interval = round.min_check_interval(item, samples.is_in_use(), &limits);
                samples.is_due(interval, now)
            })
        });
        chosen
    }

    fn retry_fencing(&mut self, world: &World) -> bool {
        if self.claim.unfenced.is_empty() {
            return true;
        }
        let goals: BTreeMap<_, _> = started_writes(self.round().steps).collect();
        let targets = self.claim.unfenced.keys();
        let targets = targets
            .map(|target| (target.clone(), goals.get(target).cloned().flatten()))
            .collect();
        self.fence(targets, world)
    }

    /// Checks the due steps and decides what to do about each.
    fn check_steps(&mut self, due: &[usize], world: &World) -> Option<RoundActions> {
        let (limits, moment) = (timeouts(), at(world.now()));
        let mut decisions = Vec::with_capacity(due.len());
        for index in due.iter().copied() {
            let round = self.round();
            let item = &round.steps[index];
            let unfenced = item.step.written_target();
            let unfenced = unfenced.and_then(|target| self.claim.unfenced.get(&target).cloned());
            let check = match unfenced {
                Some(error) => Err(error),
                None => self.planted.check(
                    || {
                        let restarts = round.restarts_before(item);
                        let id = operation_id(self.operation.number);
                        let stamps = &self.claim.former_stamps;
                        let mut context = round.step_context((id, moment), item, &restarts, stamps);
                        self.planted.change_context(&mut context);
                        now(context.check(world))
                    },
                    item,
                ),
            };
            let (waits, number) = (round.awaits_restarts(item), item.number);
            let step = item.step.clone();
            let samples = &mut self.claim.samples;
            let samples = samples
                .entry(number)
                .or_insert_with(|| Samples::starting_at(moment));
            let timing = samples.add_check(&check, waits, moment);
            decisions.push((index, decide(&step, check, &timing, &limits)));
        }
        self.round().sort_decisions(decisions)
    }

    /// Records what a round found, and sends its writes.
    fn carry_out(&mut self, actions: RoundActions, world: &World) -> RoundEnd {
        let RoundActions {
            events: mut facts,
            writes,
            at_goal,
            blocked,
            added,
            added_events,
            ..
        } = actions;
        let problem = self.round().merge_problems(blocked);
        let Some(done) = self.fence_done(at_goal, world) else {
            return RoundEnd::LeaseLost;
        };
        facts.extend(done);
        if let Some(problem) = problem {
            return self.stop(problem, &facts);
        }
        let steps = self.round().steps;
        let begun = writes
            .iter()
            .filter(|(index, ..)| !steps[*index].progress.begun);
        let started: Vec<_> = begun
            .map(|(index, capture, _)| {
                let capture = capture.clone();
                (steps[*index].number, StepEvent::Started { capture })
            })
            .collect();
        let onward = !facts.is_empty() || !added.is_empty() || !started.is_empty();
        self.operation.steps.get_or_insert_default().extend(added);
        facts.extend(added_events);
        facts.extend(started);
        self.record(&facts);
        match self.apply(&writes, world) {
            Some(end) => end,
            None if onward => RoundEnd::Advanced,
            None => RoundEnd::Waiting,
        }
    }

    fn record(&mut self, events: &[(i32, StepEvent)]) {
        for (number, event) in events {
            let steps = self.operation.steps.iter_mut().flatten();
            for item in steps.filter(|item| item.number == *number) {
                item.progress.apply_event(event);
            }
        }
    }

    fn stop(&mut self, problem: Problem, facts: &[(i32, StepEvent)]) -> RoundEnd {
        let stop = self.round().stop_for(problem);
        self.record(facts);
        RoundEnd::Ended(match stop {
            StageStop::Pause(problem) => Ending::Paused(problem),
            StageStop::Fail(problem) => Ending::Failed(problem),
        })
    }

    /// Fences the targets that a rollback found at their goal without a write of its own.
    fn fence_done(
        &mut self,
        mut found: Vec<usize>,
        world: &World,
    ) -> Option<Vec<(i32, StepEvent)>> {
        let reverts = matches!(
            self.operation.kind,
            OperationKind::Rollback | OperationKind::Restore
        );
        let steps = self.round().steps;
        if reverts && self.planted != Planted::NoFence {
            let untouched = found.iter().map(|index| &steps[*index]);
            let targets = untouched
                .filter(|item| !item.progress.is_started())
                .filter_map(|item| Some((item.step.written_target()?, None)))
                .collect();
            if !self.fence(targets, world) {
                return None;
            }
            let steps = self.round().steps;
            found.retain(|index| {
                let target = steps[*index].step.written_target();
                target.is_none_or(|target| !self.claim.unfenced.contains_key(&target))
            });
        }
        let steps = self.round().steps;
        let done = found
            .into_iter()
            .map(|index| (steps[index].number, StepEvent::Done));
        Some(done.collect())
    }

    /// Sends the writes of a round. Returns the end of the round if one of them ended it.
    fn apply(
        &mut self,
        writes: &[(usize, Option<String>, ObjectVersion)],
        world: &World,
    ) -> Option<RoundEnd> {
        let permit = self.permit();
        let (mut refused, mut aside) = (Vec::new(), Vec::new());
        for (index, _, version) in writes {
            let round = self.round();
            let item = &round.steps[*index];
            let id = operation_id(self.operation.number);
            let at = (id, at(world.now()));
            let context = round.step_context(at, item, &[], &self.claim.former_stamps);
            match now(context.act(world, version, &permit)) {
                Ok(()) | Err(ClusterError::Changed { .. } | ClusterError::Unreachable { .. }) => {}
                Err(ClusterError::Expired) => return Some(RoundEnd::LeaseLost),
                Err(error) => {
                    let timing = StepTiming::default();
                    let decided = decide(&item.step, Err(error), &timing, &timeouts());
                    if let Decision::Pause(problem) = decided {
                        match round.stand_aside(item, &problem) {
                            Some(event) => aside.push((item.number, event)),
                            None => refused.push((*index, problem)),
                        }
                    }
                }
            }
        }
        let steps = self.round().steps;
        let mut facts: Vec<_> = refused
            .iter()
            .map(|(index, problem)| {
                let problem = problem.clone();
                (steps[*index].number, StepEvent::Failed { problem })
            })
            .collect();
        facts.extend(aside);
        if let Some(problem) = self.round().merge_problems(refused) {
            return Some(self.stop(problem, &facts));
        }
        self.record(&facts);
        None
    }
}
