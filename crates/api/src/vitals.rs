//! What a process says about itself to whoever runs it, apart from what it serves: health, version and metrics.
//!
//! Values of labels are bounded: a route's template, never a path; nothing that a tenant has chosen.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use store::Store;
use tower_http::trace::MakeSpan;

/// Requests answered, by method, route and status.
const REQUESTS_METRIC: &str = "meshwright_http_requests_total";
/// Seconds from a request's head to its answer's, by method and route.
const DURATION_METRIC: &str = "meshwright_http_request_duration_seconds";
/// The content type of Prometheus' text format.
const PROMETHEUS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a process says about itself.
#[derive(Clone)]
pub struct MetricsServer {
    /// Its database: a process is ready when it answers.
    pub store: Store,
    /// Its metrics, in Prometheus' text format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

impl std::fmt::Debug for MetricsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vitals").finish_non_exhaustive()
    }
}

/// `/metrics`, `/healthz`, `/readyz` and `/version`: for a port of its own, without credentials.
pub fn metrics_router(vitals: MetricsServer) -> axum::Router {
    let shown = vitals.metrics;
    axum::Router::new()
        .route("/metrics", get(async move || ([(header::CONTENT_TYPE, PROMETHEUS_CONTENT_TYPE)], shown())))
        .merge(health_routes().with_state(vitals.store))
}

/// The part of it that the service shows everybody.
pub(crate) fn health_routes() -> axum::Router<Store> {
    axum::Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(check_readiness))
        .route("/version", get(get_version))
}

async fn get_version() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "version": env!("CARGO_PKG_VERSION") }))
}

async fn check_readiness(State(store): State<Store>) -> Response {
    if store.is_healthy().await {
        "ok".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer").into_response()
    }
}

/// Counts every request and how long its answer took to begin.
pub(crate) async fn record_metrics(request: Request, next: Next) -> Response {
    let (method, route) = (method_label(request.method()), route_template(&request));
    let since = Instant::now();
    let answer = next.run(request).await;
    let status = answer.status().as_str().to_owned();
    metrics::counter!(REQUESTS_METRIC, "method" => method, "route" => route.clone(), "status" => status).increment(1);
    metrics::histogram!(DURATION_METRIC, "method" => method, "route" => route).record(since.elapsed());
    answer
}

/// A request's template, for example `/v1/meshes/{id}`.
fn route_template<B>(request: &axum::http::Request<B>) -> String {
    request.extensions().get::<MatchedPath>().map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned())
}

/// A client may invent methods.
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

/// The span of a request. It has no path and no query: see [`asked`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestSpan;

/// For the log's deeper levels only: no trace has it.
pub(crate) fn log_request<B>(request: &axum::http::Request<B>, _: &tracing::Span) {
    tracing::debug!(uri = %request.uri(), version = ?request.version(), "asked");
}

impl<B> MakeSpan<B> for RequestSpan {
    fn make_span(&mut self, request: &axum::http::Request<B>) -> tracing::Span {
        let name = format!("{} {}", method_label(request.method()), route_template(request));
        tracing::info_span!("request", otel.name = name, otel.kind = "server")
    }
}
