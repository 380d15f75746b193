//! Runs the loops that serve all tenants, with a limit on concurrency and a timeout for each item,
//! so that a failure of one item does not affect the others.
//!
//! The observation of meshes, the monitoring of clusters and the delivery of events are such loops:
//! each one claims due items one after the other and processes many of them at once. A tenant has
//! at most half of the concurrent items, and the last quarter is kept for tenants that have none in
//! flight.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use jiff::Timestamp;
use meshwright_model::ids::TenantId;
use meshwright_store::StoreError;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::guarded_call::CallFailure;
use crate::{Engine, metrics};

/// Divisor of the concurrency: one tenant has at most a half.
const TENANT_SHARE_DIVISOR: usize = 2;
/// Divisor of the concurrency: a quarter is kept for tenants that have no item in flight.
const RESERVE_DIVISOR: usize = 4;

/// A loop that processes due items again and again.
#[async_trait]
pub(crate) trait WorkLoop: Clone + Send + Sync + 'static {
    /// Item that the loop claims and processes.
    type Due: Send + 'static;
    /// Name of the loop in logs and metrics.
    const NAME: &'static str;
    /// Maximum number of items that are in flight at once.
    const MAX_CONCURRENT: usize;

    /// Claims the item that has been due longest, except items of the tenants in `without`.
    async fn claim_due(
        &self,
        engine: &Engine,
        without: &[TenantId],
    ) -> Result<Option<(TenantId, Self::Due)>, StoreError>;

    /// Processes a claimed item. Calls to clusters and webhook addresses have their own timeouts in
    /// the implementation.
    async fn process_due(&self, engine: &Engine, due: Self::Due) -> Result<(), StoreError>;
}

/// Number of items that each tenant has in flight in one loop.
#[derive(Debug, Default)]
struct TenantShares {
    in_flight: Mutex<BTreeMap<TenantId, usize>>,
    freed: Notify,
}

impl TenantShares {
    /// Returns the tenants that are at their limit now, or `None` while the loop has reached its
    /// maximum concurrency.
    fn tenants_at_limit(&self, width: usize) -> Option<Vec<TenantId>> {
        let under_way = self.in_flight.lock().expect("no holder panics");
        let free = width
            .checked_sub(under_way.values().sum())
            .filter(|free| *free > 0)?;
        let most = if free > width / RESERVE_DIVISOR {
            (width / TENANT_SHARE_DIVISOR).max(1)
        } else {
            1
        };
        Some(
            under_way
                .iter()
                .filter(|(_, count)| **count >= most)
                .map(|(tenant, _)| *tenant)
                .collect(),
        )
    }

    /// Counts one more item of a tenant until the returned guard is dropped.
    fn acquire_share(self: Arc<Self>, tenant: TenantId) -> ShareGuard {
        *self
            .in_flight
            .lock()
            .expect("no holder panics")
            .entry(tenant)
            .or_default() += 1;
        ShareGuard {
            shares: self,
            tenant,
        }
    }
}

/// Guard of one item in flight, which is no longer counted when the guard is dropped.
struct ShareGuard {
    shares: Arc<TenantShares>,
    tenant: TenantId,
}

impl Drop for ShareGuard {
    fn drop(&mut self) {
        let mut under_way = self.shares.in_flight.lock().expect("no holder panics");
        if let Some(count) = under_way.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.tenant);
            }
        }
        drop(under_way);
        self.shares.freed.notify_one();
    }
}

impl Engine {
    /// Returns the time for which an item is claimed: the timeout of the check, and time to record
    /// the result.
    pub(crate) fn item_claim_duration(&self) -> Duration {
        self.settings.cluster_timeout + self.settings.lease_duration
    }

    /// Returns the delay before the next check of an item whose check began at `begun`. It is at
    /// least as long as the check took, so that a slow item is in flight for at most half of the
    /// time.
    pub(crate) fn next_check_delay(&self, begun: Timestamp, interval: Duration) -> Duration {
        let took = self.clock.now().duration_since(begun);
        interval.max(Duration::try_from(took).unwrap_or_default())
    }

    /// Runs a loop until `stop` is cancelled, then waits for the items in flight.
    pub(crate) async fn run_loop<R: WorkLoop>(self, round: R, stop: CancellationToken) {
        let (shares, under_way) = (Arc::new(TenantShares::default()), TaskTracker::new());
        while !stop.is_cancelled() {
            let claimed = match shares.tenants_at_limit(R::MAX_CONCURRENT) {
                Some(without) => round.claim_due(&self, &without).await,
                None => Ok(None),
            };
            match claimed {
                Ok(Some((tenant, due))) => {
                    let (engine, round, seat) = (
                        self.clone(),
                        round.clone(),
                        shares.clone().acquire_share(tenant),
                    );
                    under_way.spawn(async move {
                        engine.process_item(&round, due).await;
                        drop(seat);
                    });
                    continue;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(
                        round = R::NAME,
                        error = &error as &dyn std::error::Error,
                        "could not claim a due item; retrying"
                    );
                }
            }
            tokio::select! { () = tokio::time::sleep(self.settings.poll_interval) => {}, () = shares.freed.notified() => {}, () = stop.cancelled() => {} }
        }
        under_way.close();
        under_way.wait().await;
    }

    /// Processes one item. Errors and panics are logged, and the item is due again when its claim
    /// ends.
    async fn process_item<R: WorkLoop>(&self, round: &R, due: R::Due) {
        match AssertUnwindSafe(round.process_due(self, due))
            .catch_unwind()
            .await
        {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(
                    round = R::NAME,
                    error = &error as &dyn std::error::Error,
                    "could not read or record a due item in the database; retrying later"
                );
            }
            Err(_) => metrics::report_given_up_call(R::NAME, CallFailure::Panicked),
        }
    }
}

/// Restarts a loop of the worker that panicked, so that a running worker always does all of its
/// work.
pub(crate) async fn run_supervised<F: Future<Output = ()>>(
    name: &'static str,
    pause: Duration,
    mut begin: impl FnMut() -> F,
) {
    while AssertUnwindSafe(begin()).catch_unwind().await.is_err() {
        tracing::error!(
            task = name,
            "a background loop of the worker panicked; restarting it"
        );
        metrics::count_task_restart(name);
        tokio::time::sleep(pause).await;
    }
}
