//! What one tenant at fifty times its share does to another one: its slowest hundredth of requests, alone and beside the
//! noise, in turns; what ten thousand connections that say nothing do to the service's memory; and what bursts of changes,
//! clusters that never answer and a crowd of connections without a caller do to others.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use model::access::Role;
use serde_json::json;
use store::{Store, StoreError, Sealer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::{changes, crowd, neighbour, round_to_thousandths};
use crate::service::{self, Api, Setting};
use crate::{Result, fresh};

#[derive(Debug, Args)]
pub(crate) struct Fair {
    /// The server; an optimised build says more.
    #[arg(long, default_value = "target/release/meshwright-server")]
    server: PathBuf,
    /// How often quiet and noise take turns.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// How long each turn takes, in seconds.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Over how many connections the noise comes.
    #[arg(long, default_value_t = 100)]
    connections: u64,
    /// How many connections say nothing.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// How many connections without a caller come to a service with few open files.
    #[arg(long, default_value_t = 20_000)]
    crowd: u64,
    /// Only this part of it. Repeatable.
    #[arg(long)]
    only: Vec<Part>,
}

/// What stands beside callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// One tenant at fifty times its share, and connections that say nothing.
    Noise,
    /// Many tenants that try to create a mesh at once.
    Changes,
    /// Connections without a caller, more than a service may have open files.
    Crowd,
    /// Clusters that never answer.
    Clusters,
}

impl Fair {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

/// Fifty times the reads that a tenant may make in a second.
const NOISE: u64 = 50 * 200;
/// How often each of them sends what is due.
const TICK: Duration = Duration::from_millis(20);
/// How long somebody waits who is neither read nor answered.
const STUCK: Duration = Duration::from_secs(5);
/// How often the quiet tenant asks.
const PACE: Duration = Duration::from_millis(20);
/// The goals: a tenth more of the slowest hundredth, and memory by a connection.
pub(super) const MOST: f64 = 1.10;
const MOST_BYTES: u64 = 64 * 1024;
/// Memory that a crowd of any kind may cost, in bytes.
pub(super) const MOST_MEMORY: u64 = 64 * 1024 * 1024;

pub(crate) fn run(options: &Fair) -> Result<()> {
    let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
    let postgres = fresh::live(scratch.path())?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let secret = scratch.path().join("secret");
    std::fs::write(&secret, "07".repeat(32)).map_err(|error| error.to_string())?;
    let url = |role: &str| postgres.url(role, fresh::NAME);
    let keys = runtime.block_on(two_tenants(&url("mw_worker"))).map_err(|error| error.to_string())?;
    let usual = Setting { program: options.server.clone(), share: "1", ..Setting::new(&url("mw_api"), &secret) };
    let turn = Duration::from_secs(options.seconds);
    if options.wants(Part::Noise) {
        let api = Api::start(usual.clone())?;
        let address: SocketAddr = api.address.parse().map_err(|_| "the API has an address")?;
        runtime.block_on(judge(options, &api, address, &keys))?;
    }
    if options.wants(Part::Changes) {
        runtime.block_on(changes::judge(&options.server, options.rounds, turn))?;
    }
    if options.wants(Part::Clusters) {
        runtime.block_on(neighbour::judge(options.rounds, turn))?;
    }
    if options.wants(Part::Crowd) {
        let narrow = Api::start(Setting { open_files: Some(crowd::OPEN_FILES), ..usual })?;
        runtime.block_on(crowd::judge(&narrow, &keys[1], options.rounds, turn, options.crowd))?;
    }
    Ok(())
}

async fn two_tenants(database: &str) -> std::result::Result<[String; 2], StoreError> {
    let store = Store::connect(database, Sealer::new([7; 32])).await?;
    let mut keys = Vec::new();
    for name in ["loud", "quiet"] {
        let tenant = service::roomy_tenant(&store, name).await?;
        keys.push(service::key(&store, tenant, Role::Owner).await?);
    }
    Ok([keys.remove(0), keys.remove(0)])
}

async fn judge(options: &Fair, api: &Api, address: SocketAddr, [loud, quiet]: &[String; 2]) -> Result<()> {
    let turn = Duration::from_secs(options.seconds);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let sent = Arc::new(AtomicU64::new(0));
    let refused = Arc::new(AtomicU64::new(0));
    listen(address, quiet, turn).await?;
    let before = api.memory()?;
    for round in 0..options.rounds {
        // Each goes first every other time.
        for noisy in [round % 2 == 0, round % 2 != 0] {
            let noise = if noisy {
                Some(Noise::start(address, loud, options.connections, (&sent, &refused)).await?)
            } else {
                None
            };
            let heard = listen(address, quiet, turn).await?;
            drop(noise);
            if noisy { beside.extend(heard) } else { alone.extend(heard) }
        }
    }
    let after = api.memory()?;
    let idle = idle_connections(address, options.idle).await?;
    let with_idle = api.memory()?;
    let opened = idle.len() as u64;
    let answered = listen(address, quiet, Duration::from_secs(1)).await?.len();
    drop(idle);
    let (fast, slow) = (slowest_hundredth(&mut alone), slowest_hundredth(&mut beside));
    let ratio = slow.as_secs_f64() / fast.as_secs_f64();
    let each = with_idle.saturating_sub(after) / opened.max(1);
    let noise = sent.load(Ordering::Relaxed) / (options.seconds * options.rounds as u64);
    println!(
        "{:#}",
        json!({
            "requests_alone": alone.len(), "requests_beside": beside.len(),
            "noise_offered_per_second": NOISE, "noise_connections": options.connections, "noise_taken_per_second": noise,
            "noise_refused": refused.load(Ordering::Relaxed), "noise_sent": sent.load(Ordering::Relaxed),
            "p99_alone_microseconds": fast.as_micros(), "p99_beside_microseconds": slow.as_micros(),
            "p50_alone_microseconds": alone[alone.len() / 2].as_micros(), "p50_beside_microseconds": beside[beside.len() / 2].as_micros(),
            "ratio": round_to_thousandths(ratio), "goal": MOST,
            "memory_before": before, "memory_after_noise": after, "memory_with_idle": with_idle,
            "idle_connections": opened, "bytes_each": each, "answered_meanwhile": answered,
        })
    );
    if refused.load(Ordering::Relaxed) == 0 {
        return Err("nobody was refused: there was no noise".into());
    }
    if each > MOST_BYTES {
        return Err(format!("an idle connection costs {each} bytes"));
    }
    if ratio <= MOST {
        Ok(())
    } else {
        Err(format!("the other tenant's slowest hundredth took {ratio:.3} times as long"))
    }
}

pub(super) fn slowest_hundredth(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

fn request(key: &str) -> String {
    format!("GET /v1/clusters?page_size=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n")
}

/// Asks at an even pace, and answers how long each took.
pub(super) async fn listen(address: SocketAddr, key: &str, long: Duration) -> Result<Vec<Duration>> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let request = request(key);
    let (mut times, mut answer) = (Vec::new(), vec![0; 16 * 1024]);
    let (until, mut due) = (Instant::now() + long, Instant::now());
    while Instant::now() < until {
        tokio::time::sleep_until(due.into()).await;
        due += PACE;
        let since = Instant::now();
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let length = stream.read(&mut answer).await.map_err(failed)?;
        if !answer[..length].starts_with(b"HTTP/1.1 200") {
            return Err(format!(
                "the quiet tenant was answered {}",
                String::from_utf8_lossy(&answer[..length.min(80)])
            ));
        }
        times.push(since.elapsed());
    }
    Ok(times)
}

/// Requests at fifty times the share. It ends when this is dropped.
struct Noise(Arc<AtomicBool>);

impl Drop for Noise {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Noise {
    async fn start(
        address: SocketAddr,
        key: &str,
        width: u64,
        (sent, refused): (&Arc<AtomicU64>, &Arc<AtomicU64>),
    ) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        for _ in 0..width {
            let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            let (read, write) = stream.into_split();
            tokio::spawn(shout(write, request(key), NOISE / width, over.clone(), sent.clone()));
            tokio::spawn(hear(read, over.clone(), refused.clone()));
        }
        Ok(Self(over))
    }
}

/// A service that reads no further makes this wait: what cannot be sent is not counted.
async fn shout(
    mut stream: OwnedWriteHalf,
    request: String,
    per_second: u64,
    over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
) {
    let (since, mut done) = (Instant::now(), 0);
    while !over.load(Ordering::Relaxed) {
        let wanted = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX) * per_second / 1000;
        let burst = request.repeat(usize::try_from(wanted.saturating_sub(done)).unwrap_or(0));
        match tokio::time::timeout(STUCK, stream.write_all(burst.as_bytes())).await {
            Ok(Ok(())) => sent.fetch_add(wanted - done, Ordering::Relaxed),
            Ok(Err(_)) | Err(_) => return,
        };
        done = wanted;
        tokio::time::sleep(TICK).await;
    }
}

async fn hear(mut stream: OwnedReadHalf, over: Arc<AtomicBool>, refused: Arc<AtomicU64>) {
    let mut answers = vec![0; 64 * 1024];
    while let Ok(Ok(length @ 1..)) = tokio::time::timeout(STUCK, stream.read(&mut answers)).await {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let count = memchr::memmem::find_iter(&answers[..length], b"HTTP/1.1 429").count();
        refused.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// Connections that begin a request and never go on.
async fn idle_connections(address: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let mut idle = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        stream.write_all(b"GET /v1/clusters HTTP/1.1\r\nHost: x").await.map_err(|error| error.to_string())?;
        idle.push(stream);
    }
    Ok(idle)
}
