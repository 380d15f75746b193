//! Open files of this process: each connection is one, and the service needs some itself.

use api::Patience;

use crate::options::Connections;

/// Open files that connections leave alone: the database's connections, calls of clusters and identity providers, logs.
const RESERVE: usize = 256;
/// Connections to the listener for metrics at once; a few collectors ask, each of them seldom.
const METRICS_CONNECTIONS: usize = 64;

/// Raises the soft limit of open files to the hard one. Programs that cannot have many are why the soft one is low by default;
/// this one can.
pub(crate) fn raise_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(rlimit::INFINITY) {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
}

impl Connections {
    /// Patience with clients, of which there are as many as the limit of open files leaves room for.
    pub(crate) fn patience(self) -> Patience {
        let limit = rlimit::Resource::NOFILE.get_soft().ok().and_then(|limit| usize::try_from(limit).ok());
        let wanted = usize::try_from(self.connections).unwrap_or(usize::MAX);
        let connections = room(wanted, limit.unwrap_or(usize::MAX));
        if connections < wanted {
            tracing::warn!(
                connections,
                wanted,
                "the limit of open files leaves room for fewer connections than configured"
            );
        }
        Patience { connections, ..Patience::default() }
    }
}

/// Patience with clients of the listener for metrics.
pub(crate) fn patience_for_metrics() -> Patience {
    Patience { connections: METRICS_CONNECTIONS, ..Patience::default() }
}

/// Half of a small limit, and all but the reserve of a large one.
fn room(wanted: usize, limit: usize) -> usize {
    let kept = (RESERVE + METRICS_CONNECTIONS).min(limit / 2);
    wanted.min(limit - kept).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_open_files_for_everything_else() {
        assert_eq!(room(20_000, usize::MAX), 20_000);
        assert_eq!(room(20_000, 1024), 704);
        assert_eq!(room(20_000, 256), 128);
        assert_eq!(room(100, 1024), 100);
    }
}
