//! Measures the answer times of a caller, and holds the limits that all benchmarks of fairness share.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Result;

/// Interval between two requests of the quiet tenant.
const CALL_INTERVAL: Duration = Duration::from_millis(20);
/// Largest allowed ratio of the 99th percentile beside a disturbance to the one without it.
pub(super) const MAX_SLOWDOWN: f64 = 1.10;
/// Largest memory that a crowd of any kind may cost, in bytes.
pub(super) const MAX_MEMORY_GROWTH_BYTES: u64 = 64 * 1024 * 1024;

pub(super) fn percentile_99(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

pub(super) fn request_text(key: &str) -> String {
    format!(
        "GET /v1/clusters?page_size=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
    )
}

/// Sends requests at an even pace over one connection, and returns the time of each answer. The
/// time runs from the moment at which the request was due, so a service that stands still makes
/// every request slow that falls into this time, and not only one.
pub(super) async fn measure_latency(
    address: SocketAddr,
    key: &str,
    long: Duration,
) -> Result<Vec<Duration>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let request = request_text(key);
    let (mut times, mut answer) = (Vec::new(), vec![0; 16 * 1024]);
    let (until, mut due) = (Instant::now() + long, Instant::now());
    while Instant::now() < until {
        tokio::time::sleep_until(due.into()).await;
        let since = due;
        due += CALL_INTERVAL;
        stream.write_all(request.as_bytes()).await?;
        let length = stream.read(&mut answer).await?;
        if !answer[..length].starts_with(b"HTTP/1.1 200") {
            bail!(
                "the quiet tenant was answered {}",
                String::from_utf8_lossy(&answer[..length.min(80)])
            );
        }
        times.push(since.elapsed());
    }
    Ok(times)
}
