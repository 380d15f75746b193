//! The lease of one claim: a task of its own renews it while the work gets on, and its end is the end of the work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rollout::ports::{Deadline, FencingToken};
use store::{Claim, Store, StoreError, Tx};

/// How many renewals are tried within a lease: two may fail before the claim is lost.
const RENEWALS_PER_LEASE: u32 = 3;
/// How many tries there are within a lease while the database does not answer.
const RETRIES_PER_LEASE: u32 = 20;

/// Why a claim's work was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// Another claim has taken the operation over, or it was ended from outside.
    TakenOver,
    /// The database did not answer before the lease was over.
    LeaseExpired,
    /// The work did not get on for too long. The claim is still good.
    Stalled,
}

/// A claim with its end, which renewals move ahead.
#[derive(Debug)]
pub(crate) struct Lease {
    claim: Claim,
    length: Duration,
    /// After this nothing is sent to a cluster. Counted from before the last renewal was sent.
    deadline: Deadline,
    /// Before the last renewal was sent.
    renewed_at: Mutex<Instant>,
    /// When the work last got on.
    progressed_at: Mutex<Instant>,
    /// True while a transaction of the work has the queue row's lock: until it ends no other claim can take the row.
    row_locked: AtomicBool,
}

/// A transaction that has the queue row's lock, or is about to take it.
#[must_use = "the lock is noted for as long as this lives"]
pub(crate) struct RowLock<'l> {
    lease: &'l Lease,
    /// Before the lock was asked for.
    since: Instant,
}

impl RowLock<'_> {
    /// Commits the transaction, whose record renewed the lease. Where the database is slow a good part of that is over by now,
    /// so the lease is made whole again by the last statement.
    pub(crate) async fn commit_and_renew(mut self, tx: Tx<'_>) -> Result<(), StoreError> {
        if self.since.elapsed() > self.lease.length / RETRIES_PER_LEASE {
            self.since = tx.commit_and_renew_lease(&self.lease.claim).await?;
        } else {
            tx.commit().await?;
        }
        self.lease.mark_renewed(self.since);
        Ok(())
    }
}

impl Drop for RowLock<'_> {
    fn drop(&mut self) {
        self.lease.row_locked.store(false, Ordering::Relaxed);
    }
}

impl Lease {
    /// `since` is an instant before the claim was sent: in truth the lease can only be longer.
    pub(crate) fn new(claim: Claim, since: Instant, length: Duration) -> Self {
        let deadline = Deadline::at(writable_until(since, length));
        let (since, progress) = (Mutex::new(since), Mutex::new(Instant::now()));
        Self { claim, length, deadline, renewed_at: since, progressed_at: progress, row_locked: AtomicBool::new(false) }
    }

    /// The right to write as long as the lease is renewed.
    pub(crate) fn fencing_token(&self) -> FencingToken {
        FencingToken { operation: self.claim.operation, epoch: self.claim.epoch, deadline: self.deadline.clone() }
    }

    /// Notes that the work got on: a call was answered or something was recorded.
    pub(crate) fn mark_progress(&self) {
        *self.progressed_at.lock().expect("no holder panics") = Instant::now();
    }

    /// Notes that a transaction records something and is not committed yet. No renewal is sent meanwhile, for it would wait
    /// for that transaction; and the end of the lease does not stop it, for a long one would never be committed where the
    /// database is slow.
    pub(crate) fn lock_row(&self) -> RowLock<'_> {
        self.row_locked.store(true, Ordering::Relaxed);
        RowLock { lease: self, since: Instant::now() }
    }

    fn is_valid(&self) -> bool {
        self.row_locked.load(Ordering::Relaxed) || Instant::now() < self.expires_at()
    }

    fn expires_at(&self) -> Instant {
        *self.renewed_at.lock().expect("no holder panics") + self.length
    }

    /// Notes that the lease was renewed after `since`: by a renewal, or by a record that was committed.
    fn mark_renewed(&self, since: Instant) {
        let mut last = self.renewed_at.lock().expect("no holder panics");
        // Answers may overtake each other: the latest renewal counts.
        let since = since.max(*last);
        *last = since;
        self.deadline.move_to(writable_until(since, self.length));
    }

    fn idle_time(&self) -> Duration {
        self.progressed_at.lock().expect("no holder panics").elapsed()
    }

    /// Renews the lease until that fails or the work has not got on for `patience`; answers which.
    pub(crate) async fn keep_renewed(self: Arc<Self>, store: Store, patience: Duration) -> Interruption {
        let (often, soon) = (self.length / RENEWALS_PER_LEASE, self.length / RETRIES_PER_LEASE);
        let mut pause = often;
        loop {
            let ends = tokio::time::Instant::from_std(self.expires_at());
            let left = ends.saturating_duration_since(tokio::time::Instant::now());
            tokio::time::sleep(pause.min(left).max(soon)).await;
            if self.idle_time() > patience {
                return Interruption::Stalled;
            }
            if self.row_locked.load(Ordering::Relaxed) {
                pause = soon;
                continue;
            }
            let since = Instant::now();
            match tokio::time::timeout_at(ends, store.renew_lease(&self.claim, self.length)).await {
                Ok(Ok(())) => {
                    self.mark_renewed(since);
                    pause = often;
                }
                // The end of the operation takes the row away, and its answer may still be on its way.
                Ok(Err(StoreError::Fenced)) if self.row_locked.load(Ordering::Relaxed) => pause = soon,
                Ok(Err(StoreError::Fenced)) => return Interruption::TakenOver,
                // A record may have renewed it meanwhile, or is about to end.
                Err(_) | Ok(Err(_)) if self.is_valid() => pause = soon,
                Err(_) | Ok(Err(_)) => return Interruption::LeaseExpired,
            }
        }
    }
}

/// One call may take a sixth of the lease, so nothing is sent in its last sixth.
fn writable_until(since: Instant, length: Duration) -> Instant {
    since + length * 5 / 6
}
