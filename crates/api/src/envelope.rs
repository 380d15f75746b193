//! What every answer has around it: a request id, and a problem document where something went wrong, whoever noticed it.

use std::sync::{Arc, OnceLock};

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::auth::Context;
use crate::limits::Share;
use crate::problem::ApiError;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// A caller's own id is kept where it is of this length at most, and visible.
const LONGEST: usize = 128;
/// What a library says of a request that it refused; no more of it is read.
const LONGEST_REFUSAL: usize = 1024;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEFT: HeaderName = HeaderName::from_static("ratelimit");

/// What is known of the request that is being worked on.
struct Known {
    id: String,
    share: OnceLock<Share>,
}

tokio::task_local! {
    static REQUEST: Arc<Known>;
}

/// The id of the request that is being worked on; none outside of one.
pub(crate) fn request_id() -> Option<String> {
    REQUEST.try_with(|known| known.id.clone()).ok()
}

/// Tells the caller what is left of their share, in the headers of the answer.
pub(crate) fn tell_share(share: Share) {
    // Outside of a request nobody is told, and one request is counted once.
    let _ = REQUEST.try_with(|known| known.share.set(share));
}

/// Gives the request an id, and turns refusals of libraries into problems.
pub(crate) async fn wrap(
    axum::extract::State(app): axum::extract::State<Context>,
    mut request: Request,
    next: Next,
) -> Response {
    let sent = request.headers().get(HEADER).and_then(|value| value.to_str().ok());
    let id =
        sent.filter(|id| (1..=LONGEST).contains(&id.len())).map_or_else(|| app.clock.uuid().to_string(), str::to_owned);
    let value = HeaderValue::from_str(&id).expect("visible characters");
    request.headers_mut().insert(HEADER, value.clone());
    let known = Arc::new(Known { id, share: OnceLock::new() });
    let answer = async { explained(next.run(request).await).await };
    let mut response = REQUEST.scope(known.clone(), answer).await;
    let headers = response.headers_mut();
    headers.insert(HEADER, value);
    if let Some(share) = known.share.get() {
        headers.insert(POLICY, share.policy.clone());
        headers.insert(LEFT, share.left.clone());
    }
    response
}

/// Extractors and layers refuse in plain text; clients are promised problems.
async fn explained(response: Response) -> Response {
    let status = response.status();
    let content =
        response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let plain = content.is_empty() || content.starts_with("text/plain");
    if !(status.is_client_error() || status.is_server_error()) || !plain {
        return response;
    }
    let problem = match status {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::body_too_large(),
        StatusCode::SERVICE_UNAVAILABLE => ApiError::try_again(),
        _ if status.is_client_error() => {
            let said = to_bytes(response.into_body(), LONGEST_REFUSAL).await.unwrap_or_default();
            let said = String::from_utf8_lossy(&said).into_owned();
            ApiError::new(status, "malformed_request", said, "The OpenAPI document says what this route takes.")
        }
        _ => ApiError::internal(),
    };
    problem.into_response()
}
