//! `serve`, `work` and `migrate`.

use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::options::{AnchorFile, Backend, Clusters, Connections, Metrics};
use crate::service::{anchored, app, connect, engine, keys_for_all, stopped};
use crate::telemetry::show;

pub(crate) async fn serve(
    database: &Backend,
    listen: &str,
    networks: &[String],
    (share, connections): (u32, Connections),
    metrics: &Metrics,
) -> Result<(), Failure> {
    let store = connect(database).await?;
    store.require_bounded_role().await?;
    let stop = CancellationToken::new();
    show(metrics.metrics_listen.as_deref(), &store, &stop).await?;
    let listener =
        tokio::net::TcpListener::bind(listen).await.map_err(Failure::io(format!("listening on {listen}")))?;
    let address = listener.local_addr().map_err(Failure::io("the listener"))?;
    tracing::info!(%address, "serving");
    let routes = api::router(app(store, networks, share)?);
    let served = api::serve(listener, routes, connections.patience(), stopped()).await;
    stop.cancel();
    served.map_err(Failure::io("serving"))
}

pub(crate) async fn work(
    database: &Backend,
    clusters: &Clusters,
    anchors: &AnchorFile,
    metrics: &Metrics,
) -> Result<(), Failure> {
    let store = connect(database).await?;
    store.require_bounded_role().await?;
    let stop = CancellationToken::new();
    keys_for_all(&store).await?;
    anchored(&store, anchors, &stop)?;
    show(metrics.metrics_listen.as_deref(), &store, &stop).await?;
    let engine = engine(store, clusters)?;
    let working = tokio::spawn({
        let stop = stop.clone();
        async move { engine.work(stop).await }
    });
    tracing::info!("working");
    stopped().await;
    stop.cancel();
    working.await.map_err(|error| Failure::Config(format!("the worker failed: {error}")))
}

pub(crate) async fn migrate(database: &Backend) -> Result<(), Failure> {
    connect(database).await?.migrate().await?;
    println!("the schema is up to date");
    Ok(())
}
