//! Claims what is due and sees it through.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::Clock;
use rollout::decide::Patience;
use store::{Claim, Store, StoreError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::run::Run;
use crate::{Post, Worlds};

/// The tasks of a worker besides operations: one observes meshes, one looks after clusters, one sends events,
/// one measures the queue.
const WATCHERS: usize = 4;

/// How a worker behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name in the queue.
    pub owner: String,
    /// How long a claim lasts without a renewal. A predecessor may hang that long before its work goes on elsewhere.
    pub lease: Duration,
    /// How often the queue is looked at without a hint.
    pub poll: Duration,
    /// How many operations it runs at once.
    pub width: usize,
    /// How long steps may take before a person is asked.
    pub patience: Patience,
    /// How often each mesh is observed.
    pub observe: Duration,
    /// How often each cluster that answers is looked after.
    pub tend: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            owner: format!("worker-{}", std::process::id()),
            lease: Duration::from_secs(30),
            poll: Duration::from_secs(1),
            width: 32,
            patience: Patience::default(),
            observe: Duration::from_secs(10),
            tend: Duration::from_mins(1),
        }
    }
}

/// A worker. Clones share everything.
#[derive(Clone)]
pub struct Engine {
    pub(crate) store: Store,
    pub(crate) worlds: Arc<dyn Worlds>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: Settings,
    pub(crate) post: Option<Arc<dyn Post>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Engine {
    /// A worker on this database.
    pub fn new(store: Store, worlds: Arc<dyn Worlds>, clock: Arc<dyn Clock>, settings: Settings) -> Self {
        Self { store, worlds, clock, settings, post: None }
    }

    /// The same worker, which sends events to webhooks as well.
    #[must_use]
    pub fn with_post(self, post: Arc<dyn Post>) -> Self {
        Self { post: Some(post), ..self }
    }

    /// Its database.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Works until told to stop, then lets what is under way come to a point where it can be let go.
    pub async fn work(&self, stop: CancellationToken) {
        let running = TaskTracker::new();
        running.spawn(self.clone().observe(stop.clone()));
        running.spawn(self.clone().tend(stop.clone()));
        running.spawn(self.clone().deliver(stop.clone()));
        running.spawn(self.clone().measure(stop.clone()));
        let mut hints = self.store.hints();
        while !stop.is_cancelled() {
            if running.len() >= self.settings.width + WATCHERS {
                tokio::select! { () = tokio::time::sleep(self.settings.poll) => {}, () = stop.cancelled() => {} }
                continue;
            }
            match self.claim().await {
                Ok(Some((claim, since))) => {
                    let (engine, stop) = (self.clone(), stop.clone());
                    let span = tracing::info_span!("operation", operation.id = %claim.operation, epoch = claim.epoch);
                    let seen_through = async move { engine.see_through(claim, since, &stop).await };
                    running.spawn(seen_through.instrument(span));
                }
                Ok(None) => {
                    tokio::select! { () = hints.wait(self.settings.poll) => {}, () = stop.cancelled() => {} }
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the queue cannot be read; trying again");
                    tokio::select! { () = tokio::time::sleep(self.settings.poll) => {}, () = stop.cancelled() => {} }
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
        while let Some((claim, since)) = self.claim().await? {
            self.see_through(claim, since, &CancellationToken::new()).await;
            count += 1;
        }
        Ok(count)
    }

    /// The lease is counted from before the claim was sent: it can only be longer in truth.
    async fn claim(&self) -> Result<Option<(Claim, Instant)>, StoreError> {
        let since = Instant::now();
        let claim = self.store.claim(&self.settings.owner, self.settings.lease).await?;
        Ok(claim.map(|claim| (claim, since)))
    }

    /// A clash with another transaction is a tiny crash: the same claim begins anew with what is recorded.
    async fn see_through(&self, claim: Claim, mut since: Instant, stop: &CancellationToken) {
        loop {
            let result = match self.run(claim, since, stop).await {
                Err(StoreError::Clash) => {
                    since = Instant::now();
                    self.store.renew(&claim, self.settings.lease).await
                }
                other => return ended(claim, other),
            };
            if result.is_err() {
                return ended(claim, result);
            }
        }
    }

    async fn run(&self, claim: Claim, since: Instant, stop: &CancellationToken) -> Result<(), StoreError> {
        Run::load(self, claim, since).await?.drive(stop).await
    }
}

fn ended(claim: Claim, result: Result<(), StoreError>) {
    match result {
        Ok(()) => {}
        Err(StoreError::Fenced) => {
            tracing::info!(operation.id = %claim.operation, epoch = claim.epoch, "another worker has taken over");
        }
        Err(error) => {
            // The lease runs out by itself, and whoever claims next begins with a look.
            tracing::error!(operation.id = %claim.operation, error = &error as &dyn std::error::Error, "operation let go after a failure");
        }
    }
}
