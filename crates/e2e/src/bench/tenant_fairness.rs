//! Measures how tenants affect each other: the 99th percentile of one tenant's requests, alone and
//! beside a tenant that sends fifty times its allowed rate, in turns; the memory of ten thousand
//! idle connections; and the effect of bursts of changes, of clusters that never answer, and of a
//! crowd of connections without a caller.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, ValueEnum};
use meshwright_model::access::Role;
use meshwright_store::{Sealer, Store, StoreError};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::latency::{MAX_SLOWDOWN, measure_latency, percentile_99, request_text};
use super::{changes, crowd, neighbour, round_to_thousandths};
use crate::service::{self, ApiProcess, ApiProcessConfig};
use crate::{Result, database};

#[derive(Debug, Args)]
pub(crate) struct FairnessOptions {
    /// Path of the server program; use an optimised build for meaningful figures.
    #[arg(long, default_value = "target/release/meshwright-server")]
    server: PathBuf,
    /// Number of rounds, each with a quiet turn and a noisy turn.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Length of each turn in seconds.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Number of connections that the noise is sent over.
    #[arg(long, default_value_t = 100)]
    connections: u64,
    /// Number of idle connections whose memory is measured; each begins a request and never
    /// completes it.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// Number of connections without a caller that come to a service with few open files.
    #[arg(long, default_value_t = 20_000)]
    crowd: u64,
    /// Run only this part of the benchmark; repeatable.
    #[arg(long)]
    only: Vec<FairnessPart>,
}

/// Parts of the benchmark, by what disturbs the callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FairnessPart {
    /// One tenant that sends fifty times its allowed rate, and idle connections.
    Noise,
    /// Many tenants that try to create a mesh at once.
    Changes,
    /// Connections without a caller, more than the service may have open files.
    Crowd,
    /// Clusters of another tenant that never answer.
    Clusters,
}

impl FairnessOptions {
    fn includes_part(&self, part: FairnessPart) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

/// Requests per second of the noise: fifty times the reads that a tenant may make.
const NOISE_PER_SECOND: u64 = 50 * 200;
/// Interval at which each connection of the noise sends the requests that are due.
const NOISE_INTERVAL: Duration = Duration::from_millis(20);
/// Longest wait for a read or a write of the noise.
const IO_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest memory that an idle connection may cost, in bytes.
const MAX_BYTES_PER_CONNECTION: u64 = 64 * 1024;

pub(crate) fn run(options: &FairnessOptions) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let postgres = database::start_migrated_postgres(scratch.path())?;
    let runtime = tokio::runtime::Runtime::new()?;
    let secret = scratch.path().join("secret");
    std::fs::write(&secret, "07".repeat(32))?;
    let url = |role: &str| postgres.url(role, database::DATABASE_NAME);
    let keys = runtime.block_on(create_two_tenants(&url("mw_worker")))?;
    let usual = ApiProcessConfig {
        program: options.server.clone(),
        rate_limit_multiplier: "1",
        ..ApiProcessConfig::new(&url("mw_api"), &secret)
    };
    let turn = Duration::from_secs(options.seconds);
    if options.includes_part(FairnessPart::Noise) {
        let api = ApiProcess::start(usual.clone())?;
        let address: SocketAddr = api.address.parse().context("the API has an address")?;
        runtime.block_on(measure_fairness(options, &api, address, &keys))?;
    }
    if options.includes_part(FairnessPart::Changes) {
        runtime.block_on(changes::measure_change_bursts(
            &options.server,
            options.rounds,
            turn,
        ))?;
    }
    if options.includes_part(FairnessPart::Clusters) {
        runtime.block_on(neighbour::measure_silent_clusters(options.rounds, turn))?;
    }
    if options.includes_part(FairnessPart::Crowd) {
        let narrow = ApiProcess::start(ApiProcessConfig {
            max_open_files: Some(crowd::MAX_OPEN_FILES),
            ..usual
        })?;
        runtime.block_on(crowd::measure_crowd(
            &narrow,
            &keys[1],
            options.rounds,
            turn,
            options.crowd,
        ))?;
    }
    Ok(())
}

async fn create_two_tenants(database: &str) -> std::result::Result<[String; 2], StoreError> {
    let store = Store::connect(database, Sealer::new([7; 32])).await?;
    let mut keys = Vec::new();
    for name in ["loud", "quiet"] {
        let tenant = service::create_unlimited_tenant(&store, name).await?;
        keys.push(service::create_api_key(&store, tenant, Role::Owner).await?);
    }
    Ok([keys.remove(0), keys.remove(0)])
}

async fn measure_fairness(
    options: &FairnessOptions,
    api: &ApiProcess,
    address: SocketAddr,
    [loud, quiet]: &[String; 2],
) -> Result<()> {
    let turn = Duration::from_secs(options.seconds);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let sent = Arc::new(AtomicU64::new(0));
    let refused = Arc::new(AtomicU64::new(0));
    // The first turn warms the service up and is not measured.
    measure_latency(address, quiet, turn).await?;
    let before = api.memory_bytes()?;
    for round in 0..options.rounds {
        // Each side goes first every other time.
        for noisy in [round % 2 == 0, round % 2 != 0] {
            let noise = if noisy {
                Some(Noise::start(address, loud, options.connections, (&sent, &refused)).await?)
            } else {
                None
            };
            let heard = measure_latency(address, quiet, turn).await?;
            drop(noise);
            if noisy {
                beside.extend(heard);
            } else {
                alone.extend(heard);
            }
        }
    }
    let after = api.memory_bytes()?;
    let idle = open_idle_connections(address, options.idle).await?;
    let with_idle = api.memory_bytes()?;
    let opened = idle.len() as u64;
    // Callers must still be served while the idle connections are open.
    let answered = measure_latency(address, quiet, Duration::from_secs(1))
        .await?
        .len();
    drop(idle);
    let (fast, slow) = (percentile_99(&mut alone), percentile_99(&mut beside));
    let ratio = slow.as_secs_f64() / fast.as_secs_f64();
    let each = with_idle.saturating_sub(after) / opened.max(1);
    let noise = sent.load(Ordering::Relaxed) / (options.seconds * options.rounds as u64);
    println!(
        "{:#}",
        json!({
            "requests_alone": alone.len(), "requests_beside": beside.len(),
            "noise_offered_per_second": NOISE_PER_SECOND, "noise_connections": options.connections, "noise_taken_per_second": noise,
            "noise_refused": refused.load(Ordering::Relaxed), "noise_sent": sent.load(Ordering::Relaxed),
            "p99_alone_microseconds": fast.as_micros(), "p99_beside_microseconds": slow.as_micros(),
            "p50_alone_microseconds": alone[alone.len() / 2].as_micros(), "p50_beside_microseconds": beside[beside.len() / 2].as_micros(),
            "ratio": round_to_thousandths(ratio), "goal": MAX_SLOWDOWN,
            "memory_before": before, "memory_after_noise": after, "memory_with_idle": with_idle,
            "idle_connections": opened, "bytes_each": each, "answered_meanwhile": answered,
        })
    );
    if refused.load(Ordering::Relaxed) == 0 {
        bail!("no request was refused: there was no noise");
    }
    if each > MAX_BYTES_PER_CONNECTION {
        bail!("an idle connection costs {each} bytes");
    }
    if ratio <= MAX_SLOWDOWN {
        Ok(())
    } else {
        Err(anyhow!(
            "the other tenant's slowest hundredth took {ratio:.3} times as long"
        ))
    }
}

/// Tasks that send fifty times the allowed rate; they stop when this value is dropped.
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
            let stream = TcpStream::connect(address).await?;
            let (read, write) = stream.into_split();
            tokio::spawn(send_noise(
                write,
                request_text(key),
                NOISE_PER_SECOND / width,
                over.clone(),
                sent.clone(),
            ));
            tokio::spawn(count_refusals(read, over.clone(), refused.clone()));
        }
        Ok(Self(over))
    }
}

/// Sends the noise of one connection. The service can make this wait by not reading, and requests
/// that could not be sent are not counted.
async fn send_noise(
    mut stream: OwnedWriteHalf,
    request: String,
    per_second: u64,
    over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
) {
    let (since, mut done) = (Instant::now(), 0);
    while !over.load(Ordering::Relaxed) {
        let wanted =
            u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX) * per_second / 1000;
        let burst = request.repeat(usize::try_from(wanted.saturating_sub(done)).unwrap_or(0));
        match tokio::time::timeout(IO_TIMEOUT, stream.write_all(burst.as_bytes())).await {
            Ok(Ok(())) => sent.fetch_add(wanted - done, Ordering::Relaxed),
            Ok(Err(_)) | Err(_) => return,
        };
        done = wanted;
        tokio::time::sleep(NOISE_INTERVAL).await;
    }
}

async fn count_refusals(mut stream: OwnedReadHalf, over: Arc<AtomicBool>, refused: Arc<AtomicU64>) {
    let mut answers = vec![0; 64 * 1024];
    while let Ok(Ok(length @ 1..)) =
        tokio::time::timeout(IO_TIMEOUT, stream.read(&mut answers)).await
    {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let count = memchr::memmem::find_iter(&answers[..length], b"HTTP/1.1 429").count();
        refused.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// Opens connections that begin a request and never complete it.
async fn open_idle_connections(address: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let mut idle = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(b"GET /v1/clusters HTTP/1.1\r\nHost: x")
            .await?;
        idle.push(stream);
    }
    Ok(idle)
}
