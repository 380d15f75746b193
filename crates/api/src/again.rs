//! A request whose transaction clashed with another one is done again, from its first byte: nothing of it was kept.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::problem::{ApiError, Clashed};
use crate::router::LARGEST_BODY;

/// How often; after that the client is told to come back.
const ATTEMPTS: u32 = 10;
/// The first rest; each one is twice the one before.
const REST: Duration = Duration::from_millis(2);

pub(crate) async fn until_it_fits(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, LARGEST_BODY).await else { return ApiError::body_too_large().into_response() };
    let run = |next: Next| next.run(Request::from_parts(parts.clone(), Body::from(body.clone())));
    for attempt in 0..ATTEMPTS {
        let response = run(next.clone()).await;
        if response.extensions().get::<Clashed>().is_none() {
            return response;
        }
        // Two that clashed must not meet again: each rests for a part of its own.
        tokio::time::sleep((REST * 2_u32.pow(attempt)).mul_f64(fastrand::f64())).await;
    }
    run(next).await
}
