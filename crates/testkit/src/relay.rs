//! A relay on the socket between one worker and Postgres: it reads what is recorded and stands still at a chosen record.
//!
//! The worker knows nothing of it. Its protocol is read as far as needed: the length of each message, `Bind` messages that
//! carry facts, and the `COMMIT` that ends their transaction.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

const SOCKET: &str = ".s.PGSQL.5432";
/// Larger messages than a worker ever sends.
const MOST: usize = 64 * 1024 * 1024;

/// Where a worker stands when it is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The record never reached the database.
    Recording,
    /// The record is in the database; the worker has not heard, and has done nothing yet.
    BeforeEffect,
    /// The worker has heard and goes on, and nothing that it records afterwards reaches the database.
    AfterEffect,
}

/// One record that a worker sends: facts about numbered items of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The operation's id.
    pub operation: uuid::Uuid,
    /// The items that begin.
    pub started: Vec<i32>,
    /// The items that are done.
    pub done: Vec<i32>,
}

/// Decides whether a record is the one to stop at.
pub type Chooser = Box<dyn FnMut(&Sent) -> bool + Send>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    /// Nothing reaches the database.
    Deaf,
    /// Nothing passes at all.
    Shut,
}

struct Shared {
    choose: Mutex<Option<(Chooser, Moment)>>,
    gate: watch::Sender<Gate>,
    reached: Notify,
    /// Connections end when the number rises.
    generation: watch::Sender<u64>,
    /// How long each answer is held back, in milliseconds.
    delay: AtomicU64,
    trips: watch::Sender<Trips>,
}

/// What was counted on the way to the database.
#[derive(Debug, Clone, Copy, Default)]
struct Trips {
    /// How often somebody waited for the database's answer.
    round_trips: usize,
    /// Transactions that have begun and not ended.
    open: usize,
}

/// The relay; dropping it ends its connections.
pub struct Relay {
    dir: tempfile::TempDir,
    shared: Arc<Shared>,
    _listening: JoinSet<()>,
}

impl Relay {
    /// Listens in a folder of its own in front of the server whose socket is in `server`.
    ///
    /// # Panics
    /// When no socket can be made.
    pub fn start(server: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(dir.path().join(SOCKET)).expect("a socket");
        let shared = Arc::new(Shared {
            choose: Mutex::new(None),
            gate: watch::Sender::new(Gate::Open),
            reached: Notify::new(),
            generation: watch::Sender::new(0),
            trips: watch::Sender::default(),
            delay: AtomicU64::new(0),
        });
        let mut listening = JoinSet::new();
        listening.spawn(listen(listener, server.join(SOCKET), shared.clone()));
        Self { dir, shared, _listening: listening }
    }

    /// The folder that a database address names as its host.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// How many round trips there were so far, as soon as no transaction is open: one that ends without a change says so to the
    /// database after its caller has gone on.
    pub async fn round_trips(&self) -> usize {
        let mut trips = self.shared.trips.subscribe();
        // The sender lives as long as this.
        trips.wait_for(|trips| trips.open == 0).await.map_or(0, |trips| trips.round_trips)
    }

    /// Stands still at the first record that is chosen.
    pub fn stop_at(&self, moment: Moment, choose: Chooser) {
        *self.shared.choose.lock().expect("no holder panics") = Some((choose, moment));
    }

    /// Waits until it stands still; `false` when it did not within the time.
    pub async fn reached(&self, at_most: Duration) -> bool {
        tokio::time::timeout(at_most, self.shared.reached.notified()).await.is_ok()
    }

    /// Holds each answer back for so long: a database under load.
    pub fn slow(&self, delay: Duration) {
        self.shared.delay.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Lets everything pass again, what was held back included.
    pub fn go_on(&self) {
        self.shared.gate.send_replace(Gate::Open);
    }

    /// Ends every connection; what was held back is lost.
    pub fn hang_up(&self) {
        self.shared.generation.send_modify(|generation| *generation += 1);
        self.go_on();
    }
}

async fn listen(listener: UnixListener, server: std::path::PathBuf, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (server, shared) = (server.clone(), shared.clone());
        connections.spawn(async move {
            let Ok(server) = UnixStream::connect(server).await else { return };
            let mut generation = shared.generation.subscribe();
            generation.mark_unchanged();
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            tokio::select! {
                _ = requests(from_client, to_server, &shared) => {}
                _ = answers(from_server, to_client, &shared) => {}
                _ = generation.changed() => {}
            }
        });
    }
}

impl Shared {
    async fn may_pass(&self, fits: fn(Gate) -> bool) {
        let mut gate = self.gate.subscribe();
        // The sender lives as long as this.
        gate.wait_for(|gate| fits(*gate)).await.ok();
    }

    /// The moment to stop at, when this is the record.
    fn chosen(&self, sent: &Sent) -> Option<Moment> {
        let mut choose = self.choose.lock().expect("no holder panics");
        let hit = choose.as_mut().is_some_and(|(choose, _)| choose(sent));
        if hit { choose.take().map(|(_, moment)| moment) } else { None }
    }

    /// Counts what is waited for: a query in one message, and the end of a query in several. A transaction that is rolled back
    /// says so together with what its connection sends next. Answers whether this was a rollback.
    fn count(&self, message: &[u8], rolled_back: bool) -> bool {
        let query = if message[0] == b'Q' { &message[5..] } else { &[] };
        let rolls_back = query.starts_with(b"ROLLBACK");
        let waits = message[0] == b'Q' || (message[0] == b'S' && !rolled_back);
        self.trips.send_modify(|trips| {
            trips.round_trips += usize::from(waits);
            trips.open += usize::from(query.starts_with(b"BEGIN"));
            trips.open -= usize::from(rolls_back || query.starts_with(b"COMMIT")).min(trips.open);
        });
        rolls_back
    }

    fn stand_still(&self, gate: Gate) {
        self.gate.send_replace(gate);
        self.reached.notify_one();
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(shared.delay.load(Ordering::Relaxed))).await;
        shared.may_pass(|gate| gate != Gate::Shut).await;
        to.write_all(&bytes[..count]).await?;
    }
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) -> std::io::Result<()> {
    // The first message has no kind; neither has a request for encryption, which a socket client does not send.
    let first = message(&mut from, false).await?;
    to.write_all(&first).await?;
    let mut awaits_commit = None;
    let mut rolled_back = false;
    loop {
        let bytes = message(&mut from, true).await?;
        rolled_back = shared.count(&bytes, rolled_back);
        if let Some(moment) = sent(&bytes).and_then(|sent| shared.chosen(&sent)) {
            match moment {
                Moment::Recording => shared.stand_still(Gate::Deaf),
                Moment::BeforeEffect | Moment::AfterEffect => awaits_commit = Some(moment),
            }
        }
        shared.may_pass(|gate| gate == Gate::Open).await;
        let commits = bytes[0] == b'Q' && bytes[5..].starts_with(b"COMMIT");
        match awaits_commit.filter(|_| commits) {
            Some(Moment::BeforeEffect) => shared.stand_still(Gate::Shut),
            Some(_) => shared.stand_still(Gate::Deaf),
            None => {}
        }
        to.write_all(&bytes).await?;
        if commits {
            awaits_commit = None;
        }
    }
}

/// One whole message, its kind and length included.
async fn message(from: &mut OwnedReadHalf, has_kind: bool) -> std::io::Result<Vec<u8>> {
    let head = usize::from(has_kind) + 4;
    let mut bytes = vec![0; head];
    from.read_exact(&mut bytes).await?;
    let length = i32::from_be_bytes(bytes[head - 4..].try_into().expect("four bytes"));
    let rest = usize::try_from(length).unwrap_or(0).saturating_sub(4);
    if rest > MOST {
        return Err(std::io::Error::other("a message is too large"));
    }
    bytes.resize(head + rest, 0);
    from.read_exact(&mut bytes[head..]).await?;
    Ok(bytes)
}

/// The facts in a `Bind` message: tenant, operation, epoch, time, numbers, facts, as the store's insert binds them.
fn sent(message: &[u8]) -> Option<Sent> {
    const NUMBERS: usize = 4;
    if message[0] != b'B' || !contains(message, b"\"fact\"") {
        return None;
    }
    let mut rest = message.get(5..)?;
    for _ in 0..2 {
        rest = rest.get(rest.iter().position(|byte| *byte == 0)? + 1..)?;
    }
    let formats = usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?));
    rest = rest.get(2 + 2 * formats..)?;
    let count = usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?));
    rest = rest.get(2..)?;
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let length = usize::try_from(i32::from_be_bytes(rest.get(..4)?.try_into().ok()?)).ok()?;
        values.push(rest.get(4..4 + length)?);
        rest = rest.get(4 + length..)?;
    }
    let numbers: Vec<i32> = elements(values.get(NUMBERS)?)?
        .iter()
        .filter_map(|bytes| Some(i32::from_be_bytes((*bytes).try_into().ok()?)))
        .collect();
    let facts = elements(values.get(NUMBERS + 1)?)?;
    let of = |kind: &[u8]| {
        let told = numbers.iter().zip(&facts).filter(|(_, fact)| contains(fact, kind));
        told.map(|(number, _)| *number).collect()
    };
    Some(Sent {
        operation: uuid::Uuid::from_slice(values.get(1)?).ok()?,
        started: of(b"\"started\""),
        done: of(b"\"done\""),
    })
}

/// The elements of an array of one dimension, in Postgres' binary form.
fn elements(array: &[u8]) -> Option<Vec<&[u8]>> {
    const HEAD: usize = 20;
    let mut rest = array.get(HEAD..)?;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let length = usize::try_from(i32::from_be_bytes(rest.get(..4)?.try_into().ok()?)).ok()?;
        found.push(rest.get(4..4 + length)?);
        rest = rest.get(4 + length..)?;
    }
    Some(found)
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
