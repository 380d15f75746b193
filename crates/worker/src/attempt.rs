//! One claim from its beginning to its end: the lease is kept, errors are counted, and no operation is tried for ever.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use model::operation::Problem;
use store::{Claim, StoreError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::Engine;
use crate::engine::ClaimedOperation;
use crate::lease::{Lease, Interruption};
use crate::run::{Run, RunEnd};

/// After so many claims in a row that ended in an error, an operation has failed.
const MAX_CONSECUTIVE_ERRORS: i32 = 5;
/// After so many claims in a row that the database or the key service did not serve, an operation has failed: some six
/// hours. An outage of ours says nothing about the operation.
const MAX_CONSECUTIVE_OUTAGES: i32 = 40;
/// After so many claims in a row that recorded nothing, for other reasons than an error, a person is asked.
const PAUSE_AFTER_CLAIMS_WITHOUT_PROGRESS: i32 = 10;
/// After so many such claims it has failed: even the pause could not be recorded.
const FAIL_AFTER_CLAIMS_WITHOUT_PROGRESS: i32 = 2 * PAUSE_AFTER_CLAIMS_WITHOUT_PROGRESS;
/// How often a claim begins again because another transaction was in its way.
const MAX_CONFLICT_RETRIES: usize = 20;
/// The longest rest between two attempts.
const MAX_RETRY_DELAY: Duration = Duration::from_mins(10);

/// Why an attempt came to nothing.
#[derive(Debug)]
enum AttemptFailure {
    Store(StoreError),
    Panic,
    DatabaseUnavailable,
}

impl AttemptFailure {
    /// How many such failures in a row end an operation.
    fn max_consecutive(&self) -> i32 {
        match self {
            Self::DatabaseUnavailable | Self::Store(StoreError::Database(_) | StoreError::KeyService(_)) => MAX_CONSECUTIVE_OUTAGES,
            Self::Panic | Self::Store(_) => MAX_CONSECUTIVE_ERRORS,
        }
    }

    /// In words for people; never what a cluster or the database said.
    fn describe_cause(&self) -> String {
        match self {
            Self::Panic => "a defect of the server stopped it".into(),
            Self::DatabaseUnavailable => "the database could not be read".into(),
            Self::Store(StoreError::NotFound { what }) => format!("its {what} does not exist any more"),
            Self::Store(StoreError::UnstorableText) => "a cluster sent text that cannot be stored".into(),
            Self::Store(StoreError::Corrupt { .. } | StoreError::UnsealFailed | StoreError::KeysErased) => {
                "a stored record cannot be read".into()
            }
            Self::Store(_) => "the database failed".into(),
        }
    }
}

impl Engine {
    /// Works on a claim until it ends. The lease is renewed beside the work, and its loss drops the work where it waits.
    pub(crate) async fn run_to_completion(&self, claimed: ClaimedOperation, stop: &CancellationToken) {
        let ClaimedOperation { claim, requested_at: since, capacity_guard: place } = claimed;
        let lease = Arc::new(Lease::new(claim, since, self.settings.lease_duration));
        let keeper = tokio::spawn(lease.clone().keep_renewed(self.store.clone(), self.settings.stall_timeout));
        let keeper = AbortOnDropHandle::new(keeper);
        let work = AssertUnwindSafe(self.run_with_conflict_retries(claim, &lease, stop)).catch_unwind();
        // The work comes first: what it has just come to is recorded, also when the lease ends at the same moment.
        tokio::select! {
            biased;
            ended = work => self.handle_attempt_end(&claim, ended).await,
            lost = keeper => self.handle_interruption(&claim, lost.unwrap_or(Interruption::LeaseExpired)).await,
        }
        drop(place);
    }

    /// A clash with another transaction is a tiny crash: the same claim begins again with what is recorded.
    async fn run_with_conflict_retries(&self, claim: Claim, lease: &Lease, stop: &CancellationToken) -> Result<RunEnd, StoreError> {
        let mut clashes = 0;
        loop {
            match self.run_attempt(claim, lease, stop).await {
                Err(StoreError::SerializationConflict) if clashes < MAX_CONFLICT_RETRIES => clashes += 1,
                ended => return ended,
            }
        }
    }

    async fn run_attempt(&self, claim: Claim, lease: &Lease, stop: &CancellationToken) -> Result<RunEnd, StoreError> {
        if claim.claims_without_progress() > FAIL_AFTER_CLAIMS_WITHOUT_PROGRESS {
            let problem = attempts_exhausted_problem(&claim, claim.claims_without_progress() - 1, "no attempt came to a record");
            self.store.fail_operation(&claim, &problem, self.clock.as_ref()).await?;
            return Ok(RunEnd::Released);
        }
        let Some(mut run) = Run::load(self, claim, lease).await? else { return Ok(RunEnd::Released) };
        if claim.claims_without_progress() > PAUSE_AFTER_CLAIMS_WITHOUT_PROGRESS {
            match run.pause_operation(no_progress_problem(claim.claims_without_progress() - 1), Vec::new()).await {
                // A person has asked for something meanwhile, which comes first.
                Err(StoreError::SerializationConflict) => {}
                paused => return paused.map(|()| RunEnd::Released),
            }
        }
        run.run_operation(stop).await
    }

    async fn handle_attempt_end(&self, claim: &Claim, ended: Result<Result<RunEnd, StoreError>, Box<dyn Any + Send>>) {
        let failure = match ended {
            Ok(Ok(RunEnd::Released)) => return,
            Ok(Ok(RunEnd::LeaseLost) | Err(StoreError::Fenced)) => return self.handle_takeover(claim).await,
            Ok(Ok(RunEnd::DatabaseUnavailable)) => AttemptFailure::DatabaseUnavailable,
            Ok(Err(error)) => AttemptFailure::Store(error),
            Err(_) => AttemptFailure::Panic,
        };
        log_attempt_failure(claim, &failure);
        let recorded = if claim.errors + 1 < failure.max_consecutive() {
            self.store.back_off_claim(claim, true, self.claim_retry_delay(claim.errors)).await
        } else {
            let problem = attempts_exhausted_problem(claim, claim.errors + 1, &failure.describe_cause());
            self.store.fail_operation(claim, &problem, self.clock.as_ref()).await
        };
        log_release_failure(claim, recorded);
    }

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

    /// The operation that follows an ended one may be waiting until its worker has stopped.
    async fn handle_takeover(&self, claim: &Claim) {
        log_interruption(claim, Interruption::TakenOver);
        if let Err(error) = self.store.record_worker_stopped(claim).await {
            tracing::warn!(operation.id = %claim.operation, error = &error as &dyn std::error::Error, "could not record that a worker has stopped");
        }
    }

    /// A lease at first, as if the worker had died, then twice as long each time.
    fn claim_retry_delay(&self, earlier: i32) -> Duration {
        let doubled = u32::try_from(earlier.clamp(0, 10)).unwrap_or(0);
        (self.settings.lease_duration * 2u32.pow(doubled)).min(MAX_RETRY_DELAY)
    }
}

/// The lease runs out by itself where the database does not answer, and the next claim begins with a look.
fn log_release_failure(claim: &Claim, recorded: Result<(), StoreError>) {
    match recorded {
        Ok(()) => {}
        Err(StoreError::Fenced) => log_interruption(claim, Interruption::TakenOver),
        Err(error) => {
            tracing::warn!(operation.id = %claim.operation, error = &error as &dyn std::error::Error, "a claim was not given back; its lease runs out");
        }
    }
}

fn log_attempt_failure(claim: &Claim, failure: &AttemptFailure) {
    let error = if let AttemptFailure::Store(error) = failure { Some(error as &dyn std::error::Error) } else { None };
    tracing::error!(operation.id = %claim.operation, attempt = claim.errors + 1, error, cause = failure.describe_cause(), "an attempt at an operation failed");
}

fn log_interruption(claim: &Claim, lost: Interruption) {
    let why = match lost {
        Interruption::TakenOver => "another claim has taken the operation over, or it was ended",
        Interruption::LeaseExpired => "the lease ran out before the database answered",
        Interruption::Stalled => "the work did not get on",
    };
    tracing::info!(operation.id = %claim.operation, epoch = claim.epoch, why, "the work on an operation was stopped");
}

fn attempts_exhausted_problem(claim: &Claim, attempts: i32, cause: &str) -> Problem {
    let message = format!("The operation was given up after {attempts} attempts: {cause}.");
    let hint = format!("Start it again. If it fails in the same way, give the operator its id: {}.", claim.operation);
    Problem::new("attempts_exhausted", message, hint)
}

fn no_progress_problem(claims: i32) -> Problem {
    let message = format!("{claims} attempts in a row came to no result: the worker was stopped or its calls hung.");
    let hint = "See that the clusters answer and that workers have enough processors and memory, then retry.";
    Problem::new("no_progress", message, hint)
}
