//! Workers of a fleet, and the time that passes for them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use model::ids::TenantId;
use store::Store;
use tokio_util::sync::{CancellationToken, DropGuard};
use worker::{Engine, Settings};

use super::worlds::FakeWorlds;
use super::{Fleet, hasty};
use crate::credentials::Credentials;
use crate::relay::Relay;
use crate::{FakeWorld, Process};

/// How often the clock is moved on.
const STROKE: Duration = Duration::from_millis(20);

impl Fleet {
    /// A worker of this name with this lease.
    pub fn worker(&self, owner: &str, lease: Duration) -> Engine {
        self.worker_on(self.db.worker.clone(), owner, lease)
    }

    /// A worker that serves another tenant's fleet in the same database, too.
    pub fn worker_with(&self, other: &Self, owner: &str, lease: Duration) -> Engine {
        self.worker_set(other, self.settings(owner, lease))
    }

    /// The same with settings of its own.
    pub fn worker_set(&self, other: &Self, settings: Settings) -> Engine {
        let beside = Some((other.db.tenant, other.world.clone(), other.credentials.clone()));
        self.maker_with(settings, beside)(self.db.worker.clone())
    }

    /// Moves the clock on with the real one, so many times as fast, until the answer is dropped.
    pub fn wind(&self, times: u32) -> DropGuard {
        let (stop, clock) = (CancellationToken::new(), self.clock.clone());
        let stopped = stop.clone();
        tokio::spawn(async move {
            let mut last = Instant::now();
            while !stopped.is_cancelled() {
                tokio::time::sleep(STROKE).await;
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
    pub async fn relayed_worker(&self, owner: &str, lease: Duration, relay: &Relay) -> Engine {
        let url = self.db.relayed_url("mw_worker", relay, lease / 3);
        let store = Store::connect(&url, crate::db::vault()).await.expect("a connection as mw_worker");
        self.worker_on(store, owner, lease)
    }

    /// A worker like a process of its own, which can be stopped; behind a relay, where one is given.
    ///
    /// # Panics
    /// When the machine has no thread left.
    pub fn process(&self, owner: &str, lease: Duration, relay: Option<&Relay>) -> Process {
        let url = match relay {
            Some(relay) => self.db.relayed_url("mw_worker", relay, lease / 3),
            None => self.db.url("mw_worker"),
        };
        Process::start(url, self.maker(self.settings(owner, lease)))
    }

    fn worker_on(&self, store: Store, owner: &str, lease: Duration) -> Engine {
        self.maker(self.settings(owner, lease))(store)
    }

    /// A worker's settings in this fleet.
    pub fn settings(&self, owner: &str, lease: Duration) -> Settings {
        let (owner, poll, patience, look) = (owner.into(), self.poll, hasty(), self.look);
        Settings { owner, lease, poll, patience, look, ..Settings::default() }
    }

    /// Makes a worker of these settings, once it has a connection.
    pub(crate) fn maker(&self, settings: Settings) -> impl FnOnce(Store) -> Engine + Send + use<> {
        self.maker_with(settings, None)
    }

    fn maker_with(
        &self,
        settings: Settings,
        beside: Option<(TenantId, FakeWorld, Credentials)>,
    ) -> impl FnOnce(Store) -> Engine + Send + use<> {
        let (world, unreadable, width) = (self.world.clone(), self.unreadable.clone(), self.width);
        let (credentials, clock) = (self.credentials.clone(), self.clock.clone());
        move |store| {
            let (store_of, clock_of) = (store.clone(), clock.clone());
            let worlds = FakeWorlds { store: store_of, world, width, unreadable, credentials, clock: clock_of, beside };
            Engine::new(store, Arc::new(worlds), clock, settings)
        }
    }
}
