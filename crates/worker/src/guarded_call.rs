//! Runs calls to clusters and webhook addresses with a timeout, and catches their panics.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;

/// Reason why a call was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallFailure {
    /// The call exceeded its timeout.
    TimedOut,
    /// The call panicked.
    Panicked,
}

impl CallFailure {
    /// Returns the value of the metric label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::TimedOut => "too_slow",
            Self::Panicked => "panicked",
        }
    }
}

/// Runs a call with a timeout and catches its panics.
pub(crate) async fn run_with_timeout<T>(
    limit: Duration,
    call: impl Future<Output = T>,
) -> Result<T, CallFailure> {
    match tokio::time::timeout(limit, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(CallFailure::Panicked),
        Err(_) => Err(CallFailure::TimedOut),
    }
}
