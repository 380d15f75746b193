//! A request may be answered before its body has come: whoever has no business here, or sends too much, is refused at once. The
//! rest of the body is read and thrown away then. A connection that is closed on a client who is still sending is a reset,
//! which may take the answer with it, and ends whatever the client sent next.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Error;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Limited};

use crate::router::MAX_BODY_BYTES;

/// How much is thrown away, in bytes. Whoever sends more is hung up on.
const MAX_DRAINED_BYTES: usize = 16 * MAX_BODY_BYTES;
/// How long that may take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A body that comes back when nobody reads on.
struct ReclaimableBody {
    body: Body,
    returned: Arc<Mutex<Option<Body>>>,
}

impl HttpBody for ReclaimableBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ReclaimableBody {
    fn drop(&mut self) {
        if !self.body.is_end_stream() {
            *self.returned.lock().expect("no holder panics") = Some(std::mem::take(&mut self.body));
        }
    }
}

/// The answer is not kept waiting: the rest is read beside it.
pub(crate) async fn drain_unread_body(request: Request, next: Next) -> Response {
    let back = Arc::new(Mutex::new(None));
    let response = next.run(request.map(|body| Body::new(ReclaimableBody { body, returned: back.clone() }))).await;
    if let Some(rest) = back.lock().expect("no holder panics").take() {
        tokio::spawn(tokio::time::timeout(DRAIN_TIMEOUT, drain_body(rest)));
    }
    response
}

async fn drain_body(body: Body) {
    let mut rest = Limited::new(body, MAX_DRAINED_BYTES);
    while let Some(Ok(_)) = rest.frame().await {}
}
