//! Open files of this process: each connection is one, and the service needs some itself.

use api::ConnectionLimits;

use crate::options::ConnectionArgs;

/// Open files that connections leave alone: the database's connections, calls of clusters and identity providers, logs.
const RESERVED_OPEN_FILES: usize = 256;
/// Connections to the listener for metrics at once; a few collectors ask, each of them seldom.
const MAX_METRICS_CONNECTIONS: usize = 64;

/// Raises the soft limit of open files to the hard one. Programs that cannot have many are why the soft one is low by default;
/// this one can.
pub(crate) fn raise_open_file_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(rlimit::INFINITY) {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
}

impl ConnectionArgs {
    /// Patience with clients, of which there are as many as the limit of open files leaves room for.
    pub(crate) fn connection_limits(self) -> ConnectionLimits {
        let limit = rlimit::Resource::NOFILE.get_soft().ok().and_then(|limit| usize::try_from(limit).ok());
        let wanted = usize::try_from(self.connections).unwrap_or(usize::MAX);
        let connections = connections_within_limit(wanted, limit.unwrap_or(usize::MAX));
        if connections < wanted {
            tracing::warn!(
                connections,
                wanted,
                "the limit of open files leaves room for fewer connections than configured"
            );
        }
        ConnectionLimits { max_connections: connections, ..ConnectionLimits::default() }
    }
}

/// Patience with clients of the listener for metrics.
pub(crate) fn metrics_connection_limits() -> ConnectionLimits {
    ConnectionLimits { max_connections: MAX_METRICS_CONNECTIONS, ..ConnectionLimits::default() }
}

/// Half of a small limit, and all but the reserve of a large one.
fn connections_within_limit(wanted: usize, limit: usize) -> usize {
    let kept = (RESERVED_OPEN_FILES + MAX_METRICS_CONNECTIONS).min(limit / 2);
    wanted.min(limit - kept).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_open_files_for_everything_else() {
        assert_eq!(connections_within_limit(20_000, usize::MAX), 20_000);
        assert_eq!(connections_within_limit(20_000, 1024), 704);
        assert_eq!(connections_within_limit(20_000, 256), 128);
        assert_eq!(connections_within_limit(100, 1024), 100);
    }
}
