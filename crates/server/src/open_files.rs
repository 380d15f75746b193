//! Derives the limits of connections from the number of files that this process can have open. Each
//! connection is an open file, and the service needs some for itself.

use meshwright_api::ConnectionLimits;

use crate::args::ConnectionArgs;

/// Open files that client connections leave to the rest of the process: the database, clusters,
/// identity providers and logs.
const RESERVED_OPEN_FILES: usize = 256;
/// Maximum number of connections to the metrics listener at once. Few collectors connect, each of
/// them seldom.
const MAX_METRICS_CONNECTIONS: usize = 64;

/// Raises the soft limit of open files to the hard limit. The soft limit is low by default for
/// programs that cannot handle many files. This program can.
pub(crate) fn raise_open_file_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(rlimit::INFINITY) {
        tracing::warn!(%error, "could not raise the soft limit of open files");
    }
}

impl ConnectionArgs {
    /// Returns the limits for clients of the API. It allows fewer connections than configured if
    /// the limit of open files has no room for all of them.
    pub(crate) fn connection_limits(self) -> ConnectionLimits {
        let limit = rlimit::Resource::NOFILE
            .get_soft()
            .ok()
            .and_then(|limit| usize::try_from(limit).ok());
        let wanted = usize::try_from(self.connections).unwrap_or(usize::MAX);
        let connections = connections_within_limit(wanted, limit.unwrap_or(usize::MAX));
        if connections < wanted {
            tracing::warn!(
                connections,
                wanted,
                "the limit of open files leaves room for fewer connections than --connections allows"
            );
        }
        ConnectionLimits {
            max_connections: connections,
            ..ConnectionLimits::default()
        }
    }
}

/// Returns the limits for clients of the metrics listener.
pub(crate) fn metrics_connection_limits() -> ConnectionLimits {
    ConnectionLimits {
        max_connections: MAX_METRICS_CONNECTIONS,
        ..ConnectionLimits::default()
    }
}

/// Returns the number of connections that fit into the limit of open files: half of a small limit,
/// and all but the reserve of a large one.
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
