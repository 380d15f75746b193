//! Limits of what one cluster may answer, so that an endless one costs only itself.

use std::time::Duration;

/// Limits of the answers of one cluster. Passing one ends the call, the list or the look with a problem code of its own.
#[derive(Debug, Clone)]
pub struct ResponseLimits {
    /// Time of one request, from the connect to the last byte of the answer (`cluster_unreachable` without an answer,
    /// `answer_too_slow` within one). A sixth of the default lease.
    pub call_timeout: Duration,
    /// Bytes of one answer (`answer_too_large`).
    pub max_response_bytes: usize,
    /// Pages of one list (`list_too_long`).
    pub max_list_pages: usize,
    /// Objects of one list (`list_too_long`).
    pub max_list_items: usize,
    /// Bytes of all pages of one list (`list_too_long`).
    pub max_list_bytes: usize,
    /// Time of one list with all of its pages (`list_too_slow`).
    pub list_timeout: Duration,
    /// Time of one look at a target, a member or a whole mesh (`look_too_slow`).
    pub look_timeout: Duration,
    /// Bytes of one line of a watch, which is one object (`answer_too_large`).
    pub max_event_bytes: usize,
    /// Time of one watch. The cluster is asked to end it before; then it is opened again.
    pub watch_timeout: Duration,
}

impl Default for ResponseLimits {
    fn default() -> Self {
        Self {
            call_timeout: Duration::from_secs(5),
            // etcd keeps objects of 1.5 MiB at most; a page of pods with sidecars is about 5 MiB.
            max_response_bytes: 16 * 1024 * 1024,
            max_list_pages: 2_000,
            // Kubernetes' own limit is 150,000 pods in a cluster.
            max_list_items: 200_000,
            max_list_bytes: 2 * 1024 * 1024 * 1024,
            list_timeout: Duration::from_mins(1),
            look_timeout: Duration::from_secs(90),
            max_event_bytes: 4 * 1024 * 1024,
            watch_timeout: Duration::from_mins(5),
        }
    }
}
