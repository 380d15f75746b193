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
use crate::engine::Claimed;
use crate::lease::{Lease, Lost};
use crate::run::{Run, RunEnd};

/// After so many claims in a row that ended in an error, an operation has failed.
const ERRORS: i32 = 5;
/// After so many claims in a row that the database or the key service did not serve, an operation has failed: some six
/// hours. An outage of ours says nothing about the operation.
const OUTAGES: i32 = 40;
/// After so many claims in a row that recorded nothing, for other reasons than an error, a person is asked.
const CLAIMS: i32 = 10;
/// After so many such claims it has failed: even the pause could not be recorded.
const LAST_CLAIM: i32 = 2 * CLAIMS;
/// How often a claim begins again because another transaction was in its way.
const CLASHES: usize = 20;
/// The longest rest between two attempts.
const LONGEST_REST: Duration = Duration::from_mins(10);

/// Why an attempt came to nothing.
#[derive(Debug)]
enum Failure {
    Store(StoreError),
    Panic,
    Unreadable,
}

impl Failure {
    /// How many such failures in a row end an operation.
    fn most(&self) -> i32 {
        match self {
            Self::Unreadable | Self::Store(StoreError::Database(_) | StoreError::KeyService(_)) => OUTAGES,
            Self::Panic | Self::Store(_) => ERRORS,
        }
    }

    /// In words for people; never what a cluster or the database said.
    fn cause(&self) -> String {
        match self {
            Self::Panic => "a defect of the server stopped it".into(),
            Self::Unreadable => "the database could not be read".into(),
            Self::Store(StoreError::NotFound { what }) => format!("its {what} does not exist any more"),
            Self::Store(StoreError::Unkeepable) => "a cluster sent text that cannot be stored".into(),
            Self::Store(StoreError::Corrupt { .. } | StoreError::Sealed | StoreError::Erased) => {
                "a stored record cannot be read".into()
            }
            Self::Store(_) => "the database failed".into(),
        }
    }
}

impl Engine {
    /// Works on a claim until it ends. The lease is renewed beside the work, and its loss drops the work where it waits.
    pub(crate) async fn see_through(&self, claimed: Claimed, stop: &CancellationToken) {
        let Claimed { claim, since, place } = claimed;
        let lease = Arc::new(Lease::new(claim, since, self.settings.lease));
        let keeper = tokio::spawn(lease.clone().keep(self.store.clone(), self.settings.stall));
        let keeper = AbortOnDropHandle::new(keeper);
        let work = AssertUnwindSafe(self.work_on(claim, &lease, stop)).catch_unwind();
        // The work comes first: what it has just come to is recorded, also when the lease ends at the same moment.
        tokio::select! {
            biased;
            ended = work => self.ended(&claim, ended).await,
            lost = keeper => self.lost(&claim, lost.unwrap_or(Lost::RunOut)).await,
        }
        drop(place);
    }

    /// A clash with another transaction is a tiny crash: the same claim begins again with what is recorded.
    async fn work_on(&self, claim: Claim, lease: &Lease, stop: &CancellationToken) -> Result<RunEnd, StoreError> {
        let mut clashes = 0;
        loop {
            match self.attempt(claim, lease, stop).await {
                Err(StoreError::Clash) if clashes < CLASHES => clashes += 1,
                ended => return ended,
            }
        }
    }

    async fn attempt(&self, claim: Claim, lease: &Lease, stop: &CancellationToken) -> Result<RunEnd, StoreError> {
        if claim.fruitless() > LAST_CLAIM {
            let problem = exhausted(&claim, claim.fruitless() - 1, "no attempt came to a record");
            self.store.give_up(&claim, &problem, self.clock.as_ref()).await?;
            return Ok(RunEnd::LetGo);
        }
        let Some(mut run) = Run::load(self, claim, lease).await? else { return Ok(RunEnd::LetGo) };
        if claim.fruitless() > CLAIMS {
            match run.pause(no_progress(claim.fruitless() - 1), Vec::new()).await {
                // A person has asked for something meanwhile, which comes first.
                Err(StoreError::Clash) => {}
                paused => return paused.map(|()| RunEnd::LetGo),
            }
        }
        run.drive(stop).await
    }

    async fn ended(&self, claim: &Claim, ended: Result<Result<RunEnd, StoreError>, Box<dyn Any + Send>>) {
        let failure = match ended {
            Ok(Ok(RunEnd::LetGo)) => return,
            Ok(Ok(RunEnd::LeaseLost) | Err(StoreError::Fenced)) => return self.taken_over(claim).await,
            Ok(Ok(RunEnd::Unreadable)) => Failure::Unreadable,
            Ok(Err(error)) => Failure::Store(error),
            Err(_) => Failure::Panic,
        };
        told_of_failure(claim, &failure);
        let recorded = if claim.errors + 1 < failure.most() {
            self.store.back_off(claim, true, self.rest(claim.errors)).await
        } else {
            let problem = exhausted(claim, claim.errors + 1, &failure.cause());
            self.store.give_up(claim, &problem, self.clock.as_ref()).await
        };
        given_back(claim, recorded);
    }

    async fn lost(&self, claim: &Claim, lost: Lost) {
        if lost == Lost::TakenOver {
            return self.taken_over(claim).await;
        }
        told(claim, lost);
        if lost == Lost::Stalled {
            let rest = self.rest(claim.claims.saturating_sub(1));
            given_back(claim, self.store.back_off(claim, false, rest).await);
        }
    }

    /// The operation that follows an ended one may be waiting until its worker has stopped.
    async fn taken_over(&self, claim: &Claim) {
        told(claim, Lost::TakenOver);
        if let Err(error) = self.store.stopped(claim).await {
            tracing::warn!(operation.id = %claim.operation, error = &error as &dyn std::error::Error, "could not record that a worker has stopped");
        }
    }

    /// A lease at first, as if the worker had died, then twice as long each time.
    fn rest(&self, earlier: i32) -> Duration {
        let doubled = u32::try_from(earlier.clamp(0, 10)).unwrap_or(0);
        (self.settings.lease * 2u32.pow(doubled)).min(LONGEST_REST)
    }
}

/// The lease runs out by itself where the database does not answer, and the next claim begins with a look.
fn given_back(claim: &Claim, recorded: Result<(), StoreError>) {
    match recorded {
        Ok(()) => {}
        Err(StoreError::Fenced) => told(claim, Lost::TakenOver),
        Err(error) => {
            tracing::warn!(operation.id = %claim.operation, error = &error as &dyn std::error::Error, "a claim was not given back; its lease runs out");
        }
    }
}

fn told_of_failure(claim: &Claim, failure: &Failure) {
    let error = if let Failure::Store(error) = failure { Some(error as &dyn std::error::Error) } else { None };
    tracing::error!(operation.id = %claim.operation, attempt = claim.errors + 1, error, cause = failure.cause(), "an attempt at an operation failed");
}

fn told(claim: &Claim, lost: Lost) {
    let why = match lost {
        Lost::TakenOver => "another claim has taken the operation over, or it was ended",
        Lost::RunOut => "the lease ran out before the database answered",
        Lost::Stalled => "the work did not get on",
    };
    tracing::info!(operation.id = %claim.operation, epoch = claim.epoch, why, "the work on an operation was stopped");
}

fn exhausted(claim: &Claim, attempts: i32, cause: &str) -> Problem {
    let message = format!("The operation was given up after {attempts} attempts: {cause}.");
    let hint = format!("Start it again. If it fails in the same way, give the operator its id: {}.", claim.operation);
    Problem::new("attempts_exhausted", message, hint)
}

fn no_progress(claims: i32) -> Problem {
    let message = format!("{claims} attempts in a row came to no result: the worker was stopped or its calls hung.");
    let hint = "See that the clusters answer and that workers have enough processors and memory, then retry.";
    Problem::new("no_progress", message, hint)
}
