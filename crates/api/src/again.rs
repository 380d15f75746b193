//! A request whose transaction clashed with another one is done again, from its first byte: nothing of it was kept.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;

use crate::problem::Clashed;

/// How often; after that the client is told to come back.
const ATTEMPTS: u32 = 10;
/// The first rest; each one is twice the one before.
const REST: Duration = Duration::from_millis(2);

/// The parts of a body that somebody has read. A body that nobody reads is not read here either: whoever has no business
/// here is refused before their body has come.
type Read = Arc<Mutex<Vec<Bytes>>>;

fn recorded(body: Body, read: Read) -> Body {
    Body::new(body.map_frame(move |frame| {
        if let Some(part) = frame.data_ref() {
            read.lock().expect("no holder panics").push(part.clone());
        }
        frame
    }))
}

pub(crate) async fn until_it_fits(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let read = Read::default();
    let mut body = recorded(body, read.clone());
    for attempt in 0..ATTEMPTS {
        let response = next.clone().run(Request::from_parts(parts.clone(), body)).await;
        if response.extensions().get::<Clashed>().is_none() {
            return response;
        }
        // Two that clashed must not meet again: each rests for a part of its own.
        tokio::time::sleep((REST * 2_u32.pow(attempt)).mul_f64(fastrand::f64())).await;
        body = Body::from(read.lock().expect("no holder panics").concat());
    }
    next.run(Request::from_parts(parts, body)).await
}
