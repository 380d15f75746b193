//! Handles what all requests have in common before and after their handler.

pub(crate) mod drain;
pub(crate) mod metrics;
pub(crate) mod rate_limit;
pub(crate) mod rejection;
pub(crate) mod request_context;
pub(crate) mod retry;

/// Maximum size of a request body, in bytes. A kubeconfig has at most 256 KiB.
pub(crate) const MAX_BODY_BYTES: usize = 1024 * 1024;
