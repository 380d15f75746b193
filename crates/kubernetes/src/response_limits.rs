//! Bounds what one cluster may answer, so that an endless answer harms only that cluster.

use std::time::Duration;

/// Limits on the answers of one cluster. Exceeding one ends the call, the list or the observation
/// with a problem code of its own.
#[derive(Debug, Clone)]
pub struct ResponseLimits {
    /// Time for one request, from the connect to the last byte of the answer. Exceeding it gives
    /// `cluster_unreachable` before an answer begins and `answer_too_slow` within one. It is a
    /// sixth of the default lease.
    pub call_timeout: Duration,
    /// Maximum size of one answer, in bytes (`answer_too_large`).
    pub max_response_bytes: usize,
    /// Maximum number of pages of one list (`list_too_long`).
    pub max_list_pages: usize,
    /// Maximum number of objects in one list (`list_too_long`).
    pub max_list_items: usize,
    /// Maximum size of all pages of one list together, in bytes (`list_too_long`).
    pub max_list_bytes: usize,
    /// Time for one list with all of its pages (`list_too_slow`).
    pub list_timeout: Duration,
    /// Time for one observation of a target, a member or a whole mesh (`look_too_slow`).
    pub look_timeout: Duration,
    /// Maximum size of one line of a watch, which holds one object, in bytes (`answer_too_large`).
    pub max_event_bytes: usize,
    /// Time for one watch. The cluster is asked to end it a little earlier, and then it is opened
    /// again.
    pub watch_timeout: Duration,
}

impl Default for ResponseLimits {
    fn default() -> Self {
        Self {
            call_timeout: Duration::from_secs(5),
            // etcd limits objects to 1.5 MiB; a page of pods with sidecars has about 5 MiB.
            max_response_bytes: 16 * 1024 * 1024,
            max_list_pages: 2_000,
            // Kubernetes supports at most 150,000 pods in a cluster.
            max_list_items: 200_000,
            max_list_bytes: 2 * 1024 * 1024 * 1024,
            list_timeout: Duration::from_mins(1),
            look_timeout: Duration::from_secs(90),
            max_event_bytes: 4 * 1024 * 1024,
            watch_timeout: Duration::from_mins(5),
        }
    }
}
