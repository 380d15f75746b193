//! Opens TCP connections to a cluster. Every connect resolves the name, checks each of its
//! addresses and tries the allowed ones in turn, so that no later answer of a name server can lead
//! a credential into a network that is refused.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::address_policy::AddressPolicy;

/// Maximum number of addresses of one name that a connect tries. All of them share the timeout of
/// one call, so more addresses would leave too little time for each.
const MAX_DIALLED_ADDRESSES: usize = 8;

/// Reason why no connection was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the name does not resolve")]
    Unresolved(#[source] io::Error),
    #[error("none of the addresses may be dialled")]
    Forbidden,
    #[error("none of the addresses accepts a connection")]
    Unreachable,
    #[error("no connection was made in time")]
    TooSlow,
}

impl ConnectError {
    /// Finds this error inside an error of the HTTP client, which wraps it several times.
    pub(crate) fn find_in<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Self> {
        if let Some(found) = error.downcast_ref::<Self>() {
            return Some(found);
        }
        // `source()` of an `io::Error` skips the error that it was made of.
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if let Some(inner) = inner {
            return Self::find_in(inner);
        }
        error.source().and_then(Self::find_in)
    }
}

/// Connects to the first allowed address of a server that accepts, within the timeout of one call.
pub(crate) async fn connect(
    rules: AddressPolicy,
    server: http::Uri,
) -> Result<TokioIo<TcpStream>, ConnectError> {
    let time = rules.limits.call_timeout;
    let connected = tokio::time::timeout(time, dial_allowed(&rules, &server, time)).await;
    connected
        .map_err(|_| ConnectError::TooSlow)?
        .map(TokioIo::new)
}

/// Resolves a server and tries its allowed addresses in turn. Each address gets an equal share of
/// three quarters of `time`.
async fn dial_allowed(
    rules: &AddressPolicy,
    server: &http::Uri,
    time: Duration,
) -> Result<TcpStream, ConnectError> {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = server.port_u16().unwrap_or(443);
    let found = match host.parse() {
        Ok(literal) => vec![SocketAddr::new(literal, port)],
        Err(_) => rules
            .resolver
            .resolve_host(host, port)
            .await
            .map_err(ConnectError::Unresolved)?,
    };
    if found.is_empty() {
        return Err(ConnectError::Unresolved(io::ErrorKind::NotFound.into()));
    }
    let allowed: Vec<SocketAddr> = found
        .into_iter()
        .filter(|address| rules.allows_address(address.ip()))
        .take(MAX_DIALLED_ADDRESSES)
        .collect();
    // A dead first address must leave time for the other addresses and for the TLS handshake.
    let share = time * 3 / 4 / u32::try_from(allowed.len().max(1)).expect("a few addresses");
    for address in &allowed {
        if let Ok(Ok(stream)) = tokio::time::timeout(share, TcpStream::connect(address)).await {
            stream.set_nodelay(true).ok();
            return Ok(stream);
        }
    }
    Err(if allowed.is_empty() {
        ConnectError::Forbidden
    } else {
        ConnectError::Unreachable
    })
}
