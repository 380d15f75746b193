//! What every answer has around it: a request id, and a problem document where something went wrong, whoever noticed it.

use std::sync::{Arc, OnceLock};

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::auth::AppState;
use crate::limits::RateLimitHeaders;
use crate::problem::ApiError;

const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// A caller's own id is kept where it is of this length at most, and visible.
const MAX_REQUEST_ID_LEN: usize = 128;
/// What a library says of a request that it refused; no more of it is read.
const MAX_REJECTION_BYTES: usize = 1024;

const RATE_LIMIT_POLICY_HEADER: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT_HEADER: HeaderName = HeaderName::from_static("ratelimit");

/// What is known of the request that is being worked on.
struct RequestContext {
    id: String,
    rate_limit_headers: OnceLock<RateLimitHeaders>,
}

tokio::task_local! {
    static REQUEST: Arc<RequestContext>;
}

/// The id of the request that is being worked on; none outside of one.
pub(crate) fn request_id() -> Option<String> {
    REQUEST.try_with(|known| known.id.clone()).ok()
}

/// Tells the caller what is left of their share, in the headers of the answer.
pub(crate) fn set_rate_limit_headers(share: RateLimitHeaders) {
    // Outside of a request nobody is told, and one request is counted once.
    let _ = REQUEST.try_with(|known| known.rate_limit_headers.set(share));
}

/// Gives the request an id, and turns refusals of libraries into problems.
pub(crate) async fn with_request_context(
    axum::extract::State(app): axum::extract::State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let sent = request.headers().get(REQUEST_ID_HEADER).and_then(|value| value.to_str().ok());
    let id =
        sent.filter(|id| (1..=MAX_REQUEST_ID_LEN).contains(&id.len())).map_or_else(|| app.clock.new_uuid().to_string(), str::to_owned);
    let value = HeaderValue::from_str(&id).expect("visible characters");
    request.headers_mut().insert(REQUEST_ID_HEADER, value.clone());
    let known = Arc::new(RequestContext { id, rate_limit_headers: OnceLock::new() });
    let answer = async { problem_from_rejection(next.run(request).await).await };
    let mut response = REQUEST.scope(known.clone(), answer).await;
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID_HEADER, value);
    if let Some(share) = known.rate_limit_headers.get() {
        headers.insert(RATE_LIMIT_POLICY_HEADER, share.policy.clone());
        headers.insert(RATE_LIMIT_HEADER, share.remaining.clone());
    }
    response
}

/// Extractors and layers refuse in plain text; clients are promised problems.
async fn problem_from_rejection(response: Response) -> Response {
    let status = response.status();
    let content =
        response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let plain = content.is_empty() || content.starts_with("text/plain");
    if !(status.is_client_error() || status.is_server_error()) || !plain {
        return response;
    }
    let problem = match status {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::body_too_large(),
        StatusCode::SERVICE_UNAVAILABLE => ApiError::service_unavailable(),
        _ if status.is_client_error() => {
            let said = to_bytes(response.into_body(), MAX_REJECTION_BYTES).await.unwrap_or_default();
            let said = String::from_utf8_lossy(&said).into_owned();
            ApiError::new(status, "malformed_request", said, "The OpenAPI document says what this route takes.")
        }
        _ => ApiError::internal(),
    };
    problem.into_response()
}
