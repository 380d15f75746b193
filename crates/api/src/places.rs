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
const CLOSED: &str = "meshwright_http_connections_closed_total";

/// How long a new connection has for the head of its first request before it may have to go. Newcomers wait for so long
/// where all places are taken by connections that are as new: with a thousand places 4,000 of them are let in each second.
const GRACE: Duration = Duration::from_millis(250);

/// The shortest wait for a connection to be no longer new.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// How long a connection that must go may take to end; a moment is usual.
const LEAVING: Duration = Duration::from_secs(1);

/// The places of one listener.
#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    order: Mutex<Order>,
}

/// The connections that wait for their client, in the order in which they go.
#[derive(Debug, Default)]
struct Order {
    next: u64,
    /// By age.
    strangers: BTreeMap<u64, Connection>,
    /// By the beginning of the wait.
    known: BTreeMap<u64, Connection>,
}

/// A connection, as its requests see it.
#[derive(Debug, Clone)]
pub(crate) struct Connection(Arc<State>);

#[derive(Debug)]
struct State {
    places: Arc<Places>,
    /// Key of the connection in the order that it stands in.
    turn: AtomicU64,
    known: AtomicBool,
    /// Limit for reading the body of one request.
    body: Duration,
    since: Instant,
    task: OnceLock<AbortHandle>,
}

/// Whether a connection could go.
enum Room {
    /// One goes.
    Made,
    /// All that could go are new: the oldest of them has so much time left.
    In(Duration),
    /// Every connection is being worked for.
    None,
}

impl Places {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { free: Arc::new(Semaphore::new(count)), order: Mutex::default() })
    }

    fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().expect("no holder panics")
    }

    /// A place, for which another connection may have to go; `None` where every connection is being worked for.
    pub(crate) async fn take(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.free.clone().try_acquire_owned() {
            return Some(place);
        }
        loop {
            match self.try_make_room() {
                Room::Made => break,
                Room::In(moment) => tokio::time::sleep(moment).await,
                Room::None => {
                    metrics::counter!(CLOSED, "reason" => "no_place").increment(1);
                    return None;
                }
            }
        }
        // The wait keeps the number of open sockets within the bound: the one that goes has closed its own by then.
        tokio::time::timeout(LEAVING, self.free.clone().acquire_owned()).await.ok()?.ok()
    }

    /// Closes the connection that goes first, where one can go.
    pub(crate) fn make_room(&self) {
        self.try_make_room();
    }

    fn try_make_room(&self) -> Room {
        let mut order = self.order();
        let stranger = order.strangers.first_key_value().map(|(_, connection)| connection.0.since.elapsed());
        if let Some(left) = stranger.and_then(|age| GRACE.checked_sub(age)) {
            return Room::In(left.max(SHORTEST_WAIT));
        }
        let first = order.strangers.pop_first().or_else(|| order.known.pop_first());
        let Some((_, connection)) = first else { return Room::None };
        metrics::counter!(CLOSED, "reason" => "made_room").increment(1);
        if let Some(task) = connection.0.task.get() {
            task.abort();
        }
        Room::Made
    }

    /// A new connection, which waits for its first request and gives each body so much time.
    pub(crate) fn enter(self: &Arc<Self>, body: Duration) -> Connection {
        let (turn, known) = (AtomicU64::new(self.order().number()), AtomicBool::new(false));
        let (since, task) = (Instant::now(), OnceLock::new());
        Connection(Arc::new(State { places: self.clone(), turn, known, body, since, task }))
    }
}

impl Order {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Connection {
    /// Says which task serves the connection. It can be closed from now on.
    pub(crate) fn served_by(&self, task: AbortHandle) {
        // The only caller is the loop that has just spawned the task.
        let _ = self.0.task.set(task);
    }

    /// A caller on this connection was let in.
    pub(crate) fn vouch(&self) {
        self.0.known.store(true, Ordering::Relaxed);
    }

    /// The client has the turn: it is to read an answer, or to send a request.
    pub(crate) fn waits(&self) {
        let mut order = self.0.places.order();
        if self.0.known.load(Ordering::Relaxed) {
            let turn = order.number();
            self.0.turn.store(turn, Ordering::Relaxed);
            order.known.insert(turn, self.clone());
        } else {
            order.strangers.insert(self.0.turn.load(Ordering::Relaxed), self.clone());
        }
    }

    /// Reads the body of a request; `None` when the limit for a body is over before its end. The client has the turn
    /// meanwhile: the connection can be closed for another caller's.
    pub(crate) async fn read_body<T>(&self, read: impl Future<Output = T>) -> Option<T> {
        self.waits();
        let _turn = Leaving(self.clone());
        tokio::time::timeout(self.0.body, read).await.ok()
    }

    /// The service has the turn, or the connection has ended.
    pub(crate) fn waits_no_longer(&self) {
        let mut order = self.0.places.order();
        let turn = self.0.turn.load(Ordering::Relaxed);
        // Numbers are given once, so the other order has no such entry.
        order.strangers.remove(&turn);
        order.known.remove(&turn);
    }
}

/// Takes a connection out of the order when its task, or the client's turn to send a body, ends, however that ends.
pub(crate) struct Leaving(pub(crate) Connection);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.waits_no_longer();
    }
}
