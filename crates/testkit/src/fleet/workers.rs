//! Workers of a fleet, and the time that passes for them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use model::ids::TenantId;
use store::Store;
use tokio_util::sync::{CancellationToken, DropGuard};
use worker::{Engine, Settings};

use super::worlds::FakeClusterProvider;
use super::{Fleet, short_timeouts};
use crate::credentials::CredentialFaults;
use crate::relay::Relay;
use crate::{FakeClusters, WorkerThread};

/// How often the clock is moved on.
const CLOCK_STEP: Duration = Duration::from_millis(20);

impl Fleet {
    /// A worker of this name with this lease.
    pub fn build_worker(&self, owner: &str, lease: Duration) -> Engine {
        self.build_worker_on(self.db.worker.clone(), owner, lease)
    }

    /// A worker that serves another tenant's fleet in the same database, too.
    pub fn build_shared_worker(&self, other: &Self, owner: &str, lease: Duration) -> Engine {
        self.build_shared_worker_with(other, self.worker_settings(owner, lease))
    }

    /// The same with settings of its own.
    pub fn build_shared_worker_with(&self, other: &Self, settings: Settings) -> Engine {
        let beside = Some((other.db.tenant, other.clusters.clone(), other.credentials.clone()));
        self.shared_worker_factory(settings, beside)(self.db.worker.clone())
    }

    /// Moves the clock on with the real one, so many times as fast, until the answer is dropped.
    pub fn run_clock(&self, times: u32) -> DropGuard {
        let (stop, clock) = (CancellationToken::new(), self.clock.clone());
        let stopped = stop.clone();
        tokio::spawn(async move {
            let mut last = Instant::now();
            while !stopped.is_cancelled() {
                tokio::time::sleep(CLOCK_STEP).await;
                let passed = std::mem::replace(&mut last, Instant::now()).elapsed() * times;
                clock.advance(SignedDuration::try_from(passed).unwrap_or(SignedDuration::ZERO));
            }
        });
        stop.drop_guard()
    }

    /// A worker behind a relay. A session that stands still in a transaction ends after a third of the lease.
    ///
    /// # Panics
    /// When the database fails.
    pub async fn build_relayed_worker(&self, owner: &str, lease: Duration, relay: &Relay) -> Engine {
        let url = self.db.relayed_url("mw_worker", relay, lease / 3);
        let store = Store::connect(&url, crate::db::test_sealer()).await.expect("a connection as mw_worker");
        self.build_worker_on(store, owner, lease)
    }

    /// A worker like a process of its own, which can be stopped; behind a relay, where one is given.
    ///
    /// # Panics
    /// When the machine has no thread left.
    pub fn start_worker_thread(&self, owner: &str, lease: Duration, relay: Option<&Relay>) -> WorkerThread {
        let url = match relay {
            Some(relay) => self.db.relayed_url("mw_worker", relay, lease / 3),
            None => self.db.url("mw_worker"),
        };
        WorkerThread::start(url, self.worker_factory(self.worker_settings(owner, lease)))
    }

    fn build_worker_on(&self, store: Store, owner: &str, lease: Duration) -> Engine {
        self.worker_factory(self.worker_settings(owner, lease))(store)
    }

    /// A worker's settings in this fleet.
    pub fn worker_settings(&self, owner: &str, lease: Duration) -> Settings {
        let (owner, poll, patience, look) = (owner.into(), self.poll_interval, short_timeouts(), self.cluster_timeout);
        Settings { worker_name: owner, lease_duration: lease, poll_interval: poll, timeouts: patience, cluster_timeout: look, ..Settings::default() }
    }

    /// Makes a worker of these settings, once it has a connection.
    pub(crate) fn worker_factory(&self, settings: Settings) -> impl FnOnce(Store) -> Engine + Send + use<> {
        self.shared_worker_factory(settings, None)
    }

    fn shared_worker_factory(
        &self,
        settings: Settings,
        beside: Option<(TenantId, FakeClusters, CredentialFaults)>,
    ) -> impl FnOnce(Store) -> Engine + Send + use<> {
        let (world, unreadable, width) = (self.clusters.clone(), self.fail_mesh_reads.clone(), self.max_concurrent_restarts);
        let (credentials, clock) = (self.credentials.clone(), self.clock.clone());
        move |store| {
            let (store_of, clock_of) = (store.clone(), clock.clone());
            let worlds = FakeClusterProvider { store: store_of, clusters: world, max_concurrent_restarts: width, fail_mesh_reads: unreadable, credentials, clock: clock_of, other_tenant: beside };
            Engine::new(store, Arc::new(worlds), clock, settings)
        }
    }
}
