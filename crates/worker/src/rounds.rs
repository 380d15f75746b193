//! Looks that all tenants share: so many at once, a limit for each, and a failure of one that concerns no other.
//!
//! Observation, the care for clusters and the delivery of events are rounds: each claims what is due, one thing after the
//! other, and works on many at once. A tenant has half of them at most, and the last quarter is kept for tenants that have
//! none under way.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use jiff::Timestamp;
use model::ids::TenantId;
use store::StoreError;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Engine, vitals};

/// A tenant has one part in so many at most.
const TENANT_SHARE_DIVISOR: usize = 2;
/// One part in so many is kept for tenants that have nothing under way.
const RESERVE_DIVISOR: usize = 4;

/// Something that a worker does again and again for what is due.
#[async_trait]
pub(crate) trait WorkLoop: Clone + Send + Sync + 'static {
    /// What is due.
    type Due: Send + 'static;
    /// What it is called in logs and metrics.
    const NAME: &'static str;
    /// How many are under way at once.
    const MAX_CONCURRENT: usize;

    /// Takes what has been due the longest, leaving out these tenants.
    async fn claim_due(&self, engine: &Engine, without: &[TenantId]) -> Result<Option<(TenantId, Self::Due)>, StoreError>;

    /// Does it. Calls of clusters and addresses have their own limits in here.
    async fn process_due(&self, engine: &Engine, due: Self::Due) -> Result<(), StoreError>;
}

/// Why a call was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallFailure {
    /// It took too long.
    TimedOut,
    /// It panicked.
    Panicked,
}

impl CallFailure {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::TimedOut => "too_slow",
            Self::Panicked => "panicked",
        }
    }
}

/// Waits for a call, but neither for ever nor through a panic.
pub(crate) async fn run_with_timeout<T>(limit: Duration, call: impl Future<Output = T>) -> Result<T, CallFailure> {
    match tokio::time::timeout(limit, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(CallFailure::Panicked),
        Err(_) => Err(CallFailure::TimedOut),
    }
}

/// How many of a round's looks each tenant has under way.
#[derive(Debug, Default)]
struct TenantShares {
    in_flight: Mutex<BTreeMap<TenantId, usize>>,
    freed: Notify,
}

impl TenantShares {
    /// The tenants that are left out now; `None` while as many are under way as may be.
    fn tenants_at_limit(&self, width: usize) -> Option<Vec<TenantId>> {
        let under_way = self.in_flight.lock().expect("no holder panics");
        let free = width.checked_sub(under_way.values().sum()).filter(|free| *free > 0)?;
        let most = if free > width / RESERVE_DIVISOR { (width / TENANT_SHARE_DIVISOR).max(1) } else { 1 };
        Some(under_way.iter().filter(|(_, count)| **count >= most).map(|(tenant, _)| *tenant).collect())
    }

    fn acquire_share(self: Arc<Self>, tenant: TenantId) -> ShareGuard {
        *self.in_flight.lock().expect("no holder panics").entry(tenant).or_default() += 1;
        ShareGuard { shares: self, tenant }
    }
}

/// One look's seat, given back when this is dropped.
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
    /// How long a look holds what it looks at: its own limit, and time to record what it saw.
    pub(crate) fn item_claim_duration(&self) -> Duration {
        self.settings.cluster_timeout + self.settings.lease_duration
    }

    /// How long something rests after a look that began at this time: at least as long as the look took, so that what is
    /// slow takes half of a seat at most.
    pub(crate) fn next_check_delay(&self, begun: Timestamp, interval: Duration) -> Duration {
        let took = self.clock.now().duration_since(begun);
        interval.max(Duration::try_from(took).unwrap_or_default())
    }

    /// Works until told to stop, then waits for what is under way.
    pub(crate) async fn run_loop<R: WorkLoop>(self, round: R, stop: CancellationToken) {
        let (shares, under_way) = (Arc::new(TenantShares::default()), TaskTracker::new());
        while !stop.is_cancelled() {
            let claimed = match shares.tenants_at_limit(R::MAX_CONCURRENT) {
                Some(without) => round.claim_due(&self, &without).await,
                None => Ok(None),
            };
            match claimed {
                Ok(Some((tenant, due))) => {
                    let (engine, round, seat) = (self.clone(), round.clone(), shares.clone().acquire_share(tenant));
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
                        "what is due cannot be read; trying again"
                    );
                }
            }
            tokio::select! { () = tokio::time::sleep(self.settings.poll_interval) => {}, () = shares.freed.notified() => {}, () = stop.cancelled() => {} }
        }
        under_way.close();
        under_way.wait().await;
    }

    async fn process_item<R: WorkLoop>(&self, round: &R, due: R::Due) {
        match AssertUnwindSafe(round.process_due(self, due)).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(
                    round = R::NAME,
                    error = &error as &dyn std::error::Error,
                    "a look was not recorded; trying again"
                );
            }
            Err(_) => vitals::report_failed_call(R::NAME, CallFailure::Panicked),
        }
    }
}

/// Begins a task again that panicked: a worker that lives does all of its work.
pub(crate) async fn run_supervised<F: Future<Output = ()>>(
    name: &'static str,
    pause: Duration,
    mut begin: impl FnMut() -> F,
) {
    while AssertUnwindSafe(begin()).catch_unwind().await.is_err() {
        tracing::error!(task = name, "a task of the worker panicked and begins again");
        vitals::count_task_restart(name);
        tokio::time::sleep(pause).await;
    }
}
