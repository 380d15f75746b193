//! Drains request bodies that a handler left unread. A request that is refused early is answered
//! before its body has arrived. Closing the connection while the client still sends would reset it:
//! the client could lose the answer, and the next request on the connection would fail.

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

use crate::middleware::MAX_BODY_BYTES;

/// Maximum number of bytes that are drained. The connection of a client that sends more is closed.
const MAX_DRAINED_BYTES: usize = 16 * MAX_BODY_BYTES;
/// Time in which the rest of a body is drained.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Request body that is handed back when the handler drops it before its end.
struct ReclaimableBody {
    body: Body,
    returned: Arc<Mutex<Option<Body>>>,
}

impl HttpBody for ReclaimableBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
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

/// Runs a request, and drains the rest of its body if the handler left it unread. The body is
/// drained in its own task, so that the answer does not wait for it.
pub(crate) async fn drain_unread_body(request: Request, next: Next) -> Response {
    let back = Arc::new(Mutex::new(None));
    let response = next
        .run(request.map(|body| {
            Body::new(ReclaimableBody {
                body,
                returned: back.clone(),
            })
        }))
        .await;
    if let Some(rest) = back.lock().expect("no holder panics").take() {
        tokio::spawn(tokio::time::timeout(DRAIN_TIMEOUT, drain_body(rest)));
    }
    response
}

/// Reads a body until its end, until it fails, or until `MAX_DRAINED_BYTES`.
async fn drain_body(body: Body) {
    let mut rest = Limited::new(body, MAX_DRAINED_BYTES);
    while let Some(Ok(_)) = rest.frame().await {}
}
