//! Surrounds each request with a request id, and each answer with headers.

use std::sync::{Arc, OnceLock};

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use meshwright_model::Clock;

use crate::middleware::rate_limit::RateLimitHeaders;

/// Header that carries the id of a request, in requests and in answers.
const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Maximum length of a request id from the client, in bytes. A longer id, or one with invisible
/// characters, is replaced by one of ours.
const MAX_REQUEST_ID_LEN: usize = 128;

const RATE_LIMIT_POLICY_HEADER: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT_HEADER: HeaderName = HeaderName::from_static("ratelimit");

/// Data of the request that is being handled, which code in the same task can reach.
struct RequestContext {
    id: String,
    rate_limit_headers: OnceLock<RateLimitHeaders>,
}

tokio::task_local! {
    static REQUEST: Arc<RequestContext>;
}

/// Returns the id of the request that is being handled; `None` outside a request.
pub(crate) fn request_id() -> Option<String> {
    REQUEST.try_with(|known| known.id.clone()).ok()
}

/// Sets the rate limit headers of the answer to the request that is being handled.
pub(crate) fn set_rate_limit_headers(share: RateLimitHeaders) {
    // Outside a request there is no answer to set them on. The headers can be set once, because
    // each request is counted once.
    let _ = REQUEST.try_with(|known| known.rate_limit_headers.set(share));
}

/// Gives the request an id, runs it, and adds the id and the rate limit headers to the answer.
pub(crate) async fn with_request_context(
    State(clock): State<Arc<dyn Clock>>,
    mut request: Request,
    next: Next,
) -> Response {
    let sent = request
        .headers()
        .get(REQUEST_ID_HEADER)
        .and_then(|value| value.to_str().ok());
    let id = sent
        .filter(|id| (1..=MAX_REQUEST_ID_LEN).contains(&id.len()))
        .map_or_else(|| clock.new_uuid().to_string(), str::to_owned);
    let value = HeaderValue::from_str(&id).expect("visible characters");
    request
        .headers_mut()
        .insert(REQUEST_ID_HEADER, value.clone());
    let known = Arc::new(RequestContext {
        id,
        rate_limit_headers: OnceLock::new(),
    });
    let mut response = REQUEST.scope(known.clone(), next.run(request)).await;
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID_HEADER, value);
    if let Some(share) = known.rate_limit_headers.get() {
        headers.insert(RATE_LIMIT_POLICY_HEADER, share.policy.clone());
        headers.insert(RATE_LIMIT_HEADER, share.remaining.clone());
    }
    response
}
