//! Limits of what one cluster may answer, so that an endless one costs only itself.

use std::time::Duration;

/// Limits of the answers of one cluster. Passing one ends the call, the list or the look with a problem code of its own.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Time of one request, from the connect to the last byte of the answer (`cluster_unreachable` without an answer,
    /// `answer_too_slow` within one). A sixth of the default lease.
    pub call: Duration,
    /// Bytes of one answer (`answer_too_large`).
    pub answer_bytes: usize,
    /// Pages of one list (`list_too_long`).
    pub pages: usize,
    /// Objects of one list (`list_too_long`).
    pub items: usize,
    /// Bytes of all pages of one list (`list_too_long`).
    pub list_bytes: usize,
    /// Time of one list with all of its pages (`list_too_slow`).
    pub list: Duration,
    /// Time of one look at a target, a member or a whole mesh (`look_too_slow`).
    pub look: Duration,
    /// Bytes of one line of a watch, which is one object (`answer_too_large`).
    pub event_bytes: usize,
    /// Time of one watch. The cluster is asked to end it before; then it is opened again.
    pub watch: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            call: Duration::from_secs(5),
            // etcd keeps objects of 1.5 MiB at most; a page of pods with sidecars is about 5 MiB.
            answer_bytes: 16 * 1024 * 1024,
            pages: 2_000,
            // Kubernetes' own limit is 150,000 pods in a cluster.
            items: 200_000,
            list_bytes: 2 * 1024 * 1024 * 1024,
            list: Duration::from_mins(1),
            look: Duration::from_secs(90),
            event_bytes: 4 * 1024 * 1024,
            watch: Duration::from_mins(5),
        }
    }
}
