//! Sends a marker word in every field that holds a secret, and checks that the word is nowhere
//! afterwards: in no dump, no file of a table or of the write-ahead log, no log at the level
//! `trace`, no trace, no metric, and no answer that says why a request was wrong.
//!
//! Another word is sent in fields that are not secret and must be found, because a search that
//! finds nothing at all proves nothing.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use meshwright_model::Clock;
use meshwright_model::access::Role;
use meshwright_model::clock::SystemClock;
use meshwright_model::ids::HostingClusterId;
use meshwright_store::{HostingCluster, Sealer, Store};

use crate::process::{ChildProcess, free_address};
use crate::service::{self, ApiProcess, ApiProcessConfig, SERVER_BINARY};
use crate::{Result, database, run_command};

mod leaks;
mod peers;
mod requests;

use leaks::{check_for_leaks, encoded_forms, read_files_below};
use peers::Peers;
use requests::send_requests;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Number of requests that are sent.
    #[arg(long, default_value_t = 10_000)]
    requests: usize,
}

/// Marker word that every secret field holds; it must not be found anywhere.
const SECRET_MARKER: &str = "CANARYzq7secretzq7CANARY";
/// Marker word of fields that are not secret; it must be found.
const PLAIN_MARKER: &str = "canaryzq7plainzq7canary";

pub(crate) fn run(options: &Options) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let postgres = database::start_migrated_postgres(scratch.path())?;
    let runtime = tokio::runtime::Runtime::new()?;
    let [api_log, worker_log] = ["api.log", "worker.log"].map(|name| scratch.path().join(name));
    let url = |role: &str| postgres.url(role, database::DATABASE_NAME);
    let secret = scratch.path().join("secret");
    std::fs::write(&secret, "07".repeat(32))?;
    let owner = runtime.block_on(prepare_database(&url("mw_worker")))?;
    let peers = runtime.block_on(Peers::start())?;
    let authority = scratch.path().join("authority.pem");
    std::fs::write(&authority, &peers.ca_pem)?;
    let [api_metrics, worker_metrics] = [free_address()?, free_address()?];
    let telemetry = |metrics: &str| {
        vec![
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                format!("http://{}", peers.collector),
            ),
            ("OTEL_BSP_SCHEDULE_DELAY", "500".to_owned()),
            ("MESHWRIGHT_METRICS_LISTEN", metrics.to_owned()),
        ]
    };
    let mut environment = telemetry(&api_metrics);
    // The fake cluster is on this machine, and the API refuses literal addresses that no worker is
    // allowed to call.
    environment.push(("MESHWRIGHT_ALLOW_NETWORKS", "127.0.0.0/8".to_owned()));
    let config = ApiProcessConfig {
        log_file: Some(api_log.clone()),
        log_level: "trace",
        environment,
        ..ApiProcessConfig::new(&url("mw_api"), &secret)
    };
    let api = ApiProcess::start(config)?;
    let mut environment = telemetry(&worker_metrics);
    environment.push(("SSL_CERT_FILE", authority.display().to_string()));
    let worker = start_worker(&url("mw_worker"), &secret, &worker_log, environment)?;
    let (answers, mut words) = runtime.block_on(send_requests(
        options.requests,
        &api.address,
        &owner,
        &peers,
    ))?;
    words.extend(encoded_forms(SECRET_MARKER));
    words.insert(owner.rsplit('_').next().unwrap_or(&owner).to_owned());
    // Give the worker time for the operations that were accepted last.
    std::thread::sleep(Duration::from_secs(5));
    let metrics = runtime.block_on(async {
        Ok::<_, anyhow::Error>([
            scrape_metrics(&api_metrics).await?,
            scrape_metrics(&worker_metrics).await?,
        ])
    })?;
    drop((api, worker));
    let dump = scratch.path().join("dump.sql");
    dump_database(&url(meshwright_store::embedded_postgres::SUPERUSER), &dump)?;
    let data = scratch.path().join("postgres").join("data");
    let log = scratch.path().join("postgres").join("postgres.log");
    let places = [
        ("the dump", &dump),
        ("the API's log", &api_log),
        ("the worker's log", &worker_log),
        ("the database's log", &log),
    ];
    let mut haystacks: Vec<(String, Vec<u8>)> = vec![("answers".into(), answers)];
    for (title, path) in places {
        haystacks.push((
            title.into(),
            std::fs::read(path).with_context(|| title.to_owned())?,
        ));
    }
    read_files_below(&data, &mut haystacks)?;
    haystacks.push(("traces".into(), peers.take_traces()));
    haystacks.push(("metrics".into(), metrics.concat()));
    check_for_leaks(&haystacks, &words, options.requests)
}

/// Creates a tenant with quotas that no test reaches and a hosting cluster whose kubeconfig is
/// secret, and returns the key of the tenant's owner.
async fn prepare_database(
    database: &str,
) -> std::result::Result<String, meshwright_store::StoreError> {
    let store = Store::connect(database, Sealer::new([7; 32])).await?;
    let tenant = service::create_unlimited_tenant(&store, "canary").await?;
    let hosting = HostingCluster {
        id: HostingClusterId(SystemClock.new_uuid()),
        name: PLAIN_MARKER.into(),
        created_at: SystemClock.now(),
    };
    store
        .add_hosting_cluster(&hosting, SECRET_MARKER.as_bytes())
        .await?;
    service::create_api_key(&store, tenant, Role::Owner).await
}

/// Writes all tables to their files, and the text of the whole database to the file `dump`.
fn dump_database(database: &str, dump: &Path) -> Result<()> {
    run_command(
        Command::new(database::postgres_program("psql")?)
            .args(["--quiet", "--command", "CHECKPOINT"])
            .arg(database),
    )?;
    run_command(
        Command::new(database::postgres_program("pg_dump")?)
            .arg("--file")
            .arg(dump)
            .arg(database),
    )
    .map(drop)
}

async fn scrape_metrics(address: &str) -> Result<Vec<u8>> {
    let answer = reqwest::get(format!("http://{address}/metrics")).await?;
    Ok(answer.bytes().await?.to_vec())
}

/// Starts a worker that logs at the level `trace`. It is killed when the returned process is
/// dropped.
fn start_worker(
    database: &str,
    secret: &Path,
    log: &Path,
    telemetry: Vec<(&'static str, String)>,
) -> Result<ChildProcess> {
    let log = std::fs::File::create(log)?;
    let mut run = Command::new(SERVER_BINARY);
    run.args([
        "work",
        "--database-url",
        database,
        "--allow-network",
        "127.0.0.0/8",
        "--server-secret-file",
    ])
    .arg(secret);
    run.env("MESHWRIGHT_LOG", "trace")
        .envs(telemetry)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    ChildProcess::start("the worker", &mut run)
}
