//! Relays the socket between one worker and PostgreSQL, reads the step records that the worker
//! sends, and stops the traffic at a chosen record.
//!
//! The worker does not know of it. The relay reads only as much of the protocol as it needs: the
//! length of each message, `Bind` messages that carry step events, and the `COMMIT` that ends their
//! transaction.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

const SOCKET_NAME: &str = ".s.PGSQL.5432";
/// Most bytes of one message; workers send no larger messages.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// Moment at which a worker is cut off from the database, relative to a step record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutPoint {
    /// The record does not reach the database.
    Recording,
    /// The record is in the database. The worker does not get the answer, and has made no call to a
    /// cluster yet.
    BeforeEffect,
    /// The worker gets the answer and goes on. The records that it sends afterwards do not reach
    /// the database.
    AfterEffect,
}

/// Step events that a worker records in one statement, for numbered steps of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepRecord {
    /// Id of the operation.
    pub operation: uuid::Uuid,
    /// Numbers of the steps that start.
    pub started: Vec<i32>,
    /// Numbers of the steps that are done.
    pub done: Vec<i32>,
}

/// Function that returns true for the record to stop at.
pub type RecordMatcher = Box<dyn FnMut(&StepRecord) -> bool + Send>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    /// No request reaches the database, but answers pass.
    BlocksRequests,
    /// Neither requests nor answers pass.
    BlocksAll,
}

struct RelayState {
    matcher: Mutex<Option<(RecordMatcher, CutPoint)>>,
    gate: watch::Sender<Gate>,
    stopped: Notify,
    /// All connections end when this number rises.
    generation: watch::Sender<u64>,
    /// Time for which each answer is held back, in milliseconds.
    answer_delay_ms: AtomicU64,
    counts: watch::Sender<ConnectionCounts>,
}

/// Counts of the traffic to the database.
#[derive(Debug, Clone, Copy, Default)]
struct ConnectionCounts {
    /// Number of times that the worker waited for an answer of the database.
    round_trips: usize,
    /// Number of transactions that have begun and not ended.
    open_transactions: usize,
}

/// Relay in front of one server. Its drop ends its connections.
pub struct Relay {
    dir: tempfile::TempDir,
    shared: Arc<RelayState>,
    _listening: JoinSet<()>,
}

impl Relay {
    /// Starts a relay with a socket in a folder of its own, in front of the server whose socket is
    /// in the folder `server`.
    ///
    /// # Panics
    /// Panics when the socket cannot be created.
    pub fn start(server: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(dir.path().join(SOCKET_NAME)).expect("a socket");
        let shared = Arc::new(RelayState {
            matcher: Mutex::new(None),
            gate: watch::Sender::new(Gate::Open),
            stopped: Notify::new(),
            generation: watch::Sender::new(0),
            counts: watch::Sender::default(),
            answer_delay_ms: AtomicU64::new(0),
        });
        let mut listening = JoinSet::new();
        listening.spawn(accept_connections(
            listener,
            server.join(SOCKET_NAME),
            shared.clone(),
        ));
        Self {
            dir,
            shared,
            _listening: listening,
        }
    }

    /// Returns the folder of the relay's socket, which a database URL names as its host.
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the number of round trips so far, as soon as no transaction is open. A transaction
    /// that ends without a change sends its rollback after its caller has gone on, so an earlier
    /// count would miss it.
    pub async fn round_trips(&self) -> usize {
        let mut trips = self.shared.counts.subscribe();
        // The sender lives as long as `self`, so the wait cannot fail.
        trips
            .wait_for(|trips| trips.open_transactions == 0)
            .await
            .map_or(0, |trips| trips.round_trips)
    }

    /// Stops the traffic at the first record that `choose` returns true for.
    pub fn stop_at(&self, moment: CutPoint, choose: RecordMatcher) {
        *self.shared.matcher.lock().expect("no holder panics") = Some((choose, moment));
    }

    /// Waits until the traffic is stopped. Returns `false` if this does not happen within the time.
    pub async fn wait_for_stop(&self, at_most: Duration) -> bool {
        tokio::time::timeout(at_most, self.shared.stopped.notified())
            .await
            .is_ok()
    }

    /// Delays each answer by this time, as a database under load would.
    pub fn delay_answers(&self, delay: Duration) {
        self.shared.answer_delay_ms.store(
            u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    /// Lets all traffic pass again, including the messages that were held back.
    pub fn resume(&self) {
        self.shared.gate.send_replace(Gate::Open);
    }

    /// Ends every connection. Messages that were held back are lost.
    pub fn close_connections(&self) {
        self.shared
            .generation
            .send_modify(|generation| *generation += 1);
        self.resume();
    }
}

async fn accept_connections(
    listener: UnixListener,
    server: std::path::PathBuf,
    shared: Arc<RelayState>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (server, shared) = (server.clone(), shared.clone());
        connections.spawn(async move {
            let Ok(server) = UnixStream::connect(server).await else {
                return;
            };
            let mut generation = shared.generation.subscribe();
            generation.mark_unchanged();
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), server.into_split());
            tokio::select! {
                _ = forward_requests(from_client, to_server, &shared) => {}
                _ = forward_answers(from_server, to_client, &shared) => {}
                _ = generation.changed() => {}
            }
        });
    }
}

impl RelayState {
    async fn wait_for_gate(&self, fits: fn(Gate) -> bool) {
        let mut gate = self.gate.subscribe();
        // The sender lives as long as `self`, so the wait cannot fail.
        gate.wait_for(|gate| fits(*gate)).await.ok();
    }

    /// Returns the cut point of the test if this is the record to stop at. There is at most one
    /// such record.
    fn take_cut_point(&self, sent: &StepRecord) -> Option<CutPoint> {
        let mut choose = self.matcher.lock().expect("no holder panics");
        let hit = choose.as_mut().is_some_and(|(choose, _)| choose(sent));
        if hit {
            choose.take().map(|(_, moment)| moment)
        } else {
            None
        }
    }

    /// Counts the messages after which the worker waits for an answer: a simple query, and the
    /// `Sync` at the end of an extended one. A rollback is sent together with the next messages of
    /// its connection, so a `Sync` right after it is not counted again. Returns true if this
    /// message was a rollback.
    fn count_round_trip(&self, message: &[u8], rolled_back: bool) -> bool {
        let query = if message[0] == b'Q' {
            &message[5..]
        } else {
            &[]
        };
        let rolls_back = query.starts_with(b"ROLLBACK");
        let waits = message[0] == b'Q' || (message[0] == b'S' && !rolled_back);
        self.counts.send_modify(|trips| {
            trips.round_trips += usize::from(waits);
            trips.open_transactions += usize::from(query.starts_with(b"BEGIN"));
            trips.open_transactions -= usize::from(rolls_back || query.starts_with(b"COMMIT"))
                .min(trips.open_transactions);
        });
        rolls_back
    }

    fn stop_at_gate(&self, gate: Gate) {
        self.gate.send_replace(gate);
        self.stopped.notify_one();
    }
}

async fn forward_answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &RelayState,
) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(
            shared.answer_delay_ms.load(Ordering::Relaxed),
        ))
        .await;
        shared.wait_for_gate(|gate| gate != Gate::BlocksAll).await;
        to.write_all(&bytes[..count]).await?;
    }
}

async fn forward_requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &RelayState,
) -> std::io::Result<()> {
    // The first message has no kind. A request for encryption has none either, but a client on a
    // socket sends no such request.
    let first = read_message(&mut from, false).await?;
    to.write_all(&first).await?;
    let mut awaits_commit = None;
    let mut rolled_back = false;
    loop {
        let bytes = read_message(&mut from, true).await?;
        rolled_back = shared.count_round_trip(&bytes, rolled_back);
        if let Some(moment) =
            parse_step_record(&bytes).and_then(|sent| shared.take_cut_point(&sent))
        {
            match moment {
                CutPoint::Recording => shared.stop_at_gate(Gate::BlocksRequests),
                CutPoint::BeforeEffect | CutPoint::AfterEffect => awaits_commit = Some(moment),
            }
        }
        shared.wait_for_gate(|gate| gate == Gate::Open).await;
        let commits = bytes[0] == b'Q' && bytes[5..].starts_with(b"COMMIT");
        // The gate closes before the COMMIT is sent below: the commit takes effect, and only its
        // answer or the next request is held back.
        match awaits_commit.filter(|_| commits) {
            Some(CutPoint::BeforeEffect) => shared.stop_at_gate(Gate::BlocksAll),
            Some(_) => shared.stop_at_gate(Gate::BlocksRequests),
            None => {}
        }
        to.write_all(&bytes).await?;
        if commits {
            awaits_commit = None;
        }
    }
}

/// Reads one whole message, including its kind and length.
async fn read_message(from: &mut OwnedReadHalf, has_kind: bool) -> std::io::Result<Vec<u8>> {
    let head = usize::from(has_kind) + 4;
    let mut bytes = vec![0; head];
    from.read_exact(&mut bytes).await?;
    let length = i32::from_be_bytes(bytes[head - 4..].try_into().expect("four bytes"));
    let rest = usize::try_from(length).unwrap_or(0).saturating_sub(4);
    if rest > MAX_MESSAGE_BYTES {
        return Err(std::io::Error::other("a message is too large"));
    }
    bytes.resize(head + rest, 0);
    from.read_exact(&mut bytes[head..]).await?;
    Ok(bytes)
}

/// Reads the step events in a `Bind` message. The store's insert binds tenant, operation, epoch,
/// time, numbers and events, in this order.
fn parse_step_record(message: &[u8]) -> Option<StepRecord> {
    const NUMBERS_PARAMETER_INDEX: usize = 4;
    if message[0] != b'B' || !contains_bytes(message, b"\"fact\"") {
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
    let numbers: Vec<i32> = parse_array(values.get(NUMBERS_PARAMETER_INDEX)?)?
        .iter()
        .filter_map(|bytes| Some(i32::from_be_bytes((*bytes).try_into().ok()?)))
        .collect();
    let facts = parse_array(values.get(NUMBERS_PARAMETER_INDEX + 1)?)?;
    let of = |kind: &[u8]| {
        let told = numbers
            .iter()
            .zip(&facts)
            .filter(|(_, fact)| contains_bytes(fact, kind));
        told.map(|(number, _)| *number).collect()
    };
    Some(StepRecord {
        operation: uuid::Uuid::from_slice(values.get(1)?).ok()?,
        started: of(b"\"started\""),
        done: of(b"\"done\""),
    })
}

/// Splits an array of one dimension in PostgreSQL's binary form into its elements.
fn parse_array(array: &[u8]) -> Option<Vec<&[u8]>> {
    const ARRAY_HEADER_BYTES: usize = 20;
    let mut rest = array.get(ARRAY_HEADER_BYTES..)?;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let length = usize::try_from(i32::from_be_bytes(rest.get(..4)?.try_into().ok()?)).ok()?;
        found.push(rest.get(4..4 + length)?);
        rest = rest.get(4 + length..)?;
    }
    Some(found)
}

fn contains_bytes(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
