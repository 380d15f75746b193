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
const REQUESTS: &str = "meshwright_http_requests_total";
/// Seconds from a request's head to its answer's, by method and route.
const DURATION: &str = "meshwright_http_request_duration_seconds";
/// The content type of Prometheus' text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a process says about itself.
#[derive(Clone)]
pub struct Vitals {
    /// Its database: a process is ready when it answers.
    pub store: Store,
    /// Its metrics, in Prometheus' text format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

impl std::fmt::Debug for Vitals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vitals").finish_non_exhaustive()
    }
}

/// `/metrics`, `/healthz`, `/readyz` and `/version`: for a port of its own, without credentials.
pub fn vitals(vitals: Vitals) -> axum::Router {
    let shown = vitals.metrics;
    axum::Router::new()
        .route("/metrics", get(async move || ([(header::CONTENT_TYPE, TEXT)], shown())))
        .merge(health().with_state(vitals.store))
}

/// The part of it that the service shows everybody.
pub(crate) fn health() -> axum::Router<Store> {
    axum::Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .route("/version", get(version))
}

async fn version() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "version": env!("CARGO_PKG_VERSION") }))
}

async fn ready(State(store): State<Store>) -> Response {
    if store.healthy().await {
        "ok".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer").into_response()
    }
}

/// Counts every request and how long its answer took to begin.
pub(crate) async fn count(request: Request, next: Next) -> Response {
    let (method, route) = (known(request.method()), route(&request));
    let since = Instant::now();
    let answer = next.run(request).await;
    let status = answer.status().as_str().to_owned();
    metrics::counter!(REQUESTS, "method" => method, "route" => route.clone(), "status" => status).increment(1);
    metrics::histogram!(DURATION, "method" => method, "route" => route).record(since.elapsed());
    answer
}

/// A request's template, for example `/v1/meshes/{id}`.
fn route<B>(request: &axum::http::Request<B>) -> String {
    request.extensions().get::<MatchedPath>().map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned())
}

/// A client may invent methods.
fn known(method: &Method) -> &'static str {
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
pub(crate) fn asked<B>(request: &axum::http::Request<B>, _: &tracing::Span) {
    tracing::debug!(uri = %request.uri(), version = ?request.version(), "asked");
}

impl<B> MakeSpan<B> for RequestSpan {
    fn make_span(&mut self, request: &axum::http::Request<B>) -> tracing::Span {
        let name = format!("{} {}", known(request.method()), route(request));
        tracing::info_span!("request", otel.name = name, otel.kind = "server")
    }
}
