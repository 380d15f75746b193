//! Limits the number of open connections, and decides which connection is closed when one more
//! arrives.
//!
//! A connection is unauthenticated until the credential of a request on it was verified.
//! Unauthenticated connections are closed first, the oldest before the others. A flood of
//! connections without credentials therefore closes its own connections only: a new client is
//! unauthenticated no longer than its first request takes to arrive, and each connection has at
//! least `NEW_CONNECTION_GRACE` for that. Authenticated connections are closed next, the longest
//! idle one first. A connection whose request is being handled is never closed. While the body of
//! the request is still arriving, the service waits for the client, and the connection may be
//! closed. The same holds while the refusal of a caller beyond its rate limit is delayed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

/// Name of the counter of closed connections. The label `reason` tells whether a connection made
/// room for another one (`made_room`) or found no room itself (`no_place`).
const CLOSED_METRIC: &str = "meshwright_http_connections_closed_total";

/// Time in which a new connection cannot be closed, so that the head of its first request can
/// arrive. While the first connection in the order is that new, further clients wait; with a
/// thousand connections, 4,000 clients are accepted each second.
const NEW_CONNECTION_GRACE: Duration = Duration::from_millis(250);

/// Share of the permits that are kept free while a flood arrives: one of this number. A client that
/// comes then needs not wait until another connection has closed its socket.
const SPARE_PERMIT_SHARE: usize = 64;

/// Minimum pause before the next attempt to close a connection that was too new.
const MIN_EVICTION_WAIT: Duration = Duration::from_millis(1);

/// Time for a closed connection to give its permit back. Usually it takes a moment.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Limit on the open connections of one listener.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter {
    permits: Arc<Semaphore>,
    /// Number of permits that are kept free by closing connections early.
    spare: usize,
    queue: Mutex<EvictionQueue>,
}

/// Connections that wait for their client, in the order in which they are closed.
#[derive(Debug, Default)]
struct EvictionQueue {
    last_key: u64,
    /// Connections without an authenticated request, by the number that they got when they were
    /// opened.
    unauthenticated: BTreeMap<u64, ClientConnection>,
    /// Authenticated connections, by the number that they got when they began to wait.
    authenticated: BTreeMap<u64, ClientConnection>,
}

/// Handle of a connection, which is an extension of each of its requests.
#[derive(Debug, Clone)]
pub(crate) struct ClientConnection(Arc<ConnectionState>);

#[derive(Debug)]
struct ConnectionState {
    limiter: Arc<ConnectionLimiter>,
    /// Key of the connection in the map that it stands in.
    queue_key: AtomicU64,
    authenticated: AtomicBool,
    /// Time limit for reading the body of one request.
    body_timeout: Duration,
    connected_at: Instant,
    task: OnceLock<AbortHandle>,
}

/// Result of an attempt to close a connection.
enum EvictionOutcome {
    /// A connection is being closed.
    Evicted,
    /// The connection that is first in the order is still too new; it can be closed after this
    /// time.
    RetryIn(Duration),
    /// Each connection has a request that is being handled.
    AllBusy,
}

impl ConnectionLimiter {
    /// Creates a limit of `count` open connections.
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(count)),
            spare: count / SPARE_PERMIT_SHARE,
            queue: Mutex::default(),
        })
    }

    fn lock_queue(&self) -> MutexGuard<'_, EvictionQueue> {
        self.queue.lock().expect("no holder panics")
    }

    /// Takes a permit for a new connection, and closes another connection if all permits are taken.
    /// Returns `None`, and counts that, if each connection has a request that is being handled, or
    /// if the closed connection kept its permit for too long.
    pub(crate) async fn acquire_permit(&self) -> Option<OwnedSemaphorePermit> {
        let place = self.find_permit().await;
        if place.is_none() {
            metrics::counter!(CLOSED_METRIC, "reason" => "no_place").increment(1);
        }
        place
    }

    async fn find_permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.permits.clone().try_acquire_owned() {
            self.restore_spare_permits();
            return Some(place);
        }
        loop {
            match self.try_evict() {
                EvictionOutcome::Evicted => break,
                EvictionOutcome::RetryIn(moment) => tokio::time::sleep(moment).await,
                EvictionOutcome::AllBusy => return None,
            }
        }
        // The permit comes back after the other connection has closed its socket, so that the
        // number of open sockets stays within the limit.
        tokio::time::timeout(EVICTION_TIMEOUT, self.permits.clone().acquire_owned())
            .await
            .ok()?
            .ok()
    }

    /// Closes an unauthenticated connection if too few permits are free. No authenticated
    /// connection is closed for a spare permit.
    fn restore_spare_permits(&self) {
        let mut order = self.lock_queue();
        if self.permits.available_permits() < self.spare
            && order.remaining_grace().is_none()
            && let Some((_, connection)) = order.unauthenticated.pop_first()
        {
            connection.close_for_another();
        }
    }

    /// Closes the connection that is first in the order, if one can be closed.
    pub(crate) fn evict_connection(&self) {
        self.try_evict();
    }

    /// Closes the connection that is first in the order, and tells why if none could be closed.
    fn try_evict(&self) -> EvictionOutcome {
        let mut order = self.lock_queue();
        if let Some(left) = order.remaining_grace() {
            return EvictionOutcome::RetryIn(left.max(MIN_EVICTION_WAIT));
        }
        let first = order
            .unauthenticated
            .pop_first()
            .or_else(|| order.authenticated.pop_first());
        let Some((_, connection)) = first else {
            return EvictionOutcome::AllBusy;
        };
        connection.close_for_another();
        EvictionOutcome::Evicted
    }

    /// Registers a new connection, with a time limit for each request body on it.
    pub(crate) fn register_connection(self: &Arc<Self>, body: Duration) -> ClientConnection {
        let (turn, known) = (
            AtomicU64::new(self.lock_queue().next_key()),
            AtomicBool::new(false),
        );
        let (since, task) = (Instant::now(), OnceLock::new());
        ClientConnection(Arc::new(ConnectionState {
            limiter: self.clone(),
            queue_key: turn,
            authenticated: known,
            body_timeout: body,
            connected_at: since,
            task,
        }))
    }
}

impl EvictionQueue {
    /// Returns the next number of the order; each number is given out once.
    fn next_key(&mut self) -> u64 {
        self.last_key += 1;
        self.last_key
    }

    /// Returns the time for which the first unauthenticated connection cannot be closed yet.
    fn remaining_grace(&self) -> Option<Duration> {
        let (_, first) = self.unauthenticated.first_key_value()?;
        NEW_CONNECTION_GRACE.checked_sub(first.0.connected_at.elapsed())
    }
}

impl ClientConnection {
    /// Sets the task that serves the connection. The connection can be closed from now on.
    pub(crate) fn set_task(&self, task: AbortHandle) {
        // Only the code that has just spawned the task calls this, once for each connection.
        let _ = self.0.task.set(task);
    }

    /// Closes the connection, which was taken out of the order, to make room for another one.
    fn close_for_another(&self) {
        metrics::counter!(CLOSED_METRIC, "reason" => "made_room").increment(1);
        if let Some(task) = self.0.task.get() {
            task.abort();
        }
    }

    /// Marks the connection as authenticated.
    pub(crate) fn mark_authenticated(&self) {
        self.0.authenticated.store(true, Ordering::Relaxed);
    }

    /// Marks the connection as waiting for its client, which must read an answer or send a request.
    /// It can be closed meanwhile.
    pub(crate) fn mark_waiting(&self) {
        let mut order = self.0.limiter.lock_queue();
        if self.0.authenticated.load(Ordering::Relaxed) {
            let turn = order.next_key();
            self.0.queue_key.store(turn, Ordering::Relaxed);
            order.authenticated.insert(turn, self.clone());
        } else {
            order
                .unauthenticated
                .insert(self.0.queue_key.load(Ordering::Relaxed), self.clone());
        }
    }

    /// Reads the body of a request. Returns `None` if the time limit for a body ends first. The
    /// service waits for the client meanwhile, so the connection can be closed in favour of another
    /// one.
    pub(crate) async fn read_body<T>(&self, read: impl Future<Output = T>) -> Option<T> {
        self.run_while_closable(tokio::time::timeout(self.0.body_timeout, read))
            .await
            .ok()
    }

    /// Waits for a part of a request that needs no work of the service. The connection can be
    /// closed meanwhile in favour of another one.
    pub(crate) async fn run_while_closable<T>(&self, wait: impl Future<Output = T>) -> T {
        self.mark_waiting();
        let _turn = MarkBusyOnDrop(self.clone());
        wait.await
    }

    /// Marks the connection as busy, because a request is being handled, or as ended. It cannot be
    /// closed from now on.
    pub(crate) fn mark_busy(&self) {
        let mut order = self.0.limiter.lock_queue();
        let turn = self.0.queue_key.load(Ordering::Relaxed);
        // Each number is given out once, so the map in which the connection does not stand has no
        // entry with it.
        order.unauthenticated.remove(&turn);
        order.authenticated.remove(&turn);
    }
}

/// Takes a connection out of the order when it is dropped: when the task of the connection ends, or
/// when a body has arrived or failed or a delay is over, also on a panic or an abort.
pub(crate) struct MarkBusyOnDrop(pub(crate) ClientConnection);

impl Drop for MarkBusyOnDrop {
    fn drop(&mut self) {
        self.0.mark_busy();
    }
}
