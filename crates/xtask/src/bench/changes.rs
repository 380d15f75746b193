//! What a burst of changes by many tenants does to a caller that has nothing to do with it: a trial of a new mesh, four at once
//! from each of forty tenants, many more than a process has connections.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use model::access::Role;
use model::ids::TenantId;
use serde_json::json;
use testkit::Fleet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use super::fair::{MOST, listen, slowest_hundredth};
use super::rounded;
use crate::Result;
use crate::service::{self, Api, Setting};

const TENANTS: u128 = 40;
const EACH: usize = 4;
/// Between two bursts. A burst is answered long before the next one.
const BETWEEN: Duration = Duration::from_secs(2);
/// Nothing is answered later.
const LIMIT: Duration = Duration::from_secs(30);

/// How the trials ended.
#[derive(Debug, Default)]
struct Answers {
    fine: AtomicU64,
    /// Told to come back later.
    put_off: AtomicU64,
    other: AtomicU64,
}

/// Judges a service whose callers come all at once.
pub(super) async fn judge(server: &Path, rounds: usize, turn: Duration) -> Result<()> {
    let fleet = Fleet::new().await;
    let mut requests = Vec::new();
    for number in 0..TENANTS {
        let tenant = TenantId(Uuid::from_u128(1000 + number));
        let cluster = fleet.neighbour(tenant, &format!("crowd-{number}")).await;
        let key = service::key(&fleet.db.worker, tenant, Role::Owner).await.map_err(|error| error.to_string())?;
        requests.push(trial(&key, &cluster.to_string()));
    }
    let caller = service::key(&fleet.db.worker, fleet.db.tenant, Role::Viewer).await;
    let caller = caller.map_err(|error| error.to_string())?;
    let secret = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    std::fs::write(secret.path(), "2a".repeat(32)).map_err(|error| error.to_string())?;
    let url = fleet.db.url("mw_api");
    let api = Api::start(Setting { program: server.to_owned(), share: "1", ..Setting::new(&url, secret.path()) })?;
    let address: SocketAddr = api.address.parse().map_err(|_| "the API has an address")?;
    let (mut alone, mut beside, answers) = (Vec::new(), Vec::new(), Arc::new(Answers::default()));
    listen(address, &caller, turn).await?;
    for round in 0..rounds {
        // Each goes first every other time.
        for busy in [round % 2 == 0, round % 2 != 0] {
            let bursts = busy.then(|| tokio::spawn(bursts(address, requests.clone(), turn, answers.clone())));
            let heard = listen(address, &caller, turn).await?;
            if let Some(bursts) = bursts {
                bursts.await.map_err(|error| error.to_string())??;
            }
            if busy { beside.extend(heard) } else { alone.extend(heard) }
        }
    }
    report(&mut alone, &mut beside, &answers)
}

fn report(alone: &mut [Duration], beside: &mut [Duration], answers: &Answers) -> Result<()> {
    let (fast, slow) = (slowest_hundredth(alone), slowest_hundredth(beside));
    let ratio = slow.as_secs_f64() / fast.as_secs_f64();
    let [fine, put_off, other] = [&answers.fine, &answers.put_off, &answers.other].map(|of| of.load(Ordering::Relaxed));
    println!(
        "{:#}",
        json!({
            "tenants": TENANTS, "trials_each_at_once": EACH, "trials_fine": fine, "trials_put_off": put_off, "trials_failed": other,
            "p99_alone_microseconds": fast.as_micros(), "p99_beside_microseconds": slow.as_micros(),
            "p50_alone_microseconds": alone[alone.len() / 2].as_micros(), "p50_beside_microseconds": beside[beside.len() / 2].as_micros(),
            "slowest_beside_microseconds": beside.last().map_or(0, Duration::as_micros), "ratio": rounded(ratio), "goal": MOST,
        })
    );
    if other > 0 || fine == 0 {
        return Err(format!("{other} trials failed, {fine} did not"));
    }
    if ratio <= MOST {
        Ok(())
    } else {
        Err(format!("beside bursts of changes a caller's slowest hundredth took {ratio:.3} times as long"))
    }
}

fn trial(key: &str, cluster: &str) -> String {
    let body =
        json!({ "name": "m1", "version": "1.25.1.1", "edition": "enterprise", "clusters": [cluster] }).to_string();
    format!(
        "POST /v1/meshes?validate_only=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// One burst after the other until the turn is over.
async fn bursts(address: SocketAddr, requests: Vec<String>, turn: Duration, answers: Arc<Answers>) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < turn {
        let mut sent = tokio::task::JoinSet::new();
        for request in requests.iter().flat_map(|request| std::iter::repeat_n(request, EACH)) {
            sent.spawn(send(address, request.clone(), answers.clone()));
        }
        while let Some(answered) = sent.join_next().await {
            answered.map_err(|error| error.to_string())??;
        }
        tokio::time::sleep(BETWEEN).await;
    }
    Ok(())
}

async fn send(address: SocketAddr, request: String, answers: Arc<Answers>) -> Result<()> {
    let asked = async {
        let (mut stream, mut answer) = (TcpStream::connect(address).await?, Vec::new());
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_end(&mut answer).await.map(|_| answer)
    };
    let answer = tokio::time::timeout(LIMIT, asked).await.map_err(|_| "a trial was not answered")?;
    let answer = answer.map_err(|error: std::io::Error| error.to_string())?;
    let count = match answer.get(9..12) {
        Some(b"200") => &answers.fine,
        Some(b"429") => &answers.put_off,
        _ => &answers.other,
    };
    count.fetch_add(1, Ordering::Relaxed);
    Ok(())
}
