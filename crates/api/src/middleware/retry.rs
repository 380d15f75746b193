//! Retries requests that failed with a conflict between transactions (a serialization failure or a
//! deadlock). The transaction was rolled back and nothing of it was kept, so replaying the request
//! from the first byte of its body is safe.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Error;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http_body::Frame;

use crate::error::RetryableConflict;

/// Attempts before the last one, whose answer goes to the client even if it is a conflict. The
/// client is told to retry then.
const MAX_ATTEMPTS: u32 = 10;
/// Upper bound of the pause after the first attempt. It doubles with each further attempt.
const INITIAL_BACKOFF: Duration = Duration::from_millis(2);

/// A request body together with the data frames that were read from it so far. Frames are read from
/// the connection only when a handler asks for them, so a request that is refused early is answered
/// before its body has arrived.
struct ReplayBuffer {
    body: Body,
    frames: Vec<Bytes>,
}

/// One pass over a [`ReplayBuffer`]: the frames that an earlier attempt has read, then the rest
/// from the connection.
struct ReplayBody {
    buffer: Arc<Mutex<ReplayBuffer>>,
    position: usize,
}

impl ReplayBody {
    fn from_start(sent: &Arc<Mutex<ReplayBuffer>>) -> Body {
        Body::new(Self {
            buffer: sent.clone(),
            position: 0,
        })
    }
}

impl HttpBody for ReplayBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let (sent, at) = (self.buffer.clone(), self.position);
        let mut sent = sent.lock().expect("no holder panics");
        if let Some(part) = sent.frames.get(at) {
            self.position += 1;
            return Poll::Ready(Some(Ok(Frame::data(part.clone()))));
        }
        let frame = ready!(Pin::new(&mut sent.body).poll_frame(context));
        if let Some(part) = frame
            .as_ref()
            .and_then(|frame| frame.as_ref().ok()?.data_ref())
            .cloned()
        {
            sent.frames.push(part);
            self.position += 1;
        }
        Poll::Ready(frame)
    }
}

/// Runs a request, and runs it again with the whole body when the answer is marked as a
/// [`RetryableConflict`].
pub(crate) async fn retry_conflicts(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let sent = Arc::new(Mutex::new(ReplayBuffer {
        body,
        frames: Vec::new(),
    }));
    let again = || Request::from_parts(parts.clone(), ReplayBody::from_start(&sent));
    for attempt in 0..MAX_ATTEMPTS {
        let response = next.clone().run(again()).await;
        if response.extensions().get::<RetryableConflict>().is_none() {
            return response;
        }
        // The pause is random: two transactions that conflicted and pause equally long would
        // conflict again.
        tokio::time::sleep((INITIAL_BACKOFF * 2_u32.pow(attempt)).mul_f64(fastrand::f64())).await;
    }
    next.run(again()).await
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use axum::routing::post;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    fn conflict_response() -> Response {
        let mut response = StatusCode::SERVICE_UNAVAILABLE.into_response();
        response.extensions_mut().insert(RetryableConflict);
        response
    }

    /// Answers with a conflict three times: before the body is read, in the middle of it, and after
    /// it.
    #[tokio::test]
    async fn every_attempt_reads_the_whole_body_however_far_the_last_one_came() {
        let attempts = Arc::new(Mutex::new(0));
        let handler = move |request: Request| async move {
            let attempt = {
                let mut attempts = attempts.lock().expect("no panic");
                *attempts += 1;
                *attempts
            };
            let mut body = request.into_body();
            match attempt {
                1 => return conflict_response(),
                2 => drop(body.frame().await),
                _ => {}
            }
            if attempt == 2 {
                return conflict_response();
            }
            let whole = body.collect().await.expect("a body").to_bytes();
            if attempt == 3 {
                conflict_response()
            } else {
                whole.into_response()
            }
        };
        let app = Router::new()
            .route("/", post(handler))
            .layer(axum::middleware::from_fn(retry_conflicts));
        let parts = ["one ", "two ", "three"].map(|part| Ok::<_, Error>(Bytes::from(part)));
        let body = Body::from_stream(futures::stream::iter(parts));
        let answer = app
            .oneshot(Request::post("/").body(body).expect("a request"))
            .await
            .expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(
            answer
                .into_body()
                .collect()
                .await
                .expect("a body")
                .to_bytes(),
            "one two three"
        );
    }
}
