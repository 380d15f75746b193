//! Measures how connections without a caller slow down callers: silent ones, ones that stop in the
//! middle of a request's head, and ones that never read their answers, more of them than the
//! service may have open files. Three kinds of turns alternate: without a crowd, with the crowd at
//! the service, and with an equal crowd at a listener that does nothing. The last kind shows what
//! the crowd itself takes from the processors, which it shares with the service. Callers beside the
//! crowd at the service are compared with the slower ones of the two other kinds.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::latency::{MAX_MEMORY_GROWTH_BYTES, MAX_SLOWDOWN, measure_latency, percentile_99};
use super::round_to_thousandths;
use crate::Result;
use crate::service::ApiProcess;

/// Limit of open files of the service under test.
pub(super) const MAX_OPEN_FILES: u32 = 1024;
/// Connections that the crowd keeps open on its own side; the service has closed older ones.
const MAX_KEPT_CONNECTIONS: usize = 2000;
/// One connection of the crowd out of this number never reads its answers.
const GREEDY_STRIDE: u64 = 20;
/// Requests that a connection which never reads sends at once, each for a long answer.
const GREEDY_PIPELINED_REQUESTS: usize = 200;
/// Receive buffer in bytes of a connection that never reads. The smaller it is, the sooner the
/// service has to wait for it.
const GREEDY_BUFFER_BYTES: u32 = 4096;
/// Time that a connection of the crowd may take to send its data.
const SEND_TIMEOUT: Duration = Duration::from_millis(200);
/// Interval at which new connections of the crowd are opened.
const ARRIVAL_INTERVAL: Duration = Duration::from_millis(10);
/// Interval at which a caller opens a new connection.
const CALL_INTERVAL: Duration = Duration::from_millis(20);

/// Connections that the listener which does nothing keeps open, about as many as the service keeps
/// with its limit of open files.
const MAX_IDLE_PEER_CONNECTIONS: usize = 500;

/// What happens beside the callers in a turn; the value is the index of its answer times.
#[derive(Debug, Clone, Copy)]
enum Disturbance {
    Nothing,
    CrowdElsewhere,
    CrowdAtService,
}

const DISTURBANCES: [Disturbance; 3] = [
    Disturbance::Nothing,
    Disturbance::CrowdElsewhere,
    Disturbance::CrowdAtService,
];

/// Answer times for each [`Disturbance`].
type TimesByDisturbance = [Vec<Duration>; DISTURBANCES.len()];

/// Listener that accepts connections and does nothing with them. It closes the oldest ones when
/// there are too many, and stops when this value is dropped.
struct IdlePeer(SocketAddr, JoinHandle<()>);

impl Drop for IdlePeer {
    fn drop(&mut self) {
        self.1.abort();
    }
}

impl IdlePeer {
    async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            let mut kept = VecDeque::new();
            while let Ok((stream, _)) = listener.accept().await {
                kept.push_back(stream);
                if kept.len() > MAX_IDLE_PEER_CONNECTIONS {
                    kept.pop_front();
                }
            }
        });
        Ok(Self(address, accepting))
    }
}

/// Task that opens the connections of the crowd; it stops when this value is dropped.
struct Crowd(Arc<AtomicBool>);

impl Drop for Crowd {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Crowd {
    fn start(address: SocketAddr, per_second: u64, opened: &Arc<AtomicU64>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        tokio::spawn(open_connections(
            address,
            per_second,
            over.clone(),
            opened.clone(),
        ));
        Self(over)
    }
}

async fn open_connections(
    address: SocketAddr,
    per_second: u64,
    over: Arc<AtomicBool>,
    opened: Arc<AtomicU64>,
) {
    let (since, mut done, mut kept) = (Instant::now(), 0, VecDeque::new());
    while !over.load(Ordering::Relaxed) {
        let wanted =
            u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX) * per_second / 1000;
        for number in done..wanted {
            if let Ok(stream) = open_connection(address, number).await {
                opened.fetch_add(1, Ordering::Relaxed);
                kept.push_back(stream);
            }
            if kept.len() > MAX_KEPT_CONNECTIONS {
                kept.pop_front();
            }
        }
        done = wanted;
        tokio::time::sleep(ARRIVAL_INTERVAL).await;
    }
}

/// Opens one connection without a caller. One of `GREEDY_STRIDE` connections sends requests and
/// never reads the answers; of the others, about half stop in the middle of a request's head and
/// half send nothing.
async fn open_connection(address: SocketAddr, number: u64) -> std::io::Result<TcpStream> {
    let greedy = number.is_multiple_of(GREEDY_STRIDE);
    let socket = TcpSocket::new_v4()?;
    if greedy {
        socket.set_recv_buffer_size(GREEDY_BUFFER_BYTES)?;
    }
    let mut stream = socket.connect(address).await?;
    let sent = match number % GREEDY_STRIDE {
        0 => "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(GREEDY_PIPELINED_REQUESTS),
        odd if odd % 2 == 1 => "GET /v1/clusters HTTP/1.1\r\nHost: x".to_owned(),
        _ => String::new(),
    };
    // A service that stops reading has received what was sent so far, which is enough.
    match tokio::time::timeout(SEND_TIMEOUT, stream.write_all(sent.as_bytes())).await {
        Ok(written) => written.map(|()| stream),
        Err(_) => Ok(stream),
    }
}

/// Sends each request over a new connection, and returns the time of each answer from the start of
/// the connection.
async fn measure_new_callers(
    address: SocketAddr,
    key: &str,
    long: Duration,
) -> Result<Vec<Duration>> {
    let request = format!(
        "GET /v1/clusters?page_size=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
    );
    let (mut times, until, mut due) = (Vec::new(), Instant::now() + long, Instant::now());
    while Instant::now() < until {
        tokio::time::sleep_until(due.into()).await;
        // A request is late from the moment at which it was due.
        let since = due;
        due += CALL_INTERVAL;
        let asked = async {
            let (mut stream, mut answer) = (TcpStream::connect(address).await?, Vec::new());
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_end(&mut answer).await.map(|_| answer)
        };
        let answer = asked
            .await
            .map_err(|error: std::io::Error| anyhow!("a caller was not answered: {error}"))?;
        if !answer.starts_with(b"HTTP/1.1 200") {
            bail!(
                "a caller was answered {}",
                String::from_utf8_lossy(&answer[..answer.len().min(80)])
            );
        }
        times.push(since.elapsed());
    }
    Ok(times)
}

/// Measures a service with few open files: callers that keep their connection and callers with new
/// connections, beside each [`Disturbance`].
pub(super) async fn measure_crowd(
    api: &ApiProcess,
    key: &str,
    rounds: usize,
    turn: Duration,
    connections: u64,
) -> Result<()> {
    let address: SocketAddr = api.address.parse().context("the API has an address")?;
    let peer = IdlePeer::start().await?;
    let per_second = connections / (rounds as u64 * turn.as_secs()).max(1);
    let opened = [0; DISTURBANCES.len()].map(|_: u8| Arc::new(AtomicU64::new(0)));
    let (mut stay, mut visits) = (TimesByDisturbance::default(), TimesByDisturbance::default());
    // The first turn warms the service up and is not measured.
    measure_latency(address, key, turn).await?;
    let before = api.memory_bytes()?;
    let (mut most_memory, mut most_files) = (before, 0);
    for round in 0..rounds {
        for part in 0..DISTURBANCES.len() {
            // Each kind of turn goes first in every third round.
            let disturbance = DISTURBANCES[(round + part) % DISTURBANCES.len()];
            let target = match disturbance {
                Disturbance::Nothing => None,
                Disturbance::CrowdElsewhere => Some(peer.0),
                Disturbance::CrowdAtService => Some(address),
            };
            let opened = &opened[disturbance as usize];
            let crowd = target.map(|target| Crowd::start(target, per_second, opened));
            let (heard, answered) = tokio::join!(
                measure_latency(address, key, turn),
                measure_new_callers(address, key, turn)
            );
            most_memory = most_memory.max(api.memory_bytes()?);
            most_files = most_files.max(api.open_files()?);
            drop(crowd);
            stay[disturbance as usize].extend(heard?);
            visits[disturbance as usize].extend(answered?);
        }
    }
    let grown = most_memory.saturating_sub(before);
    let opened = opened[Disturbance::CrowdAtService as usize].load(Ordering::Relaxed);
    let (stay, stay_ratio) = compare_latencies(stay);
    let (visits, visits_ratio) = compare_latencies(visits);
    println!(
        "{:#}",
        json!({
            "open_files_limit": MAX_OPEN_FILES, "open_files": most_files, "crowd_opened": opened, "crowd_per_second": per_second,
            "callers_that_stay": stay, "callers_that_come": visits, "goal": MAX_SLOWDOWN, "memory_grown": grown,
        })
    );
    if opened < connections / 2 {
        bail!("the crowd opened {opened} connections only");
    }
    // The service must have been full, because otherwise there was no crowd.
    if most_files < MAX_OPEN_FILES as usize / 2 {
        bail!("the service had {most_files} open files only");
    }
    if grown > MAX_MEMORY_GROWTH_BYTES {
        bail!("the crowd cost {grown} bytes");
    }
    let worst = stay_ratio.max(visits_ratio);
    if worst <= MAX_SLOWDOWN {
        Ok(())
    } else {
        Err(anyhow!(
            "beside the crowd callers' slowest hundredth took {worst:.3} times as long"
        ))
    }
}

/// Returns the report of one kind of callers, and how much slower they are beside the crowd at the
/// service than alone or beside the crowd elsewhere, whichever is slower.
fn compare_latencies(mut times: TimesByDisturbance) -> (Value, f64) {
    let [alone, elsewhere, beside] = times.each_mut().map(|of| percentile_99(of));
    let compared = |fast: Duration| beside.as_secs_f64() / fast.as_secs_f64();
    let ratio = compared(alone.max(elsewhere));
    let report = json!({
        "requests_each": times[0].len(), "p99_alone_microseconds": alone.as_micros(),
        "p99_beside_crowd_elsewhere_microseconds": elsewhere.as_micros(), "p99_beside_crowd_microseconds": beside.as_micros(),
        "ratio": round_to_thousandths(ratio), "ratio_to_alone": round_to_thousandths(compared(alone)),
        "ratio_to_crowd_elsewhere": round_to_thousandths(compared(elsewhere)),
    });
    (report, ratio)
}
