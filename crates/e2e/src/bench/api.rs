//! Measures requests through the whole service against pgbench with the same reads and writes, and
//! against `pgbench -S`, in turns in one run: throughput, the 99th percentile of latency, processor
//! time and database round trips of each request.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use meshwright_model::Clock;
use meshwright_model::access::Role;
use meshwright_model::clock::SystemClock;
use meshwright_model::ids::{KeyId, TenantId};
use meshwright_store::{ApiKeyToken, NewApiKey, Sealer, Store, StoreError};
use meshwright_testkit::relay::Relay;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use super::{median, round_to_thousandths};
use crate::service::{ApiProcess, ApiProcessConfig};
use crate::{Result, database};

mod pgbench;

#[derive(Debug, Args)]
pub(crate) struct ApiBenchOptions {
    /// Path of the server program; use an optimised build for meaningful figures.
    #[arg(long, default_value = "target/release/meshwright-server")]
    server: PathBuf,
    /// Number of turns of each side; the sides take turns.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Length of each turn in seconds.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Number of connections to the API, and of clients of pgbench.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Smallest ratio of GET throughput to pgbench's; the benchmark fails below it.
    #[arg(long, default_value_t = 0.40)]
    goal: f64,
}

/// Requests that warm the server up; their round trips to the database are counted.
const WARM_UP_REQUESTS: usize = 50;
/// Number of the first tenant. Each connection has a tenant of its own, so that no row is shared.
const FIRST_TENANT: u128 = 0x1000;
/// Largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// Caller of one connection.
#[derive(Debug, Clone)]
struct Caller {
    key: String,
    /// Id of the API key that each POST rotates.
    rotated_key: KeyId,
}

/// Kind of request that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestKind {
    Get,
    Post,
}

impl RequestKind {
    fn request_text(self, caller: &Caller) -> String {
        let key = &caller.key;
        match self {
            Self::Get => {
                format!("GET /v1/meshes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n")
            }
            Self::Post => {
                let (body, id) = (r#"{"overlap_seconds":0}"#, caller.rotated_key);
                format!(
                    "POST /v1/api-keys/{id}/rotate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
            }
        }
    }
}

/// Result of one turn of the API.
#[derive(Debug)]
struct TurnResult {
    per_second: f64,
    p99: Duration,
    cpu_microseconds: f64,
}

pub(crate) fn run(options: &ApiBenchOptions) -> Result<()> {
    pgbench::require_pgbench()?;
    if !options.server.exists() {
        bail!(
            "{} is missing: cargo build --release -p meshwright-server",
            options.server.display()
        );
    }
    let scratch = tempfile::tempdir()?;
    let postgres = database::start_migrated_postgres(scratch.path())?;
    let folder = scratch.path().join("postgres");
    let runtime = tokio::runtime::Runtime::new()?;
    let secret = scratch.path().join("secret");
    std::fs::write(&secret, "07".repeat(32))?;
    let worker = postgres.url("mw_worker", database::DATABASE_NAME);
    let callers = runtime.block_on(create_callers(&worker, options.connections))?;
    let database = pgbench::PgbenchDatabase::create_scripts(
        &postgres,
        scratch.path(),
        options.connections,
        options.seconds,
    )?;
    let url = postgres.url("mw_api", database::DATABASE_NAME);
    let trips = runtime.block_on(count_round_trips(
        options,
        &folder,
        &url,
        &secret,
        &callers[0],
    ))?;
    let api = ApiProcess::start(ApiProcessConfig {
        program: options.server.clone(),
        ..ApiProcessConfig::new(&url, &secret)
    })?;
    measure_turns(options, &runtime, &database, &api, &callers, trips)
}

/// Creates one tenant for each connection, with a key that calls and a key that is rotated. Their
/// ids are built from numbers, so pgbench can build them too.
async fn create_callers(
    database: &str,
    count: usize,
) -> std::result::Result<Vec<Caller>, StoreError> {
    let store = Store::connect(database, Sealer::new([7; 32])).await?;
    let mut callers = Vec::with_capacity(count);
    for number in (FIRST_TENANT..).take(count) {
        let (tenant, now) = (TenantId(Uuid::from_u128(number)), SystemClock.now());
        store
            .create_tenant(tenant, &format!("bench-{number}"), now)
            .await?;
        let mut texts = Vec::new();
        let mut tx = store.begin(tenant).await?;
        for (name, id) in [("caller", number), ("rotated", number + FIRST_TENANT)] {
            let text = ApiKeyToken::generate(tenant, KeyId(Uuid::from_u128(id)));
            let digest = text.secret_digest(store.sealer());
            let (name, scopes) = (name.to_owned(), Vec::new());
            let new = NewApiKey {
                id: text.key,
                name,
                role: Role::Owner,
                scopes,
                digest,
                expires_at: None,
            };
            tx.api_keys().create_api_key(&new, now).await?;
            texts.push(text);
        }
        tx.commit().await?;
        callers.push(Caller {
            key: texts[0].reveal(),
            rotated_key: texts[1].key,
        });
    }
    Ok(callers)
}

/// Returns the database round trips of one GET and of one POST, counted on the database's socket.
async fn count_round_trips(
    options: &ApiBenchOptions,
    folder: &Path,
    url: &str,
    secret: &Path,
    caller: &Caller,
) -> Result<(usize, usize)> {
    let relay = Relay::start(folder);
    let database = url.replace(
        &folder.display().to_string(),
        &relay.socket_dir().display().to_string(),
    );
    let api = ApiProcess::start(ApiProcessConfig {
        program: options.server.clone(),
        ..ApiProcessConfig::new(&database, secret)
    })?;
    let mut stream = TcpStream::connect(socket_address(&api)?).await?;
    let mut counts = [usize::MAX; 2];
    for (kind, least) in [RequestKind::Get, RequestKind::Post]
        .into_iter()
        .zip(&mut counts)
    {
        let request = kind.request_text(caller);
        for _ in 0..WARM_UP_REQUESTS {
            let before = relay.round_trips().await;
            send_request(&mut stream, &request).await?;
            *least = (*least).min(relay.round_trips().await - before);
        }
    }
    Ok((counts[0], counts[1]))
}

fn socket_address(api: &ApiProcess) -> Result<SocketAddr> {
    api.address.parse().context("the API has an address")
}

fn measure_turns(
    options: &ApiBenchOptions,
    runtime: &tokio::runtime::Runtime,
    database: &pgbench::PgbenchDatabase,
    api: &ApiProcess,
    callers: &[Caller],
    trips: (usize, usize),
) -> Result<()> {
    let turn =
        |kind: RequestKind| runtime.block_on(run_turn(options, api, database, callers, kind));
    // The first turn warms the service up and is not measured.
    turn(RequestKind::Get)?;
    let (mut gets, mut posts) = (Vec::new(), Vec::new());
    let (mut reads, mut writes, mut selects) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..options.pairs {
        // Each side goes first every other time.
        for ours in [pair % 2 == 0, pair % 2 != 0] {
            if ours {
                gets.push(turn(RequestKind::Get)?);
                posts.push(turn(RequestKind::Post)?);
            } else {
                reads.push(database.measure_reads()?);
                writes.push(database.measure_writes()?);
                selects.push(database.measure_selects()?);
            }
        }
        eprintln!(
            "pair {} of {}: GET {:.0}/s, pgbench {:.0}/s",
            pair + 1,
            options.pairs,
            gets[pair].per_second,
            reads[pair]
        );
    }
    let get = summarize_turns(&gets, &reads, &selects, trips.0);
    let post = summarize_turns(&posts, &writes, &selects, trips.1);
    let ratio = get["ratio"].as_f64().unwrap_or_default();
    println!(
        "{:#}",
        json!({
            "connections": options.connections, "pairs": options.pairs, "seconds_each": options.seconds,
            "server": options.server.display().to_string(), "get": get, "post": post, "goal": options.goal,
        })
    );
    if ratio >= options.goal {
        Ok(())
    } else {
        Err(anyhow!(
            "GETs reach {ratio:.3} of pgbench's throughput, and the goal is {:.2}",
            options.goal
        ))
    }
}

fn summarize_turns(
    ours: &[TurnResult],
    same: &[f64],
    selects: &[f64],
    round_trips: usize,
) -> Value {
    let rates: Vec<f64> = ours.iter().map(|turn| turn.per_second).collect();
    let ratios = |theirs: &[f64]| {
        round_to_thousandths(median(
            rates
                .iter()
                .zip(theirs)
                .map(|(ours, theirs)| ours / theirs)
                .collect(),
        ))
    };
    let each = |values: &[f64]| values.iter().map(|value| value.round()).collect::<Vec<_>>();
    json!({
        "per_second": each(&rates), "pgbench_per_second": each(same), "pgbench_select_only_per_second": each(selects),
        "ratio": ratios(same), "ratio_to_select_only": ratios(selects), "round_trips": round_trips,
        "p99_microseconds": median(ours.iter().map(|turn| turn.p99.as_secs_f64() * 1e6).collect()).round(),
        "cpu_microseconds_each": median(ours.iter().map(|turn| turn.cpu_microseconds).collect()).round(),
    })
}

/// Runs one turn, in which every connection sends its next request as soon as the last one is
/// answered.
async fn run_turn(
    options: &ApiBenchOptions,
    api: &ApiProcess,
    database: &pgbench::PgbenchDatabase,
    callers: &[Caller],
    kind: RequestKind,
) -> Result<TurnResult> {
    let (address, long) = (socket_address(api)?, Duration::from_secs(options.seconds));
    let before = api.cpu_seconds()? + database.server_cpu_seconds()?;
    let since = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for caller in callers {
        let request = kind.request_text(caller);
        tasks.spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut times = Vec::new();
            while since.elapsed() < long {
                let begun = Instant::now();
                send_request(&mut stream, &request).await?;
                times.push(begun.elapsed());
            }
            Ok::<_, anyhow::Error>(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    let took = since.elapsed().as_secs_f64();
    let cpu = api.cpu_seconds()? + database.server_cpu_seconds()? - before;
    times.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "a few thousand requests")]
    let count = times.len().max(1) as f64;
    let p99 = times
        .get(times.len() * 99 / 100)
        .copied()
        .unwrap_or_default();
    Ok(TurnResult {
        per_second: count / took,
        p99,
        cpu_microseconds: cpu / count * 1e6,
    })
}

/// Sends one request, and reads its whole answer.
async fn send_request(stream: &mut TcpStream, request: &str) -> Result<()> {
    stream.write_all(request.as_bytes()).await?;
    let (mut answer, mut length) = (vec![0; MAX_ANSWER_BYTES], 0);
    loop {
        let read = stream.read(&mut answer[length..]).await?;
        length += read;
        let text = String::from_utf8_lossy(&answer[..length]);
        if read == 0 || !text.starts_with("HTTP/1.1 200") {
            bail!(
                "the API answered {}",
                text.lines().next().unwrap_or("nothing")
            );
        }
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let wanted = head.lines().find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        });
        if wanted.is_none_or(|wanted: usize| body.len() >= wanted) {
            return Ok(());
        }
    }
}
