//! Places for connections: how many there are at once, and which connection goes when one more asks for a place.
//!
//! A connection has no caller until a request on it was let in. One that has had none yet goes first, the oldest of them
//! before the others, so that a flood of connections without a credential takes places from itself only: a new caller needs
//! the place no longer than its first request is on the way, and every connection has a moment for that. Connections of known
//! callers go next, the longest idle one first. A connection whose request is being worked on never goes; while the body of
//! the request is still on its way, the client has the turn, and the connection may go.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

/// Connections that had to go because another one needed the place, or that found none themselves, by which of the two.
const CLOSED_METRIC: &str = "meshwright_http_connections_closed_total";

/// How long a new connection has for the head of its first request before it may have to go. Newcomers wait for so long
/// where all places are taken by connections that are as new: with a thousand places 4,000 of them are let in each second.
const NEW_CONNECTION_GRACE: Duration = Duration::from_millis(250);

/// The shortest wait for a connection to be no longer new.
const MIN_EVICTION_WAIT: Duration = Duration::from_millis(1);

/// How long a connection that must go may take to end; a moment is usual.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(1);

/// The places of one listener.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter {
    permits: Arc<Semaphore>,
    queue: Mutex<EvictionQueue>,
}

/// The connections that wait for their client, in the order in which they go.
#[derive(Debug, Default)]
struct EvictionQueue {
    last_key: u64,
    /// By age.
    unauthenticated: BTreeMap<u64, ClientConnection>,
    /// By the beginning of the wait.
    authenticated: BTreeMap<u64, ClientConnection>,
}

/// A connection, as its requests see it.
#[derive(Debug, Clone)]
pub(crate) struct ClientConnection(Arc<ConnectionState>);

#[derive(Debug)]
struct ConnectionState {
    limiter: Arc<ConnectionLimiter>,
    /// Key of the connection in the order that it stands in.
    queue_key: AtomicU64,
    authenticated: AtomicBool,
    /// Limit for reading the body of one request.
    body_timeout: Duration,
    connected_at: Instant,
    task: OnceLock<AbortHandle>,
}

/// Whether a connection could go.
enum EvictionOutcome {
    /// One goes.
    Evicted,
    /// All that could go are new: the oldest of them has so much time left.
    RetryIn(Duration),
    /// Every connection is being worked for.
    AllBusy,
}

impl ConnectionLimiter {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { permits: Arc::new(Semaphore::new(count)), queue: Mutex::default() })
    }

    fn lock_queue(&self) -> MutexGuard<'_, EvictionQueue> {
        self.queue.lock().expect("no holder panics")
    }

    /// A place, for which another connection may have to go; `None` where every connection is being worked for.
    pub(crate) async fn acquire_permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.permits.clone().try_acquire_owned() {
            return Some(place);
        }
        loop {
            match self.try_evict() {
                EvictionOutcome::Evicted => break,
                EvictionOutcome::RetryIn(moment) => tokio::time::sleep(moment).await,
                EvictionOutcome::AllBusy => {
                    metrics::counter!(CLOSED_METRIC, "reason" => "no_place").increment(1);
                    return None;
                }
            }
        }
        // The wait keeps the number of open sockets within the bound: the one that goes has closed its own by then.
        tokio::time::timeout(EVICTION_TIMEOUT, self.permits.clone().acquire_owned()).await.ok()?.ok()
    }

    /// Closes the connection that goes first, where one can go.
    pub(crate) fn evict_connection(&self) {
        self.try_evict();
    }

    fn try_evict(&self) -> EvictionOutcome {
        let mut order = self.lock_queue();
        let stranger = order.unauthenticated.first_key_value().map(|(_, connection)| connection.0.connected_at.elapsed());
        if let Some(left) = stranger.and_then(|age| NEW_CONNECTION_GRACE.checked_sub(age)) {
            return EvictionOutcome::RetryIn(left.max(MIN_EVICTION_WAIT));
        }
        let first = order.unauthenticated.pop_first().or_else(|| order.authenticated.pop_first());
        let Some((_, connection)) = first else { return EvictionOutcome::AllBusy };
        metrics::counter!(CLOSED_METRIC, "reason" => "made_room").increment(1);
        if let Some(task) = connection.0.task.get() {
            task.abort();
        }
        EvictionOutcome::Evicted
    }

    /// A new connection, which waits for its first request and gives each body so much time.
    pub(crate) fn register_connection(self: &Arc<Self>, body: Duration) -> ClientConnection {
        let (turn, known) = (AtomicU64::new(self.lock_queue().next_key()), AtomicBool::new(false));
        let (since, task) = (Instant::now(), OnceLock::new());
        ClientConnection(Arc::new(ConnectionState { limiter: self.clone(), queue_key: turn, authenticated: known, body_timeout: body, connected_at: since, task }))
    }
}

impl EvictionQueue {
    fn next_key(&mut self) -> u64 {
        self.last_key += 1;
        self.last_key
    }
}

impl ClientConnection {
    /// Says which task serves the connection. It can be closed from now on.
    pub(crate) fn set_task(&self, task: AbortHandle) {
        // The only caller is the loop that has just spawned the task.
        let _ = self.0.task.set(task);
    }

    /// A caller on this connection was let in.
    pub(crate) fn mark_authenticated(&self) {
        self.0.authenticated.store(true, Ordering::Relaxed);
    }

    /// The client has the turn: it is to read an answer, or to send a request.
    pub(crate) fn mark_waiting(&self) {
        let mut order = self.0.limiter.lock_queue();
        if self.0.authenticated.load(Ordering::Relaxed) {
            let turn = order.next_key();
            self.0.queue_key.store(turn, Ordering::Relaxed);
            order.authenticated.insert(turn, self.clone());
        } else {
            order.unauthenticated.insert(self.0.queue_key.load(Ordering::Relaxed), self.clone());
        }
    }

    /// Reads the body of a request; `None` when the limit for a body is over before its end. The client has the turn
    /// meanwhile: the connection can be closed for another caller's.
    pub(crate) async fn read_body<T>(&self, read: impl Future<Output = T>) -> Option<T> {
        self.mark_waiting();
        let _turn = MarkBusyOnDrop(self.clone());
        tokio::time::timeout(self.0.body_timeout, read).await.ok()
    }

    /// The service has the turn, or the connection has ended.
    pub(crate) fn mark_busy(&self) {
        let mut order = self.0.limiter.lock_queue();
        let turn = self.0.queue_key.load(Ordering::Relaxed);
        // Numbers are given once, so the other order has no such entry.
        order.unauthenticated.remove(&turn);
        order.authenticated.remove(&turn);
    }
}

/// Takes a connection out of the order when its task, or the client's turn to send a body, ends, however that ends.
pub(crate) struct MarkBusyOnDrop(pub(crate) ClientConnection);

impl Drop for MarkBusyOnDrop {
    fn drop(&mut self) {
        self.0.mark_busy();
    }
}
