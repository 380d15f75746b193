//! Measures how a burst of changes by many tenants slows down a caller of another tenant: each of
//! forty tenants sends four trial requests for a new mesh at once, so there are many more requests
//! than a process has database connections. Only one burst in twenty seconds is judged. Bursts
//! every two seconds are shown as well, beside equal bursts of requests that cost the service next
//! to nothing, because the senders share the processors with the service.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use meshwright_model::access::Role;
use meshwright_model::ids::TenantId;
use meshwright_testkit::Fleet;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use super::latency::{MAX_SLOWDOWN, measure_latency, percentile_99};
use super::round_to_thousandths;
use crate::Result;
use crate::service::{self, ApiProcess, ApiProcessConfig};

/// Tenants that send a burst.
const TENANTS: u128 = 40;
/// Copies of its request that each tenant sends at once.
const TRIALS_PER_TENANT: usize = 4;
/// Pause between two bursts where there are many. A burst is answered long before the next one.
const BURST_INTERVAL: Duration = Duration::from_secs(2);
/// Factor by which the turns without a burst and with a single burst are longer than the others.
const LONG_TURN_FACTOR: u32 = 5;
/// Time after which a request counts as not answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

const VERSION_REQUEST: &str = "GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Answer times of the caller of another tenant, alone and beside each kind of burst.
#[derive(Debug, Default)]
struct Latencies {
    alone: Vec<Duration>,
    beside_one_burst: Vec<Duration>,
    beside_bursts: Vec<Duration>,
    beside_versions: Vec<Duration>,
}

/// Numbers of trials by their result. A trial is a request with `validate_only`.
#[derive(Debug, Default)]
struct Answers {
    fine: AtomicU64,
    /// Trials that were answered with 429.
    put_off: AtomicU64,
    other: AtomicU64,
}

/// Measures the caller's answer times alone, beside one burst, beside many bursts, and beside many
/// bursts of cheap requests.
pub(super) async fn measure_change_bursts(
    server: &Path,
    rounds: usize,
    turn: Duration,
) -> Result<()> {
    let fleet = Fleet::new().await;
    let mut requests = Vec::new();
    for number in 0..TENANTS {
        let tenant = TenantId(Uuid::from_u128(1000 + number));
        let cluster = fleet
            .add_tenant_with_cluster(tenant, &format!("crowd-{number}"))
            .await;
        let key = service::create_api_key(&fleet.db.worker, tenant, Role::Owner).await?;
        requests.push(trial_request_text(&key, &cluster.to_string()));
    }
    let caller = service::create_api_key(&fleet.db.worker, fleet.db.tenant, Role::Viewer).await;
    let caller = caller?;
    let secret = tempfile::NamedTempFile::new()?;
    std::fs::write(secret.path(), "2a".repeat(32))?;
    let url = fleet.db.url("mw_api");
    let api = ApiProcess::start(ApiProcessConfig {
        program: server.to_owned(),
        rate_limit_multiplier: "1",
        ..ApiProcessConfig::new(&url, secret.path())
    })?;
    let address: SocketAddr = api.address.parse().context("the API has an address")?;
    let (mut latencies, answers) = (Latencies::default(), Arc::new(Answers::default()));
    let versions = vec![VERSION_REQUEST.to_owned(); requests.len()];
    // The first turn warms the service up and is not measured.
    measure_latency(address, &caller, turn).await?;
    for round in 0..rounds {
        // Each of the four goes first in every fourth round.
        for part in 0..4 {
            let (sent, counted, long, into) = match (round + part) % 4 {
                0 => (
                    Vec::new(),
                    Arc::default(),
                    turn * LONG_TURN_FACTOR,
                    &mut latencies.alone,
                ),
                1 => (
                    requests.clone(),
                    answers.clone(),
                    turn * LONG_TURN_FACTOR,
                    &mut latencies.beside_one_burst,
                ),
                2 => (
                    requests.clone(),
                    answers.clone(),
                    turn,
                    &mut latencies.beside_bursts,
                ),
                _ => (
                    versions.clone(),
                    Arc::default(),
                    turn,
                    &mut latencies.beside_versions,
                ),
            };
            let between = if long == turn { BURST_INTERVAL } else { long };
            let bursts = tokio::spawn(send_bursts(address, sent, between, counted));
            into.extend(measure_latency(address, &caller, long).await?);
            bursts.abort();
            match bursts.await {
                Ok(ended) => ended?,
                Err(stopped) if stopped.is_cancelled() => {}
                Err(panicked) => return Err(panicked.into()),
            }
        }
    }
    print_report(&mut latencies, &answers)
}

fn print_report(latencies: &mut Latencies, answers: &Answers) -> Result<()> {
    let shown = |of: &mut Vec<Duration>| {
        let slow = percentile_99(of);
        let (median, worst) = (of[of.len() / 2], of.last().copied().unwrap_or_default());
        (
            slow,
            json!({ "p50_microseconds": median.as_micros(), "p99_microseconds": slow.as_micros(), "slowest_microseconds": worst.as_micros() }),
        )
    };
    let (alone, none) = shown(&mut latencies.alone);
    let (once, one_burst) = shown(&mut latencies.beside_one_burst);
    let (often, bursts) = shown(&mut latencies.beside_bursts);
    let (idle, versions) = shown(&mut latencies.beside_versions);
    let compared = |slow: Duration, fast: Duration| slow.as_secs_f64() / fast.as_secs_f64();
    let ratio = compared(once, alone);
    let [fine, put_off, other] =
        [&answers.fine, &answers.put_off, &answers.other].map(|of| of.load(Ordering::Relaxed));
    println!(
        "{:#}",
        json!({
            "tenants": TENANTS, "trials_each_at_once": TRIALS_PER_TENANT, "trials_fine": fine, "trials_put_off": put_off, "trials_failed": other,
            "alone": none, "beside_one_burst": one_burst, "ratio": round_to_thousandths(ratio), "goal": MAX_SLOWDOWN,
            "beside_bursts_every_2_seconds": bursts, "ratio_of_those_to_alone": round_to_thousandths(compared(often, alone)),
            "beside_requests_for_the_version_every_2_seconds": versions, "ratio_to_those": round_to_thousandths(compared(often, idle)),
        })
    );
    if other > 0 || fine < put_off {
        bail!("{other} trials failed, {put_off} were put off, {fine} were answered");
    }
    if ratio <= MAX_SLOWDOWN {
        Ok(())
    } else {
        Err(anyhow!(
            "beside bursts of changes a caller's slowest hundredth took {ratio:.3} times as long"
        ))
    }
}

fn trial_request_text(key: &str, cluster: &str) -> String {
    let body =
        json!({ "name": "m1", "version": "1.25.1.1", "edition": "enterprise", "clusters": [cluster] }).to_string();
    format!(
        "POST /v1/meshes?validate_only=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Sends one burst after the other until the task is stopped.
async fn send_bursts(
    address: SocketAddr,
    requests: Vec<String>,
    between: Duration,
    answers: Arc<Answers>,
) -> Result<()> {
    loop {
        let mut sent = tokio::task::JoinSet::new();
        for request in requests
            .iter()
            .flat_map(|request| std::iter::repeat_n(request, TRIALS_PER_TENANT))
        {
            sent.spawn(send_trial(address, request.clone(), answers.clone()));
        }
        while let Some(answered) = sent.join_next().await {
            answered??;
        }
        tokio::time::sleep(between).await;
    }
}

async fn send_trial(address: SocketAddr, request: String, answers: Arc<Answers>) -> Result<()> {
    let asked = async {
        let (mut stream, mut answer) = (TcpStream::connect(address).await?, Vec::new());
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_end(&mut answer).await.map(|_| answer)
    };
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, asked)
        .await
        .context("a trial was not answered")?;
    let answer = answer?;
    let count = match answer.get(9..12) {
        Some(b"200") => &answers.fine,
        Some(b"429") => &answers.put_off,
        _ => &answers.other,
    };
    count.fetch_add(1, Ordering::Relaxed);
    Ok(())
}
