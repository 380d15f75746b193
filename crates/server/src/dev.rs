//! Runs the command `dev`: API and worker in one process on an embedded Postgres, with a first
//! tenant and its key.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use meshwright_model::Clock;
use meshwright_model::clock::SystemClock;
use meshwright_model::ids::TenantId;
use meshwright_store::embedded_postgres::EmbeddedPostgres;
use meshwright_store::{Sealer, Store};
use meshwright_wire::ReleaseArgs;
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::args::{DevArgs, ImportReleaseArgs, MasterKeySource};
use crate::database::{backfill_tenant_keys, load_sealer};
use crate::import::{add_hosting_cluster, ignore_conflict, import_release};
use crate::service::{build_app, build_engine, shutdown_signal, spawn_audit_anchoring};
use crate::telemetry::serve_metrics;
use crate::tenants::create_owner_key;

const DATABASE_NAME: &str = "meshwright";

pub(crate) async fn run_dev(options: DevArgs) -> Result<(), Failure> {
    let dir = &options.dir;
    std::fs::create_dir_all(dir).map_err(Failure::io(format!("the folder {}", dir.display())))?;
    let sealer = load_or_create_sealer(dir)?;
    let postgres = EmbeddedPostgres::start(&dir.join("postgres"))?;
    Store::prepare_private_database(&postgres, DATABASE_NAME, &sealer).await?;
    let api = Store::connect(&postgres.url("mw_api", DATABASE_NAME), sealer.clone()).await?;
    let worker = Store::connect(&postgres.url("mw_worker", DATABASE_NAME), sealer).await?;
    backfill_tenant_keys(&worker).await?;
    api.ensure_platform_key(SystemClock.now()).await?;
    ensure_first_tenant(&api, &dir.join("api-key")).await?;
    ensure_operator_key(&api, &dir.join("operator-key")).await?;
    if let Some(kubeconfig) = &options.hosting_kubeconfig {
        ignore_conflict(add_hosting_cluster(&worker, "hosting", kubeconfig).await)?;
    }
    for release in &options.releases {
        ignore_conflict(import_release(&worker, parse_release(release, &options.hub)?).await)?;
    }
    let listener = bind_listener(&options.listen).await?;
    let address = listener.local_addr().map_err(Failure::io("the listener"))?;
    println!("Meshwright serves http://{address}");
    println!(
        "Log in with: meshwright login --server http://{address} --key-file {}",
        dir.join("api-key").display()
    );
    let stop = CancellationToken::new();
    spawn_audit_anchoring(&worker, &options.anchors, &stop)?;
    serve_metrics(options.metrics.metrics_listen.as_deref(), &worker, &stop).await?;
    let engine = build_engine(worker, &options.clusters)?;
    let working = tokio::spawn({
        let (stop, idle) = (stop.clone(), options.no_work);
        async move {
            if idle {
                stop.cancelled().await;
            } else {
                engine.run_until_stopped(stop).await;
            }
        }
    });
    let routes = meshwright_api::router(build_app(api, &options.clusters.allow_networks, 1)?);
    let served = meshwright_api::serve(
        listener,
        routes,
        options.connections.connection_limits(),
        shutdown_signal(),
    )
    .await;
    stop.cancel();
    working
        .await
        .map_err(|error| Failure::Config(format!("the worker failed: {error}")))?;
    served.map_err(Failure::io("serving"))
}

/// Loads the server secret of this folder, and creates it at the first start.
fn load_or_create_sealer(dir: &Path) -> Result<Sealer, Failure> {
    let file = dir.join("vault-key");
    if !file.exists() {
        write_secret_file(&file, &meshwright_store::random_hex())?;
    }
    load_sealer(&file, &MasterKeySource::default())
}

fn write_secret_file(file: &Path, text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    let opened = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file);
    opened
        .and_then(|mut file| writeln!(file, "{text}"))
        .map_err(Failure::io(format!("writing {}", file.display())))
}

/// Creates the first tenant and its owner's key at the first start.
async fn ensure_first_tenant(store: &Store, file: &Path) -> Result<(), Failure> {
    if file.exists() {
        return Ok(());
    }
    let clock = SystemClock;
    let tenant = TenantId(clock.new_uuid());
    store.create_tenant(tenant, "first", clock.now()).await?;
    write_owner_key(store, tenant, file).await
}

/// Creates the first key of the operator of the service at the first start.
async fn ensure_operator_key(store: &Store, file: &Path) -> Result<(), Failure> {
    if file.exists() {
        Ok(())
    } else {
        write_owner_key(store, TenantId::PLATFORM, file).await
    }
}

async fn write_owner_key(store: &Store, tenant: TenantId, file: &Path) -> Result<(), Failure> {
    write_secret_file(file, &create_owner_key(store, tenant, "first").await?)
}

/// Returns the listener that the parent process has opened and handed over (`LISTEN_FDS`), or binds
/// one.
async fn bind_listener(address: &str) -> Result<tokio::net::TcpListener, Failure> {
    let handed = listenfd::ListenFd::from_env()
        .take_tcp_listener(0)
        .map_err(Failure::io("the handed-over listener"))?;
    match handed {
        Some(listener) => {
            listener
                .set_nonblocking(true)
                .map_err(Failure::io("the handed-over listener"))?;
            tokio::net::TcpListener::from_std(listener)
                .map_err(Failure::io("the handed-over listener"))
        }
        None => tokio::net::TcpListener::bind(address)
            .await
            .map_err(Failure::io(format!("listening on {address}"))),
    }
}

fn parse_release(text: &str, hub: &str) -> Result<ImportReleaseArgs, Failure> {
    let (version, charts) = text
        .split_once('=')
        .ok_or_else(|| Failure::Config("--release is version[@tag]=folder".into()))?;
    let (version, tag) = version
        .split_once('@')
        .map_or((version, None), |(version, tag)| (version, Some(tag)));
    Ok(ImportReleaseArgs {
        version: version.into(),
        charts: charts.into(),
        facts: ReleaseArgs {
            hub: hub.into(),
            tag: tag.map(str::to_owned),
            kubernetes_min: None,
            kubernetes_tested: None,
            kubernetes_source: None,
            supported_until: None,
            quirks: Vec::new(),
            released_on: None,
            channels: Vec::new(),
            minimum_edition: "standard".into(),
            notes: String::new(),
        },
    })
}
