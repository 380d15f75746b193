//! Sets up the log of the process, and its metrics and traces where they are configured.

use std::sync::Arc;
use std::time::Duration;

use meshwright_api::MetricsServer;
use meshwright_store::Store;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::TelemetryArgs;
use crate::{Failure, open_files};

/// Upper bounds of the buckets for the duration of requests, in seconds. The longest requests are
/// long polls.
const REQUEST_BUCKETS_SECONDS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 90.0,
];
/// Upper bounds of the buckets for the duration of operations, in seconds: from the change of a
/// label to a mesh of many clusters over a day.
const OPERATION_BUCKETS_SECONDS: [f64; 10] = [
    1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0,
];
/// Interval at which recorded samples are aggregated, also while no collector reads the metrics.
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Crates whose spans are exported.
const TRACED_CRATES: [&str; 4] = [
    "meshwright_api",
    "meshwright_worker",
    "meshwright_kubernetes",
    "meshwright_server",
];

/// Guard of the trace export. It sends the remaining spans when it is dropped.
pub(crate) struct TraceGuard(Option<SdkTracerProvider>);

impl Drop for TraceGuard {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|provider| provider.shutdown()) {
            eprintln!("meshwright-server: the last traces were not sent: {error}");
        }
    }
}

/// Starts the log, and the export of traces if a collector is configured.
pub(crate) fn init_telemetry(options: &TelemetryArgs) -> Result<TraceGuard, Failure> {
    let filter = EnvFilter::try_from_env("MESHWRIGHT_LOG").unwrap_or_else(|_| "info".into());
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_filter(filter);
    let provider = options
        .otlp_endpoint
        .as_deref()
        .map(build_trace_exporter)
        .transpose()?;
    let traces = provider.as_ref().map(|provider| {
        let ours = Targets::new().with_targets(TRACED_CRATES.map(|name| (name, LevelFilter::INFO)));
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("meshwright"))
            .with_filter(ours)
    });
    tracing_subscriber::registry().with(log).with(traces).init();
    Ok(TraceGuard(provider))
}

/// Builds an exporter that sends spans in the background, from a thread of its own.
fn build_trace_exporter(endpoint: &str) -> Result<SdkTracerProvider, Failure> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .build()
        .map_err(|error| Failure::Config(format!("--otlp-endpoint: {error}")))?;
    let resource = Resource::builder()
        .with_service_name("meshwright-server")
        .build();
    Ok(SdkTracerProvider::builder()
        .with_resource(resource)
        .with_batch_exporter(exporter)
        .build())
}

/// Starts to record metrics and serves them at this address. Without an address, it does neither.
pub(crate) async fn serve_metrics(
    address: Option<&str>,
    store: &Store,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let Some(address) = address else {
        return Ok(());
    };
    let listening = tokio::net::TcpListener::bind(address).await;
    let listener = listening.map_err(Failure::io(format!("listening on {address} for metrics")))?;
    let bound = listener
        .local_addr()
        .map_err(Failure::io("the listener for metrics"))?;
    let broken = |error| Failure::Config(format!("no metrics: {error}"));
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(
            Matcher::Prefix("meshwright_http".into()),
            &REQUEST_BUCKETS_SECONDS,
        )
        .and_then(|made| {
            made.set_buckets_for_metric(
                Matcher::Prefix("meshwright_operation".into()),
                &OPERATION_BUCKETS_SECONDS,
            )
        })
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(broken)?;
    let upkeep = recorder.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(METRICS_UPKEEP_INTERVAL).await;
            upkeep.run_upkeep();
        }
    });
    let shown = meshwright_api::metrics_router(MetricsServer {
        store: store.clone(),
        metrics: Arc::new(move || recorder.render()),
    });
    let stopped = stop.clone().cancelled_owned();
    tokio::spawn(async move {
        if let Err(error) = meshwright_api::serve(
            listener,
            shown,
            open_files::metrics_connection_limits(),
            stopped,
        )
        .await
        {
            tracing::error!(%error, "the metrics listener failed");
        }
    });
    tracing::info!(address = %bound, "showing metrics");
    Ok(())
}
