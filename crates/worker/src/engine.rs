//! Claims what is due, as tenants share the places, and supervises a worker's other tasks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::Clock;
use rollout::decide::Timeouts;
use store::{Claim, Store, StoreError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::deliver::WebhookDelivery;
use crate::observe::MeshObservation;
use crate::places::{CapacityGuard, WorkerCapacity};
use crate::rounds::run_supervised;
use crate::tend::ClusterMonitoring;
use crate::{WebhookSender, ClusterProvider};

/// How a worker behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name in the queue.
    pub worker_name: String,
    /// How long a claim lasts without a renewal. A predecessor may hang that long before its work goes on elsewhere.
    pub lease_duration: Duration,
    /// How often the queue is looked at without a hint.
    pub poll_interval: Duration,
    /// How many operations it runs at once.
    pub max_concurrent_operations: usize,
    /// How long steps may take before a person is asked.
    pub timeouts: Timeouts,
    /// How long one look at clusters may take, all its calls together: the end of looks whose calls each end in time.
    pub cluster_timeout: Duration,
    /// How long a claim is renewed without its work getting on. Longer than a look, and than one push of many objects.
    pub stall_timeout: Duration,
    /// How often each mesh is observed.
    pub mesh_observation_interval: Duration,
    /// How often each cluster that answers is looked after.
    pub cluster_check_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            worker_name: format!("worker-{}", std::process::id()),
            lease_duration: Duration::from_secs(30),
            poll_interval: Duration::from_secs(1),
            max_concurrent_operations: 32,
            timeouts: Timeouts::default(),
            cluster_timeout: Duration::from_mins(4),
            stall_timeout: Duration::from_mins(10),
            mesh_observation_interval: Duration::from_secs(10),
            cluster_check_interval: Duration::from_mins(1),
        }
    }
}

/// A worker. Clones share everything.
#[derive(Clone)]
pub struct Engine {
    pub(crate) store: Store,
    pub(crate) clusters: Arc<dyn ClusterProvider>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: Settings,
    pub(crate) webhook_sender: Option<Arc<dyn WebhookSender>>,
    capacity: WorkerCapacity,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Engine {
    /// A worker on this database.
    pub fn new(store: Store, worlds: Arc<dyn ClusterProvider>, clock: Arc<dyn Clock>, settings: Settings) -> Self {
        Self { store, clusters: worlds, clock, settings, webhook_sender: None, capacity: WorkerCapacity::default() }
    }

    /// The same worker, which sends events to webhooks as well.
    #[must_use]
    pub fn with_webhook_sender(self, post: Arc<dyn WebhookSender>) -> Self {
        Self { webhook_sender: Some(post), ..self }
    }

    /// Its database.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Works until told to stop, then lets what is under way come to a point where it can be let go.
    pub async fn run_until_stopped(&self, stop: CancellationToken) {
        let running = TaskTracker::new();
        let pause = self.settings.poll_interval;
        let (engine, end) = (self.clone(), stop.clone());
        running.spawn(run_supervised("observe", pause, move || engine.clone().run_loop(MeshObservation, end.clone())));
        let (engine, end) = (self.clone(), stop.clone());
        running.spawn(run_supervised("tend", pause, move || engine.clone().run_loop(ClusterMonitoring, end.clone())));
        let (engine, end) = (self.clone(), stop.clone());
        running.spawn(run_supervised("deliver", pause, move || engine.clone().run_loop(WebhookDelivery, end.clone())));
        let (engine, end) = (self.clone(), stop.clone());
        running.spawn(run_supervised("measure", pause, move || engine.clone().measure_queue(end.clone())));
        let mut hints = self.store.work_notifications();
        while !stop.is_cancelled() {
            match self.claim_operation().await {
                Ok(Some(claimed)) => {
                    let (engine, stop) = (self.clone(), stop.clone());
                    let claim = &claimed.claim;
                    let span = tracing::info_span!("operation", operation.id = %claim.operation, epoch = claim.epoch);
                    let seen_through = async move { engine.run_to_completion(claimed, &stop).await };
                    running.spawn(seen_through.instrument(span));
                }
                Ok(None) => {
                    tokio::select! { () = hints.wait(pause) => {}, () = self.capacity.wait_for_capacity() => {}, () = stop.cancelled() => {} }
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the queue cannot be read; trying again");
                    tokio::select! { () = tokio::time::sleep(pause) => {}, () = stop.cancelled() => {} }
                }
            }
        }
        running.close();
        running.wait().await;
    }

    /// Runs everything that is due, one operation after the other, until nothing is. Answers how many were run.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub async fn run_due(&self) -> Result<usize, StoreError> {
        let mut count = 0;
        while let Some(claimed) = self.claim_operation().await? {
            self.run_to_completion(claimed, &CancellationToken::new()).await;
            count += 1;
        }
        Ok(count)
    }

    /// Claims what comes next by the shares of tenants; `None` when nothing is due or no place is free for it.
    async fn claim_operation(&self) -> Result<Option<ClaimedOperation>, StoreError> {
        let Some(wanted) = self.capacity.claim_filter(self.settings.max_concurrent_operations) else { return Ok(None) };
        let since = Instant::now();
        let claim = self.store.claim_operation(&self.settings.worker_name, self.settings.lease_duration, &wanted).await?;
        Ok(claim.and_then(|claim| Some(ClaimedOperation { capacity_guard: self.capacity.try_acquire(&claim)?, claim, requested_at: since })))
    }
}

/// A claim with the place that it takes.
pub(crate) struct ClaimedOperation {
    pub(crate) claim: Claim,
    /// Before the claim was sent: the lease can only be longer in truth.
    pub(crate) requested_at: Instant,
    pub(crate) capacity_guard: CapacityGuard,
}
