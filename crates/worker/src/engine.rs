//! Claims due operations within the capacity of the worker, shared fairly among tenants, and
//! supervises the other loops of a worker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meshwright_model::Clock;
use meshwright_rollout::decide::Timeouts;
use meshwright_store::{Claim, Store, StoreError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::capacity::{CapacityGuard, WorkerCapacity};
use crate::cluster_monitor::ClusterMonitoring;
use crate::mesh_observer::MeshObservation;
use crate::rounds::run_supervised;
use crate::webhook_delivery::WebhookDelivery;
use crate::{ClusterProvider, WebhookSender};

/// Settings of a worker.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the worker in the queue and in the audit log.
    pub worker_name: String,
    /// Duration of a lease without a renewal. A worker that hangs delays an operation by this time
    /// before another worker can claim it.
    pub lease_duration: Duration,
    /// Interval at which the queue is polled when no work notification arrives.
    pub poll_interval: Duration,
    /// Maximum number of operations that the worker runs at once.
    pub max_concurrent_operations: usize,
    /// Timeouts of steps, after which a person has to act.
    pub timeouts: Timeouts,
    /// Timeout of one check of clusters, all its calls together. It bounds a check whose calls each
    /// end in time.
    pub cluster_timeout: Duration,
    /// Time for which a claim is renewed while its work makes no progress. It must be longer than
    /// one check of clusters, and longer than one write of many objects.
    pub stall_timeout: Duration,
    /// Interval at which each mesh is observed.
    pub mesh_observation_interval: Duration,
    /// Interval at which each cluster that answers is checked.
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

/// A worker. All clones share one state.
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
        f.debug_struct("Engine")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Creates a worker that uses this database and this provider of clusters.
    pub fn new(
        store: Store,
        worlds: Arc<dyn ClusterProvider>,
        clock: Arc<dyn Clock>,
        settings: Settings,
    ) -> Self {
        Self {
            store,
            clusters: worlds,
            clock,
            settings,
            webhook_sender: None,
            capacity: WorkerCapacity::default(),
        }
    }

    /// Returns the worker with a sender, so that it delivers events to webhooks as well.
    #[must_use]
    pub fn with_webhook_sender(self, post: Arc<dyn WebhookSender>) -> Self {
        Self {
            webhook_sender: Some(post),
            ..self
        }
    }

    /// Returns the store that the worker uses.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Runs the worker until `stop` is cancelled, then waits until every operation has reached a
    /// point where its claim can be given up.
    pub async fn run_until_stopped(&self, stop: CancellationToken) {
        let running = TaskTracker::new();
        let pause = self.settings.poll_interval;
        let (engine, end) = (self.clone(), stop.clone());
        running.spawn(run_supervised("observe", pause, move || {
            engine.clone().run_loop(MeshObservation, end.clone())
        }));
        let (engine, end) = (self.clone(), stop.clone());
        running.spawn(run_supervised("tend", pause, move || {
            engine.clone().run_loop(ClusterMonitoring, end.clone())
        }));
        let (engine, end) = (self.clone(), stop.clone());
        running.spawn(run_supervised("deliver", pause, move || {
            engine.clone().run_loop(WebhookDelivery, end.clone())
        }));
        let (engine, end) = (self.clone(), stop.clone());
        running.spawn(run_supervised("measure", pause, move || {
            engine.clone().measure_queue(end.clone())
        }));
        let mut hints = self.store.work_notifications();
        while !stop.is_cancelled() {
            match self.claim_operation().await {
                Ok(Some(claimed)) => {
                    let (engine, stop) = (self.clone(), stop.clone());
                    let claim = &claimed.claim;
                    let span = tracing::info_span!("operation", operation.id = %claim.operation, epoch = claim.epoch);
                    let seen_through =
                        async move { engine.run_to_completion(claimed, &stop).await };
                    running.spawn(seen_through.instrument(span));
                }
                Ok(None) => {
                    tokio::select! { () = hints.wait(pause) => {}, () = self.capacity.wait_for_capacity() => {}, () = stop.cancelled() => {} }
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "could not read the operation queue; retrying"
                    );
                    tokio::select! { () = tokio::time::sleep(pause) => {}, () = stop.cancelled() => {} }
                }
            }
        }
        running.close();
        running.wait().await;
    }

    /// Runs due operations one after the other until none is due. Returns the number of operations
    /// that were run.
    ///
    /// # Errors
    /// Returns an error when the queue cannot be read.
    pub async fn run_due(&self) -> Result<usize, StoreError> {
        let mut count = 0;
        while let Some(claimed) = self.claim_operation().await? {
            self.run_to_completion(claimed, &CancellationToken::new())
                .await;
            count += 1;
        }
        Ok(count)
    }

    /// Claims the next operation by the shares of the tenants. Returns `None` when no operation is
    /// due or the worker has no free capacity for one.
    async fn claim_operation(&self) -> Result<Option<ClaimedOperation>, StoreError> {
        let Some(wanted) = self
            .capacity
            .claim_filter(self.settings.max_concurrent_operations)
        else {
            return Ok(None);
        };
        let since = Instant::now();
        let claim = self
            .store
            .claim_operation(
                &self.settings.worker_name,
                self.settings.lease_duration,
                &wanted,
            )
            .await?;
        Ok(claim.and_then(|claim| {
            Some(ClaimedOperation {
                capacity_guard: self.capacity.try_acquire(&claim)?,
                claim,
                requested_at: since,
            })
        }))
    }
}

/// A claim with the capacity that it occupies.
pub(crate) struct ClaimedOperation {
    pub(crate) claim: Claim,
    /// Instant before the claim was sent to the database. The lease that is counted from it ends no
    /// later than the lease in the database.
    pub(crate) requested_at: Instant,
    pub(crate) capacity_guard: CapacityGuard,
}
