//! Builds the workers of a fleet, and lets time pass for them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use meshwright_model::ids::TenantId;
use meshwright_rollout::decide::Timeouts;
use meshwright_store::Store;
use meshwright_worker::{Engine, Settings};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::worlds::FakeClusterProvider;
use super::{Fleet, short_timeouts};
use crate::credentials::CredentialFaults;
use crate::relay::Relay;
use crate::{FakeClusters, WorkerThread};

/// Interval at which the clock is moved on.
const CLOCK_STEP: Duration = Duration::from_millis(20);

impl Fleet {
    /// Builds a worker with this name and lease.
    pub fn build_worker(&self, owner: &str, lease: Duration) -> Engine {
        self.build_worker_on(self.db.worker.clone(), owner, lease)
    }

    /// Builds a worker that also serves another tenant's fleet in the same database.
    pub fn build_shared_worker(&self, other: &Self, owner: &str, lease: Duration) -> Engine {
        self.build_shared_worker_with(other, self.worker_settings(owner, lease))
    }

    /// Builds a worker as [`Self::build_shared_worker`] does, with settings of its own.
    pub fn build_shared_worker_with(&self, other: &Self, settings: Settings) -> Engine {
        let beside = Some((
            other.db.tenant,
            other.clusters.clone(),
            other.credentials.clone(),
        ));
        self.shared_worker_factory(settings, beside)(self.db.worker.clone())
    }

    /// Moves the clock on `times` as fast as real time, until the returned guard is dropped.
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

    /// Builds a worker behind a relay. PostgreSQL ends a session of it that stays idle in a
    /// transaction for a third of the lease.
    ///
    /// # Panics
    /// Panics when the database fails.
    pub async fn build_relayed_worker(
        &self,
        owner: &str,
        lease: Duration,
        relay: &Relay,
    ) -> Engine {
        let url = self.db.relayed_url("mw_worker", relay, lease / 3);
        let store = Store::connect(&url, crate::db::test_sealer())
            .await
            .expect("a connection as mw_worker");
        self.build_worker_on(store, owner, lease)
    }

    /// Starts a worker on a thread of its own, which can be paused. It is behind a relay if one is
    /// given.
    ///
    /// # Panics
    /// Panics when the machine cannot start a thread.
    pub fn start_worker_thread(
        &self,
        owner: &str,
        lease: Duration,
        relay: Option<&Relay>,
    ) -> WorkerThread {
        let url = match relay {
            Some(relay) => self.db.relayed_url("mw_worker", relay, lease / 3),
            None => self.db.url("mw_worker"),
        };
        WorkerThread::start(url, self.worker_factory(self.worker_settings(owner, lease)))
    }

    fn build_worker_on(&self, store: Store, owner: &str, lease: Duration) -> Engine {
        self.worker_factory(self.worker_settings(owner, lease))(store)
    }

    /// Returns settings for a worker of this fleet.
    pub fn worker_settings(&self, owner: &str, lease: Duration) -> Settings {
        let timeouts = Timeouts {
            unused_check_interval: self.user_search_interval,
            ..short_timeouts()
        };
        Settings {
            worker_name: owner.into(),
            lease_duration: lease,
            poll_interval: self.poll_interval,
            timeouts,
            cluster_timeout: self.cluster_timeout,
            ..Settings::default()
        }
    }

    /// Returns a function that builds a worker with these settings once it gets a connection.
    pub(crate) fn worker_factory(
        &self,
        settings: Settings,
    ) -> impl FnOnce(Store) -> Engine + Send + use<> {
        self.shared_worker_factory(settings, None)
    }

    fn shared_worker_factory(
        &self,
        settings: Settings,
        beside: Option<(TenantId, FakeClusters, CredentialFaults)>,
    ) -> impl FnOnce(Store) -> Engine + Send + use<> {
        let (world, unreadable, width) = (
            self.clusters.clone(),
            self.fail_mesh_reads.clone(),
            self.max_concurrent_restarts,
        );
        let (credentials, clock) = (self.credentials.clone(), self.clock.clone());
        move |store| {
            let (store_of, clock_of) = (store.clone(), clock.clone());
            let worlds = FakeClusterProvider {
                store: store_of,
                clusters: world,
                max_concurrent_restarts: width,
                fail_mesh_reads: unreadable,
                credentials,
                clock: clock_of,
                other_tenant: beside,
            };
            Engine::new(store, Arc::new(worlds), clock, settings)
        }
    }
}
