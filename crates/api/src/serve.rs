//! Connections: so many at once, each with a limited time for the head of a request, all finished when the service stops.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// The most headers of a request; ours need a handful.
const MOST_HEADERS: usize = 64;
/// The largest head of a request; a token with many groups has a few kilobytes.
const LARGEST_HEAD: usize = 64 * 1024;
/// How long requests under way are waited for when the service stops; the longest of them are long polls.
const LAST_WAIT: Duration = Duration::from_secs(20);

/// What a connection may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From a connection's beginning, or the last answer, to the end of the next request's head.
    pub head: Duration,
    /// Connections at once; one more is closed at once.
    pub connections: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self { head: Duration::from_secs(30), connections: 20_000 }
    }
}

/// Serves [`crate::router`] or [`crate::vitals`] until the future ends; requests under way are finished.
///
/// # Errors
/// The listener failed for good.
pub async fn serve(
    listener: TcpListener,
    routes: axum::Router,
    patience: Patience,
    stop: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    let service = TowerToHyperService::new(routes);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(patience.head);
    builder.max_headers(MOST_HEADERS).max_buf_size(LARGEST_HEAD);
    let (open, graceful) = (Arc::new(Semaphore::new(patience.connections)), GracefulShutdown::new());
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // Too many open files, or a client that is gone already: the next one may do better.
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = open.clone().try_acquire_owned() else { continue };
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service.clone()));
        tokio::spawn(async move {
            // Whoever hangs up or sends nonsense has only themselves to tell.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(LAST_WAIT, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests under way were cut off");
    }
    Ok(())
}
