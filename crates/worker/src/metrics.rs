//! Metrics of a worker. Label values come from closed sets (kinds, states and outcomes) and never
//! from text that a tenant has chosen, so the number of series is bounded.

use std::time::Duration;

use jiff::Timestamp;
use meshwright_model::operation::{OperationKind, StepEvent};
use meshwright_store::{DeliveryAttempt, Operation, OperationUpdate};
use tokio_util::sync::CancellationToken;

use crate::Engine;
use crate::guarded_call::CallFailure;

/// Interval at which the queue is measured.
const QUEUE_MEASURE_INTERVAL: Duration = Duration::from_secs(10);

/// Counts a claim of an operation: the first one, one after a delay, or one that takes over from
/// another worker.
pub(crate) fn count_claim(kind: OperationKind) {
    metrics::counter!("meshwright_claims_total", "kind" => kind.as_str()).increment(1);
}

/// Counts what a record says of an operation: its step events, its end, or a pause that a person
/// has to resolve.
pub(crate) fn count_record(operation: &Operation, record: &OperationUpdate, now: Timestamp) {
    for (_, fact) in &record.step_events {
        let outcome = match fact {
            StepEvent::Started { .. } => "started",
            StepEvent::Done => "done",
            StepEvent::Failed { .. } => "failed",
            StepEvent::Retried => "retried",
            StepEvent::Excluded { .. } => "excluded",
            StepEvent::Skipped => "skipped",
        };
        metrics::counter!("meshwright_steps_total", "outcome" => outcome).increment(1);
    }
    if let Some(state) = record
        .state
        .as_ref()
        .filter(|state| state.is_terminal() || state.needs_attention())
    {
        let (kind, state) = (operation.kind.as_str(), state.as_str());
        metrics::counter!("meshwright_operations_total", "kind" => kind, "state" => state)
            .increment(1);
        let taken =
            Duration::try_from(now.duration_since(operation.created_at)).unwrap_or_default();
        metrics::histogram!("meshwright_operation_duration_seconds", "kind" => kind, "state" => state).record(taken);
    }
}

/// Logs and counts a check or a message that was given up and is retried later.
pub(crate) fn report_given_up_call(round: &'static str, missed: CallFailure) {
    tracing::warn!(
        round,
        why = missed.as_str(),
        "gave up a check or a delivery, because it took too long or panicked; retrying later"
    );
    metrics::counter!("meshwright_looks_given_up_total", "round" => round, "why" => missed.as_str()).increment(1);
}

/// Counts a restart of a background loop that panicked.
pub(crate) fn count_task_restart(task: &'static str) {
    metrics::counter!("meshwright_task_restarts_total", "task" => task).increment(1);
}

/// Counts an observation of a mesh, successful or failed.
pub(crate) fn count_observation(seen: bool) {
    let outcome = if seen { "seen" } else { "failed" };
    metrics::counter!("meshwright_observations_total", "outcome" => outcome).increment(1);
}

/// Counts an attempt to deliver a message to a webhook.
pub(crate) fn count_delivery(attempt: &DeliveryAttempt) {
    let outcome = match attempt {
        _ if attempt.is_accepted() => "arrived",
        DeliveryAttempt::Answered(_) => "refused",
        DeliveryAttempt::Failed(why) => why.as_str(),
    };
    metrics::counter!("meshwright_deliveries_total", "outcome" => outcome).increment(1);
}

impl Engine {
    /// Measures how far the workers are behind. With enough workers no operation is due for longer
    /// than a second.
    pub(crate) async fn measure_queue(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.store.backlog().await {
                Ok((due, longest)) => {
                    metrics::gauge!("meshwright_operations_due").set(f64::from(due));
                    metrics::gauge!("meshwright_operations_due_longest_seconds")
                        .set(longest.as_secs_f64());
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "could not measure the operation queue; retrying"
                    );
                }
            }
            tokio::select! { () = tokio::time::sleep(QUEUE_MEASURE_INTERVAL) => {}, () = stop.cancelled() => {} }
        }
    }
}
