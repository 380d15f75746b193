//! Processes the signals of people to an operation (pause, resume, retry, cancel) between two
//! rounds.

use meshwright_model::operation::{OperationState, Problem, RequestedSignal, Signal, StepEvent};
use meshwright_store::{OperationUpdate, StoreError};

use super::{Run, RunEnd};
use crate::metrics;

impl Run<'_> {
    /// Processes pending signals. Returns the end of the run if a signal ended the claim.
    pub(super) async fn process_signals(&mut self) -> Result<Option<RunEnd>, StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let unseen = tx.operations().read_pending_signals(&self.claim).await?;
        drop(tx);
        let seen = Some(unseen.last_seq);
        for RequestedSignal { signal, item } in &unseen.signals {
            if let Some(number) = item {
                self.apply_signal_to_step(*signal, *number).await?;
                continue;
            }
            match signal {
                // An operation that is paused already keeps the problem that it is paused for.
                Signal::Pause if matches!(self.operation.state, OperationState::Paused { .. }) => {}
                Signal::Pause => {
                    self.operation.state = OperationState::Paused {
                        problem: Problem::paused_by_user(),
                    }
                }
                Signal::Resume => self.operation.state = OperationState::Running,
                Signal::Retry => {
                    self.operation.state = OperationState::Running;
                    self.retry_failed_steps().await?;
                }
                Signal::Skip => {
                    self.operation.state = OperationState::Running;
                    self.skip_failed_steps().await?;
                }
                Signal::Cancel => return self.cancel_operation(seen).await.map(Some),
            }
        }
        if let OperationState::Paused { problem } = &self.operation.state {
            let problem = problem.clone();
            return self
                .pause_and_release(problem, Vec::new(), seen, !unseen.signals.is_empty())
                .await
                .map(Some);
        }
        if !unseen.signals.is_empty() {
            let mut tx = self.engine.store.begin(self.claim.tenant).await?;
            let state = Some(self.operation.state.clone());
            let locked = self
                .record_state(
                    &mut tx,
                    &OperationUpdate {
                        seen_signal_seq: seen,
                        state,
                        ..OperationUpdate::default()
                    },
                )
                .await?;
            locked.commit_and_renew(tx).await?;
        }
        Ok(None)
    }

    /// Tries one step again, or goes on without it. An operation that is paused because of the
    /// workloads that are left runs again, and its search decides what follows.
    async fn apply_signal_to_step(
        &mut self,
        signal: Signal,
        number: i32,
    ) -> Result<(), StoreError> {
        if self.operation.state.is_partial_rollout() {
            self.operation.state = OperationState::Running;
        }
        let Some(progress) = self
            .steps
            .iter()
            .find(|item| item.number == number)
            .map(|item| &item.progress)
        else {
            return Ok(());
        };
        let event = match signal {
            Signal::Retry if progress.failed.is_some() => Some(StepEvent::Retried),
            Signal::Skip if !progress.done && !progress.skipped => Some(StepEvent::Skipped),
            // An excluded restart must not be begun as it is planned, because its next pods may
            // lack their sidecar. The search judges the workload again and adds a safe restart.
            _ => None,
        };
        if let Some(event) = event {
            return self.add_step_events(vec![(number, event)]).await;
        }
        self.samples.clear();
        Ok(())
    }

    /// Goes on without the steps of a search that cannot be carried out.
    async fn skip_failed_steps(&mut self) -> Result<(), StoreError> {
        let events = self.round().events_of_skip();
        self.add_step_events(events).await
    }

    /// Lets every failed step try again, and every label that was left to another party.
    async fn retry_failed_steps(&mut self) -> Result<(), StoreError> {
        let failed = self.round().steps_to_retry();
        let retried = |number| (number, StepEvent::Retried);
        self.add_step_events(failed.into_iter().map(retried).collect())
            .await
    }

    /// Adds events to steps, each with the number of its step, and starts all times again.
    async fn add_step_events(&mut self, facts: Vec<(i32, StepEvent)>) -> Result<(), StoreError> {
        for (number, event) in &facts {
            if let Some(item) = self.steps.iter_mut().find(|item| item.number == *number) {
                item.progress.apply_event(event);
            }
        }
        self.samples.clear();
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let record = OperationUpdate {
            step_events: facts,
            ..OperationUpdate::default()
        };
        let locked = self.record_state(&mut tx, &record).await?;
        locked.commit_and_renew(tx).await?;
        metrics::count_record(&self.operation, &record, self.now());
        Ok(())
    }
}
