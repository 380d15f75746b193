//! Supervises one claim from its start to its end: renews the lease, counts errors, and limits how
//! often an operation is attempted.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use meshwright_model::operation::Problem;
use meshwright_model::problem::ProblemCode;
use meshwright_store::{Claim, StoreError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::Engine;
use crate::engine::ClaimedOperation;
use crate::lease::{Interruption, Lease};
use crate::run::{Run, RunEnd};

/// Consecutive claims that end in an error before the operation fails.
const MAX_CONSECUTIVE_ERRORS: i32 = 5;
/// Consecutive claims that the database or the key service does not serve before the operation
/// fails; together they last about six hours. The limit is higher than that of other errors because
/// an outage of ours says nothing about the operation.
const MAX_CONSECUTIVE_OUTAGES: i32 = 40;
/// Consecutive claims without an error and without a recorded step event before the operation is
/// paused and a person has to act.
const PAUSE_AFTER_CLAIMS_WITHOUT_PROGRESS: i32 = 10;
/// Consecutive claims of that kind before the operation fails, because even the pause could not be
/// recorded.
const FAIL_AFTER_CLAIMS_WITHOUT_PROGRESS: i32 = 2 * PAUSE_AFTER_CLAIMS_WITHOUT_PROGRESS;
/// Times that a claim restarts after a serialization conflict with another transaction.
const MAX_CONFLICT_RETRIES: usize = 20;
/// Maximum delay between two attempts.
const MAX_RETRY_DELAY: Duration = Duration::from_mins(10);

/// Reason why an attempt ended without a result.
#[derive(Debug)]
enum AttemptFailure {
    Store(StoreError),
    Panic,
    DatabaseUnavailable,
}

impl AttemptFailure {
    /// Returns the number of consecutive failures of this kind after which the operation fails.
    fn max_consecutive(&self) -> i32 {
        match self {
            Self::DatabaseUnavailable
            | Self::Store(StoreError::Database(_) | StoreError::KeyService(_)) => {
                MAX_CONSECUTIVE_OUTAGES
            }
            Self::Panic | Self::Store(_) => MAX_CONSECUTIVE_ERRORS,
        }
    }

    /// Describes the cause for the user. The text never contains an answer of a cluster or of the
    /// database.
    fn describe_cause(&self) -> String {
        match self {
            Self::Panic => "a defect of the server stopped it".into(),
            Self::DatabaseUnavailable => "the database could not be read".into(),
            Self::Store(StoreError::NotFound { what }) => {
                format!("its {what} does not exist any more")
            }
            Self::Store(StoreError::UnstorableText) => {
                "a cluster sent text that cannot be stored".into()
            }
            Self::Store(
                StoreError::Corrupt { .. } | StoreError::UnsealFailed | StoreError::KeysErased,
            ) => "a stored record cannot be read".into(),
            Self::Store(_) => "the database failed".into(),
        }
    }
}

impl Engine {
    /// Runs a claim until it ends. A separate task renews the lease meanwhile; when the lease is
    /// lost, the work is cancelled at its current await point.
    pub(crate) async fn run_to_completion(
        &self,
        claimed: ClaimedOperation,
        stop: &CancellationToken,
    ) {
        let ClaimedOperation {
            claim,
            requested_at: since,
            capacity_guard: place,
        } = claimed;
        let lease = Arc::new(Lease::new(claim, since, self.settings.lease_duration));
        let keeper = tokio::spawn(
            lease
                .clone()
                .keep_renewed(self.store.clone(), self.settings.stall_timeout),
        );
        let keeper = AbortOnDropHandle::new(keeper);
        let work =
            AssertUnwindSafe(self.run_with_conflict_retries(claim, &lease, stop)).catch_unwind();
        // `biased` polls the work first: a result that has just arrived is recorded even when the
        // lease ends at the same moment.
        tokio::select! {
            biased;
            ended = work => self.handle_attempt_end(&claim, ended).await,
            lost = keeper => self.handle_interruption(&claim, lost.unwrap_or(Interruption::LeaseExpired)).await,
        }
        drop(place);
    }

    /// Treats a serialization conflict like a crash: the same claim restarts from the recorded
    /// state, up to [`MAX_CONFLICT_RETRIES`] times.
    async fn run_with_conflict_retries(
        &self,
        claim: Claim,
        lease: &Lease,
        stop: &CancellationToken,
    ) -> Result<RunEnd, StoreError> {
        let mut clashes = 0;
        loop {
            match self.run_attempt(claim, lease, stop).await {
                Err(StoreError::SerializationConflict) if clashes < MAX_CONFLICT_RETRIES => {
                    clashes += 1;
                }
                // The store refuses every record of a claim that has ended.
                Err(StoreError::Fenced) => return Ok(RunEnd::LeaseLost),
                ended => return ended,
            }
        }
    }

    /// Loads the operation and runs it. A claim that comes after too many claims without progress
    /// pauses or fails the operation instead.
    async fn run_attempt(
        &self,
        claim: Claim,
        lease: &Lease,
        stop: &CancellationToken,
    ) -> Result<RunEnd, StoreError> {
        if claim.claims_without_progress() > FAIL_AFTER_CLAIMS_WITHOUT_PROGRESS {
            let problem = attempts_exhausted_problem(
                &claim,
                claim.claims_without_progress() - 1,
                "no attempt came to a record",
            );
            self.store
                .fail_operation(&claim, &problem, self.clock.as_ref())
                .await?;
            return Ok(RunEnd::Finished);
        }
        let Some(mut run) = Run::load(self, claim, lease).await? else {
            return Ok(RunEnd::Released);
        };
        if claim.claims_without_progress() > PAUSE_AFTER_CLAIMS_WITHOUT_PROGRESS {
            match run
                .pause_operation(
                    no_progress_problem(claim.claims_without_progress() - 1),
                    Vec::new(),
                )
                .await
            {
                // A signal arrived meanwhile. It takes precedence over the pause, so the claim goes
                // on.
                Err(StoreError::SerializationConflict) => {}
                paused => return paused,
            }
        }
        run.run_operation(stop).await
    }

    /// Records the end of an attempt. A failed attempt is retried after a delay, or the operation
    /// fails when the limit for this kind of failure is reached.
    async fn handle_attempt_end(
        &self,
        claim: &Claim,
        ended: Result<Result<RunEnd, StoreError>, Box<dyn Any + Send>>,
    ) {
        let failure = match ended {
            Ok(Ok(RunEnd::Finished | RunEnd::Released)) => return,
            Ok(Ok(RunEnd::LeaseLost)) => return self.handle_takeover(claim).await,
            Ok(Ok(RunEnd::DatabaseUnavailable)) => AttemptFailure::DatabaseUnavailable,
            Ok(Err(error)) => AttemptFailure::Store(error),
            Err(_) => AttemptFailure::Panic,
        };
        log_attempt_failure(claim, &failure);
        let recorded = if claim.errors + 1 < failure.max_consecutive() {
            self.store
                .back_off_claim(claim, true, self.claim_retry_delay(claim.errors))
                .await
        } else {
            let problem =
                attempts_exhausted_problem(claim, claim.errors + 1, &failure.describe_cause());
            self.store
                .fail_operation(claim, &problem, self.clock.as_ref())
                .await
        };
        log_release_failure(claim, recorded);
    }

    /// Handles a claim whose work was interrupted. A takeover is recorded as the stop of this
    /// worker. A stalled claim is still ours, so it is given up with a delay before the next
    /// attempt. An expired lease needs no record.
    async fn handle_interruption(&self, claim: &Claim, lost: Interruption) {
        if lost == Interruption::TakenOver {
            return self.handle_takeover(claim).await;
        }
        log_interruption(claim, lost);
        if lost == Interruption::Stalled {
            let rest = self.claim_retry_delay(claim.claims.saturating_sub(1));
            log_release_failure(claim, self.store.back_off_claim(claim, false, rest).await);
        }
    }

    /// Records that this worker has stopped. The next operation of the mesh may wait for that
    /// record before it starts.
    async fn handle_takeover(&self, claim: &Claim) {
        log_interruption(claim, Interruption::TakenOver);
        if let Err(error) = self.store.record_worker_stopped(claim).await {
            tracing::warn!(operation.id = %claim.operation, error = &error as &dyn std::error::Error, "could not record that this worker has stopped working on the operation");
        }
    }

    /// Returns the delay before the next attempt: the length of one lease at first, as if the
    /// worker had died, doubled for each earlier attempt, up to [`MAX_RETRY_DELAY`].
    fn claim_retry_delay(&self, earlier: i32) -> Duration {
        let doubled = u32::try_from(earlier.clamp(0, 10)).unwrap_or(0);
        (self.settings.lease_duration * 2u32.pow(doubled)).min(MAX_RETRY_DELAY)
    }
}

/// Logs a claim that could not be given up. No other action is needed: the lease expires by itself
/// when the database does not answer, and the next claim checks the clusters first.
fn log_release_failure(claim: &Claim, recorded: Result<(), StoreError>) {
    match recorded {
        Ok(()) => {}
        Err(StoreError::Fenced) => log_interruption(claim, Interruption::TakenOver),
        Err(error) => {
            tracing::warn!(operation.id = %claim.operation, error = &error as &dyn std::error::Error, "could not give up the claim of the operation; its lease will expire");
        }
    }
}

/// Logs an attempt that failed, with its cause.
fn log_attempt_failure(claim: &Claim, failure: &AttemptFailure) {
    let error = if let AttemptFailure::Store(error) = failure {
        Some(error as &dyn std::error::Error)
    } else {
        None
    };
    tracing::error!(operation.id = %claim.operation, attempt = claim.errors + 1, error, cause = failure.describe_cause(), "attempt to run the operation failed");
}

/// Logs that the work on a claim was interrupted, with the reason.
fn log_interruption(claim: &Claim, lost: Interruption) {
    let why = match lost {
        Interruption::TakenOver => "another claim has taken the operation over, or it was ended",
        Interruption::LeaseExpired => "the lease ran out before the database answered",
        Interruption::Stalled => "the work did not get on",
    };
    tracing::info!(operation.id = %claim.operation, epoch = claim.epoch, why, "the work on the operation was interrupted");
}

/// Builds the problem of an operation that failed after too many attempts.
fn attempts_exhausted_problem(claim: &Claim, attempts: i32, cause: &str) -> Problem {
    let message = format!("The operation was given up after {attempts} attempts: {cause}.");
    let hint = format!(
        "Start it again. If it fails in the same way, give the operator its id: {}.",
        claim.operation
    );
    Problem::new(ProblemCode::AttemptsExhausted, message, hint)
}

/// Builds the problem of an operation that was paused because its attempts recorded no result.
fn no_progress_problem(claims: i32) -> Problem {
    let message = format!(
        "{claims} attempts in a row came to no result: the worker was stopped or its calls hung."
    );
    let hint = "See that the clusters answer and that workers have enough processors and memory, then retry.";
    Problem::new(ProblemCode::NoProgress, message, hint)
}
