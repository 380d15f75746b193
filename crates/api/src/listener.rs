//! Accepts and serves connections. Their number is limited, and so is the time for the head of a
//! request, for its body and for reading its answer. All requests are finished when the process
//! stops.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tower::ServiceExt;

use crate::connection_limits::{ClientConnection, ConnectionLimiter, MarkBusyOnDrop};
use crate::write_limit::WriteTimeout;

/// Maximum number of headers of a request; clients of this API send a few.
const MAX_HEADERS: usize = 64;
/// Maximum size of the head of a request, in bytes. A token with many groups has a few kilobytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Time for which the process waits for requests in progress when it stops. The longest of them are
/// long polls.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);
/// Size in bytes of the kernel's buffer for what a client has not taken yet. By default the kernel
/// lets the buffer grow to megabytes. A client that sends many requests and reads no answer would
/// make the service compute and copy so much for each of its connections.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Pause after a connection that could not be accepted. Without open files left, the next attempt
/// would fail at once as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Minimum time between two log lines about connections that could not be accepted.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_mins(1);

/// Limits on the number of connections and on the time of each of their parts.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Time from the start of a connection, or from its last answer, to the end of the next
    /// request's head.
    pub header_timeout: Duration,
    /// Time from the handler's first read of a body to the end of the body.
    pub body_timeout: Duration,
    /// Time from the first byte of an answer that does not fit into the client's buffers until the
    /// client has taken all of it.
    pub write_timeout: Duration,
    /// Maximum number of open connections. For one more, a connection that waits for its client is
    /// closed.
    pub max_connections: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        let (head, body, answer) = (
            Duration::from_secs(30),
            Duration::from_secs(10),
            Duration::from_mins(1),
        );
        Self {
            header_timeout: head,
            body_timeout: body,
            write_timeout: answer,
            max_connections: 20_000,
        }
    }
}

/// Serves [`crate::router`] or [`crate::metrics_router`] until `stop` completes, then finishes the
/// requests in progress for at most `SHUTDOWN_TIMEOUT`.
///
/// # Errors
/// Returns an error when the kernel refuses the size of the send buffer. Failures to accept a
/// connection are logged and retried.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    patience: ConnectionLimits,
    stop: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    let (places, graceful) = (
        ConnectionLimiter::new(patience.max_connections),
        GracefulShutdown::new(),
    );
    // Accepted connections inherit the size.
    rustix::net::sockopt::set_socket_send_buffer_size(&listener, SEND_BUFFER_BYTES)?;
    let mut failures = AcceptFailures::default();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Some(place) = places.acquire_permit().await {
                    spawn_connection(
                        stream,
                        place,
                        &places,
                        &routes,
                        patience,
                        graceful.watcher(),
                    );
                }
            }
            // Too many open files, or a client that is gone already.
            Err(error) => {
                failures.log_failure(&error);
                places.evict_connection();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!(
            "cut off the HTTP requests that were still in progress after the shutdown timeout"
        );
    }
    Ok(())
}

/// Serves one connection in its own task.
fn spawn_connection(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    places: &Arc<ConnectionLimiter>,
    routes: &Router,
    patience: ConnectionLimits,
    watcher: Watcher,
) {
    let connection = places.register_connection(patience.body_timeout);
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(patience.header_timeout);
    builder
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    let service = {
        let (connection, routes) = (connection.clone(), routes.clone());
        hyper::service::service_fn(move |request| {
            handle_request(routes.clone(), connection.clone(), request)
        })
    };
    let io = TokioIo::new(WriteTimeout::new(stream, patience.write_timeout));
    let served = watcher.watch(builder.serve_connection(io, service));
    let leaving = MarkBusyOnDrop(connection.clone());
    connection.mark_waiting();
    let task = tokio::spawn(async move {
        // A client that disconnects or sends invalid HTTP affects only its own connection.
        if let Err(error) = served.await {
            tracing::debug!(%error, "an HTTP connection ended with an error");
        }
        drop((leaving, place));
    });
    connection.set_task(task.abort_handle());
}

/// Handles one request. The connection is marked as busy while the handler runs.
async fn handle_request(
    routes: Router,
    connection: ClientConnection,
    request: hyper::Request<Incoming>,
) -> Result<axum::response::Response, std::convert::Infallible> {
    connection.mark_busy();
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(connection.clone());
    let answer = routes.oneshot(request).await;
    connection.mark_waiting();
    answer
}

/// Counter of failures to accept a connection. They occur in thousands, so they are logged once a
/// minute.
#[derive(Default)]
struct AcceptFailures {
    count: u64,
    logged: Option<Instant>,
}

impl AcceptFailures {
    /// Counts a failure, and logs it if the last log line is a minute old.
    fn log_failure(&mut self, error: &std::io::Error) {
        self.count += 1;
        if self
            .logged
            .is_none_or(|at| at.elapsed() >= ACCEPT_LOG_INTERVAL)
        {
            tracing::warn!(%error, failures = self.count, "could not accept HTTP connections; `failures` counts them since the last such line");
            *self = Self {
                count: 0,
                logged: Some(Instant::now()),
            };
        }
    }
}
