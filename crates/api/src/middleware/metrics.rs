//! Reports the health, the version and the metrics of a process to its operator, and records
//! metrics and spans of requests.
//!
//! The values of labels are bounded: the template of a route and never a path, and no value that a
//! tenant has chosen.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use meshwright_store::Store;
use tower_http::trace::MakeSpan;

/// Name of the counter of answered requests, by method, route and status.
const REQUESTS_METRIC: &str = "meshwright_http_requests_total";
/// Name of the histogram of seconds from the head of a request to the head of its answer, by method
/// and route.
const DURATION_METRIC: &str = "meshwright_http_request_duration_seconds";
/// Content type of Prometheus' text format.
const PROMETHEUS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Sources of the health and the metrics of a process.
#[derive(Clone)]
pub struct MetricsServer {
    /// Database of the process. The process is ready when the database answers.
    pub store: Store,
    /// Function that returns the metrics of the process in Prometheus' text format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

impl std::fmt::Debug for MetricsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricsServer").finish_non_exhaustive()
    }
}

/// Builds the router of `/metrics`, `/healthz`, `/readyz` and `/version`. It needs no credentials,
/// so it belongs on a port of its own.
pub fn metrics_router(vitals: MetricsServer) -> axum::Router {
    let shown = vitals.metrics;
    axum::Router::new()
        .route(
            "/metrics",
            get(async move || ([(header::CONTENT_TYPE, PROMETHEUS_CONTENT_TYPE)], shown())),
        )
        .merge(health_routes().with_state(vitals.store))
}

/// Builds the routes of health and version, which the API serves too, to callers without a
/// credential.
pub(crate) fn health_routes() -> axum::Router<Store> {
    axum::Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(check_readiness))
        .route("/version", get(get_version))
}

/// Answers with the version of Meshwright.
async fn get_version() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "version": env!("CARGO_PKG_VERSION") }))
}

/// Answers with 200 if the database answers, and with 503 otherwise.
async fn check_readiness(State(store): State<Store>) -> Response {
    if store.is_healthy().await {
        "ok".into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the database does not answer",
        )
            .into_response()
    }
}

/// Counts each request, and records the time until its answer begins.
pub(crate) async fn record_metrics(request: Request, next: Next) -> Response {
    let (method, route) = (method_label(request.method()), route_template(&request));
    let since = Instant::now();
    let answer = next.run(request).await;
    let status = answer.status().as_str().to_owned();
    metrics::counter!(REQUESTS_METRIC, "method" => method, "route" => route.clone(), "status" => status).increment(1);
    metrics::histogram!(DURATION_METRIC, "method" => method, "route" => route)
        .record(since.elapsed());
    answer
}

/// Returns the template of a request's route, for example `/v1/meshes/{id}`, or `none` for an
/// unknown route.
fn route_template<B>(request: &axum::http::Request<B>) -> String {
    request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned())
}

/// Returns the method for a label. A client can send any method, so unknown ones become `other`.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// Builds the tracing span of a request. The span has no path and no query, because spans are
/// exported when the operator wants it; [`log_request`] logs both at the level `debug`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestSpan;

/// Logs the path and the query of a request at the level `debug`. No exported trace contains them.
pub(crate) fn log_request<B>(request: &axum::http::Request<B>, _: &tracing::Span) {
    tracing::debug!(uri = %request.uri(), version = ?request.version(), "received an HTTP request");
}

impl<B> MakeSpan<B> for RequestSpan {
    fn make_span(&mut self, request: &axum::http::Request<B>) -> tracing::Span {
        let name = format!(
            "{} {}",
            method_label(request.method()),
            route_template(request)
        );
        tracing::info_span!("request", otel.name = name, otel.kind = "server")
    }
}
