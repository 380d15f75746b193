//! Claims what is due, as tenants share the places, and supervises a worker's other tasks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::Clock;
use rollout::decide::Patience;
use store::{Claim, Store, StoreError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::deliver::Delivering;
use crate::observe::Observing;
use crate::places::{Place, Places};
use crate::rounds::supervised;
use crate::tend::Tending;
use crate::{Post, Worlds};

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
    /// How long one look at clusters may take, all its calls together: the end of looks whose calls each end in time.
    pub look: Duration,
    /// How long a claim is renewed without its work getting on. Longer than a look, and than one push of many objects.
    pub stall: Duration,
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
            look: Duration::from_mins(4),
            stall: Duration::from_mins(10),
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
    places: Places,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Engine {
    /// A worker on this database.
    pub fn new(store: Store, worlds: Arc<dyn Worlds>, clock: Arc<dyn Clock>, settings: Settings) -> Self {
        Self { store, worlds, clock, settings, post: None, places: Places::default() }
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
        let pause = self.settings.poll;
        let (engine, end) = (self.clone(), stop.clone());
        running.spawn(supervised("observe", pause, move || engine.clone().round(Observing, end.clone())));
        let (engine, end) = (self.clone(), stop.clone());
        running.spawn(supervised("tend", pause, move || engine.clone().round(Tending, end.clone())));
        let (engine, end) = (self.clone(), stop.clone());
        running.spawn(supervised("deliver", pause, move || engine.clone().round(Delivering, end.clone())));
        let (engine, end) = (self.clone(), stop.clone());
        running.spawn(supervised("measure", pause, move || engine.clone().measure(end.clone())));
        let mut hints = self.store.hints();
        while !stop.is_cancelled() {
            match self.claim().await {
                Ok(Some(claimed)) => {
                    let (engine, stop) = (self.clone(), stop.clone());
                    let claim = &claimed.claim;
                    let span = tracing::info_span!("operation", operation.id = %claim.operation, epoch = claim.epoch);
                    let seen_through = async move { engine.see_through(claimed, &stop).await };
                    running.spawn(seen_through.instrument(span));
                }
                Ok(None) => {
                    tokio::select! { () = hints.wait(pause) => {}, () = self.places.freed() => {}, () = stop.cancelled() => {} }
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
        while let Some(claimed) = self.claim().await? {
            self.see_through(claimed, &CancellationToken::new()).await;
            count += 1;
        }
        Ok(count)
    }

    /// Claims what comes next by the shares of tenants; `None` when nothing is due or no place is free for it.
    async fn claim(&self) -> Result<Option<Claimed>, StoreError> {
        let Some(wanted) = self.places.wanted(self.settings.width) else { return Ok(None) };
        let since = Instant::now();
        let claim = self.store.claim(&self.settings.owner, self.settings.lease, &wanted).await?;
        Ok(claim.and_then(|claim| Some(Claimed { place: self.places.take(&claim)?, claim, since })))
    }
}

/// A claim with the place that it takes.
pub(crate) struct Claimed {
    pub(crate) claim: Claim,
    /// Before the claim was sent: the lease can only be longer in truth.
    pub(crate) since: Instant,
    pub(crate) place: Place,
}
