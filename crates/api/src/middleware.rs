//! Handles what all requests have in common before and after their handler.

pub(crate) mod drain;
pub(crate) mod metrics;
pub(crate) mod rate_limit;
pub(crate) mod request_context;
pub(crate) mod retry;
