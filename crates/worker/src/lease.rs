//! Keeps the lease of one claim. A separate task renews the lease while the work makes progress,
//! and the work is cancelled when the lease ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use meshwright_rollout::ports::{Deadline, FencingToken};
use meshwright_store::{Claim, Store, StoreError, Tx};

/// Renewals per lease. Two of them may fail before the claim is lost.
const RENEWALS_PER_LEASE: u32 = 3;
/// Attempts to renew per lease while the database does not answer.
const RETRIES_PER_LEASE: u32 = 20;

/// Reason why the work on a claim was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// Another claim has taken the operation over, or the operation was ended from outside.
    TakenOver,
    /// The lease expired before the database answered a renewal.
    LeaseExpired,
    /// The work made no progress for too long. The claim is still valid.
    Stalled,
}

/// A claim with the end of its lease, which each renewal moves forward.
#[derive(Debug)]
pub(crate) struct Lease {
    claim: Claim,
    length: Duration,
    /// Instant after which no request is sent to a cluster. It is counted from before the last
    /// renewal was sent.
    deadline: Deadline,
    /// Instant before the last renewal was sent.
    renewed_at: Mutex<Instant>,
    /// Instant of the last progress of the work.
    progressed_at: Mutex<Instant>,
    /// True while a transaction of the work holds the lock of the queue row. No other claim can
    /// take the row until that transaction ends.
    row_locked: AtomicBool,
}

/// Guard of a transaction that holds the lock of the queue row or is about to take it.
#[must_use = "the lock is noted for as long as this lives"]
pub(crate) struct RowLock<'l> {
    lease: &'l Lease,
    /// Instant before the lock was requested.
    since: Instant,
}

impl RowLock<'_> {
    /// Commits the transaction, whose record renewed the lease. If the database is slow, part of
    /// the lease has passed by the time of the commit; the last statement then renews the lease
    /// again for its full length.
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
    /// Creates a lease whose claim was sent after `since`. Counted from there, the lease ends no
    /// later than the lease in the database.
    pub(crate) fn new(claim: Claim, since: Instant, length: Duration) -> Self {
        let deadline = Deadline::at(writable_until(since, length));
        let (since, progress) = (Mutex::new(since), Mutex::new(Instant::now()));
        Self {
            claim,
            length,
            deadline,
            renewed_at: since,
            progressed_at: progress,
            row_locked: AtomicBool::new(false),
        }
    }

    /// Returns the right to write to clusters, which lasts while the lease is renewed.
    pub(crate) fn fencing_token(&self) -> FencingToken {
        FencingToken {
            operation: self.claim.operation,
            epoch: self.claim.epoch,
            deadline: self.deadline.clone(),
        }
    }

    /// Records that the work made progress: a call was answered or a result was recorded.
    pub(crate) fn mark_progress(&self) {
        *self.progressed_at.lock().expect("no holder panics") = Instant::now();
    }

    /// Marks the queue row as locked by a transaction that is not committed yet. The mark has two
    /// effects. No renewal is sent, because it would wait for that transaction. The end of the
    /// lease does not cancel the transaction, because a long one could never be committed on a slow
    /// database.
    pub(crate) fn lock_row(&self) -> RowLock<'_> {
        self.row_locked.store(true, Ordering::Relaxed);
        RowLock {
            lease: self,
            since: Instant::now(),
        }
    }

    /// Returns true while no other claim can take the operation over.
    fn is_valid(&self) -> bool {
        self.row_locked.load(Ordering::Relaxed) || Instant::now() < self.expires_at()
    }

    /// Returns the instant at which the lease ends.
    fn expires_at(&self) -> Instant {
        *self.renewed_at.lock().expect("no holder panics") + self.length
    }

    /// Records that the lease was renewed after `since`, by a renewal or by a committed record.
    fn mark_renewed(&self, since: Instant) {
        let mut last = self.renewed_at.lock().expect("no holder panics");
        // Answers can arrive out of order, so only the latest renewal counts.
        let since = since.max(*last);
        *last = since;
        self.deadline.move_to(writable_until(since, self.length));
    }

    /// Returns the time since the work last made progress.
    fn idle_time(&self) -> Duration {
        self.progressed_at
            .lock()
            .expect("no holder panics")
            .elapsed()
    }

    /// Renews the lease until a renewal fails or the work has made no progress for the stall
    /// timeout. Returns the reason.
    pub(crate) async fn keep_renewed(
        self: Arc<Self>,
        store: Store,
        patience: Duration,
    ) -> Interruption {
        let (often, soon) = (
            self.length / RENEWALS_PER_LEASE,
            self.length / RETRIES_PER_LEASE,
        );
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
                // The end of the operation removes the queue row, and the answer to that
                // transaction may still be on its way.
                Ok(Err(StoreError::Fenced)) if self.row_locked.load(Ordering::Relaxed) => {
                    pause = soon;
                }
                Ok(Err(StoreError::Fenced)) => return Interruption::TakenOver,
                // The lease is still valid: a record renewed it meanwhile, or a record that holds
                // the row lock is about to end.
                Err(_) | Ok(Err(_)) if self.is_valid() => pause = soon,
                Err(_) | Ok(Err(_)) => return Interruption::LeaseExpired,
            }
        }
    }
}

/// Returns the instant until which writes may be sent. One call may take a sixth of the lease, so
/// no write is sent in the last sixth.
fn writable_until(since: Instant, length: Duration) -> Instant {
    since + length * 5 / 6
}
