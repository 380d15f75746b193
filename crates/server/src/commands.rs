//! Runs the commands `serve`, `work` and `migrate`.

use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::args::{AuditAnchorArgs, ConnectionArgs, MetricsArgs, StoreArgs, WorkerArgs};
use crate::database::{backfill_tenant_keys, connect_store};
use crate::service::{build_app, build_engine, shutdown_signal, spawn_audit_anchoring};
use crate::telemetry::serve_metrics;

pub(crate) async fn serve_api(
    database: &StoreArgs,
    listen: &str,
    networks: &[String],
    (rate_limit_multiplier, connections): (u32, ConnectionArgs),
    metrics: &MetricsArgs,
) -> Result<(), Failure> {
    let store = connect_store(database).await?;
    store.require_rls_enforced_role().await?;
    let stop = CancellationToken::new();
    serve_metrics(metrics.metrics_listen.as_deref(), &store, &stop).await?;
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .map_err(Failure::io(format!("listening on {listen}")))?;
    let address = listener.local_addr().map_err(Failure::io("the listener"))?;
    tracing::info!(%address, "serving");
    let routes = meshwright_api::router(build_app(store, networks, rate_limit_multiplier)?);
    let served = meshwright_api::serve(
        listener,
        routes,
        connections.connection_limits(),
        shutdown_signal(),
    )
    .await;
    stop.cancel();
    served.map_err(Failure::io("serving"))
}

pub(crate) async fn run_worker(
    database: &StoreArgs,
    clusters: &WorkerArgs,
    anchors: &AuditAnchorArgs,
    metrics: &MetricsArgs,
) -> Result<(), Failure> {
    let store = connect_store(database).await?;
    store.require_rls_enforced_role().await?;
    let stop = CancellationToken::new();
    backfill_tenant_keys(&store).await?;
    spawn_audit_anchoring(&store, anchors, &stop)?;
    serve_metrics(metrics.metrics_listen.as_deref(), &store, &stop).await?;
    let engine = build_engine(store, clusters)?;
    let working = tokio::spawn({
        let stop = stop.clone();
        async move { engine.run_until_stopped(stop).await }
    });
    tracing::info!("working");
    shutdown_signal().await;
    stop.cancel();
    working
        .await
        .map_err(|error| Failure::Config(format!("the worker failed: {error}")))
}

pub(crate) async fn migrate_schema(database: &StoreArgs) -> Result<(), Failure> {
    connect_store(database).await?.migrate().await?;
    println!("the schema is up to date");
    Ok(())
}
