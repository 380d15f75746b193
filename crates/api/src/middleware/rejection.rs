//! Turns errors in plain text, which libraries produce, into problem documents.

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;
use meshwright_model::problem::ProblemCode;

/// Maximum number of bytes that are read from the error text of a library.
const MAX_REJECTION_BYTES: usize = 1024;

/// Runs a request, and turns an error in plain text into a problem document. This layer runs within
/// the context of the request, because a problem names the id of the request.
pub(crate) async fn convert_rejections(request: Request, next: Next) -> Response {
    problem_from_rejection(next.run(request).await).await
}

/// Turns a plain-text error into a problem document. Extractors and layers of libraries answer in
/// plain text, and the API promises problem documents.
async fn problem_from_rejection(response: Response) -> Response {
    let status = response.status();
    let content = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let plain = content.is_empty() || content.starts_with("text/plain");
    if !(status.is_client_error() || status.is_server_error()) || !plain {
        return response;
    }
    let problem = match status {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::body_too_large(),
        StatusCode::SERVICE_UNAVAILABLE => ApiError::service_unavailable(),
        _ if status.is_client_error() => {
            let said = to_bytes(response.into_body(), MAX_REJECTION_BYTES)
                .await
                .unwrap_or_default();
            let said = String::from_utf8_lossy(&said).into_owned();
            ApiError::new(
                status,
                ProblemCode::MalformedRequest,
                said,
                "The OpenAPI document says what this route takes.",
            )
        }
        _ => ApiError::internal(),
    };
    problem.into_response()
}
