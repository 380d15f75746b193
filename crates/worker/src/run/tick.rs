//! Runs one round of an operation: checks the open steps and acts on the results.

use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use meshwright_model::operation::{OperationKind, Problem, StepEvent};
use meshwright_model::plan::PlannedStep;
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::decide::{Decision, StepTiming as StepRun, decide};
use meshwright_rollout::ports::{ClusterError, MeshClusters, ObjectVersion};
use meshwright_rollout::round::{RoundActions, StageStop};
use meshwright_rollout::step::{StepCheck, is_irrevocable};
use meshwright_store::{NewStep, OperationUpdate, StoreError};

use super::converge::new_step;
use super::{Run, RunEnd, outcome};
use crate::metrics;

/// Maximum number of concurrent calls to clusters for one operation.
pub(super) const MAX_CONCURRENT_CALLS: usize = 16;

/// Result of one round, which tells the loop how to continue.
pub(super) enum LoopControl {
    /// A step was completed or started. The next round follows at once, because the next step may
    /// be ready.
    Advanced,
    /// Steps are in progress. The next round follows when a cluster may have changed.
    Waiting,
    /// Every step of the plan is done.
    AllDone,
    /// The run has ended: a person has to act or has sent a signal that ends the claim, or the lease
    /// may have ended.
    Ended(RunEnd),
}

/// Result of the writes of one round.
enum ApplyOutcome {
    /// Each write was sent, or failed in a way that allows a repetition.
    Sent,
    /// The run has ended: a cluster refused a write, so the operation was paused or ended, or the
    /// fencing token has expired.
    Ended(RunEnd),
}

impl Run<'_> {
    /// Runs one round: processes signals, checks the due steps, records the intent of the writes,
    /// and sends them.
    pub(super) async fn reconcile_steps(
        &mut self,
        world: &Arc<dyn MeshClusters>,
    ) -> Result<LoopControl, StoreError> {
        if let Some(end) = self.process_signals().await? {
            return Ok(LoopControl::Ended(end));
        }
        self.hold_back_restarts().await?;
        let chosen = self.steps_to_check();
        if chosen.is_empty() {
            return Ok(LoopControl::AllDone);
        }
        let due = self.due_steps(chosen);
        if due.is_empty() {
            return Ok(LoopControl::Waiting);
        }
        if !self.retry_fencing(world.as_ref()).await {
            return Ok(LoopControl::Ended(RunEnd::LeaseLost));
        }
        let mut looked = self.check_steps(&due, world.as_ref()).await;
        // The checks end in any order, and the operation names the first step of those it has.
        looked.sort_by_key(|(index, _)| *index);
        self.lease.mark_progress();
        let mut decisions = Vec::with_capacity(looked.len());
        for (index, check) in looked {
            let run = self.add_sample(index, &check);
            let (step, timeouts) = (&self.steps[index].step, &self.engine.settings.timeouts);
            decisions.push((index, decide(step, check, &run, timeouts)));
        }
        let Some(actions) = self.round().sort_decisions(decisions) else {
            return Ok(LoopControl::Ended(RunEnd::LeaseLost));
        };
        let RoundActions {
            events: mut facts,
            writes: acts,
            ..
        } = actions;
        let problem = self.round().merge_problems(actions.blocked);
        let Some(done) = self.fence_done_steps(actions.at_goal, world.as_ref()).await else {
            return Ok(LoopControl::Ended(RunEnd::LeaseLost));
        };
        facts.extend(done);
        if let Some(problem) = problem {
            let end = self.stop_on_problem(problem, facts).await?;
            return Ok(LoopControl::Ended(end));
        }
        if let Some((reason, until)) = actions.later.filter(|_| due.len() == 1)
            && let Some(end) = self.release_until(&reason, until).await?
        {
            return Ok(LoopControl::Ended(end));
        }
        // Events of new steps are recorded only together with these steps.
        facts.extend(actions.added_events);
        let added: Vec<NewStep> = actions.added.into_iter().map(new_step).collect();
        // A repeated write does not count as an advance. A cluster that accepts none of them must
        // not be called without a pause.
        let onward = !facts.is_empty()
            || !added.is_empty()
            || acts
                .iter()
                .any(|(index, ..)| !self.steps[*index].progress.begun);
        let waits = actions.waits.or_else(|| self.first_delay(&acts));
        self.record_intent(facts, added, &acts, waits).await?;
        self.lease.mark_progress();
        Ok(match self.apply_steps(world.as_ref(), acts).await? {
            ApplyOutcome::Sent if onward => LoopControl::Advanced,
            ApplyOutcome::Sent => LoopControl::Waiting,
            ApplyOutcome::Ended(end) => LoopControl::Ended(end),
        })
    }

    /// Checks steps concurrently. A step whose target could not be fenced gets that error instead
    /// of a check.
    async fn check_steps(
        &self,
        chosen: &[usize],
        world: &dyn MeshClusters,
    ) -> Vec<(usize, Result<StepCheck, ClusterError>)> {
        let mut looks: Vec<BoxFuture<'_, (usize, Result<StepCheck, ClusterError>)>> =
            Vec::with_capacity(chosen.len());
        for index in chosen.iter().copied() {
            let (item, limit) = (&self.steps[index], self.engine.settings.cluster_timeout);
            let open = self.fencing_error(index).cloned();
            looks.push(Box::pin(async move {
                if let Some(error) = open {
                    return (index, Err(error));
                }
                let restarts = self.restarts_before(item);
                let place = self.step_context(item, &restarts);
                let looked = tokio::time::timeout(limit, place.check(world)).await;
                (
                    index,
                    looked.unwrap_or_else(|_| Err(step_timeout_error(item))),
                )
            }));
        }
        futures::stream::iter(looks)
            .buffer_unordered(MAX_CONCURRENT_CALLS)
            .collect()
            .await
    }

    /// Records the intent to write, with the captures that an undo restores. No write is sent
    /// before this commit.
    pub(super) async fn record_intent(
        &mut self,
        mut facts: Vec<(i32, StepEvent)>,
        added: Vec<NewStep>,
        acts: &[(usize, Option<String>, ObjectVersion)],
        waits: Option<String>,
    ) -> Result<(), StoreError> {
        facts.extend(
            acts.iter()
                .filter(|(index, ..)| !self.steps[*index].progress.begun)
                .map(|(index, capture, _)| {
                    let capture = capture.clone();
                    (self.steps[*index].number, StepEvent::Started { capture })
                }),
        );
        self.limit_advice(&mut facts);
        let waiting_for = (waits != self.waiting_for).then(|| waits.clone());
        // A repeated write has no new event to record, but the check before it may have ended after
        // the end of this claim. The record that follows the check proves that the claim is still
        // valid.
        if facts.is_empty() && added.is_empty() && waiting_for.is_none() && acts.is_empty() {
            return Ok(());
        }
        let no_way_back = self.operation.kind == OperationKind::Retire
            && acts
                .iter()
                .any(|(index, ..)| is_irrevocable(&self.steps[*index].step));
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        if let (true, Some(upgrade)) = (no_way_back, self.operation.upgrade) {
            tx.upgrades().lock_upgrade(upgrade).await?;
            tx.upgrades()
                .mark_retiring(upgrade, true, self.engine.clock.as_ref())
                .await?;
        }
        if !facts.is_empty() {
            tx.push_event(outcome::progress_event(&self.operation, &facts, self.now()));
            self.audit_entries(&facts)
                .into_iter()
                .for_each(|entry| tx.audit().record_audit(entry));
        }
        let record = OperationUpdate {
            new_steps: added,
            step_events: facts,
            waiting_for,
            ..OperationUpdate::default()
        };
        let locked = self.record_state(&mut tx, &record).await?;
        locked.commit_and_renew(tx).await?;
        metrics::count_record(&self.operation, &record, self.now());
        self.waiting_for = waits;
        self.extend_plan(&record.new_steps);
        for (number, fact) in &record.step_events {
            if let Some(item) = self.steps.iter_mut().find(|item| item.number == *number) {
                item.progress.apply_event(fact);
            }
        }
        Ok(())
    }

    /// Sends the writes whose intent was recorded. An answer is no proof of success: the next check
    /// decides.
    async fn apply_steps(
        &mut self,
        world: &dyn MeshClusters,
        acts: Vec<(usize, Option<String>, ObjectVersion)>,
    ) -> Result<ApplyOutcome, StoreError> {
        let permit = self.fencing_token();
        let mut pushes: Vec<BoxFuture<'_, (usize, Result<(), ClusterError>)>> =
            Vec::with_capacity(acts.len());
        for (index, _, mark) in &acts {
            let index = *index;
            let item = &self.steps[index];
            let (place, permit) = (self.step_context(item, &[]), &permit);
            pushes.push(Box::pin(async move {
                (index, place.act(world, mark, permit).await)
            }));
        }
        let answers: Vec<_> = futures::stream::iter(pushes)
            .buffer_unordered(MAX_CONCURRENT_CALLS)
            .collect()
            .await;
        let (mut refused, mut aside) = (Vec::new(), Vec::new());
        for (index, answer) in answers {
            match answer {
                Ok(()) | Err(ClusterError::Changed { .. } | ClusterError::Unreachable { .. }) => {}
                Err(ClusterError::Delayed { place, cause }) => {
                    self.note_delay(index, format!("{place}: {cause}"));
                }
                Err(ClusterError::Expired) => return Ok(ApplyOutcome::Ended(RunEnd::LeaseLost)),
                Err(error) => {
                    let decided = decide(
                        &self.steps[index].step,
                        Err(error),
                        &StepRun::default(),
                        &self.engine.settings.timeouts,
                    );
                    if let Decision::Pause(problem) = decided {
                        let item = &self.steps[index];
                        match self.stand_aside(item, &problem) {
                            Some(event) => aside.push((item.number, event)),
                            None => refused.push((index, problem)),
                        }
                    }
                }
            }
        }
        refused.sort_by_key(|(index, _)| *index);
        let failed = |(index, problem): &(usize, Problem)| {
            let problem = problem.clone();
            (self.steps[*index].number, StepEvent::Failed { problem })
        };
        let facts: Vec<_> = refused.iter().map(failed).chain(aside.clone()).collect();
        if let Some(problem) = self.round().merge_problems(refused) {
            let end = self.stop_on_problem(problem, facts).await?;
            return Ok(ApplyOutcome::Ended(end));
        }
        if !aside.is_empty() {
            self.record_intent(aside, Vec::new(), &[], self.waiting_for.clone())
                .await?;
        }
        Ok(ApplyOutcome::Sent)
    }

    /// Stops the operation because of a problem: it pauses, or it fails so that its tags are restored.
    async fn stop_on_problem(
        &mut self,
        problem: Problem,
        facts: Vec<(i32, StepEvent)>,
    ) -> Result<RunEnd, StoreError> {
        match self.round().stop_for(problem) {
            StageStop::Pause(problem) => self.pause_operation(problem, facts).await,
            StageStop::Fail(problem) => self.fail_operation(problem, facts).await,
        }
    }
}

/// Returns the error of a step's check that exceeded its timeout as a whole. It counts as no
/// answer.
fn step_timeout_error(item: &PlannedStep) -> ClusterError {
    ClusterError::Unreachable {
        place: item.step.to_string(),
        code: ProblemCode::LookTooSlow,
        cause: "the look took too long".into(),
    }
}
