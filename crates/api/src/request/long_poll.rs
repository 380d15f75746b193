//! Lets a request wait for a change, by reading the database again and again until a time limit.

use std::time::Duration;

use meshwright_store::Tx;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::{ApiError, Result};
use crate::request::caller::Caller;

/// Maximum value of `wait_seconds`, in seconds.
pub(crate) const MAX_WAIT_SECONDS: u64 = 60;
/// Pause of a waiting request between two reads of the database.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Query parameter for the time that the request waits for a change.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaitQuery {
    #[serde(default)]
    wait_seconds: u64,
}

/// State of a request that waits for a change.
#[derive(Debug)]
pub(crate) struct LongPoll {
    deadline: tokio::time::Instant,
    /// Permit to wait, which is given back when this is dropped; `None` if the request does not
    /// wait.
    _permit: Option<OwnedSemaphorePermit>,
}

impl WaitQuery {
    /// Checks the time, and takes a permit of the tenant if the request waits.
    pub(crate) fn start_long_poll(&self, caller: &Caller) -> Result<LongPoll> {
        if self.wait_seconds > MAX_WAIT_SECONDS {
            return Err(ApiError::invalid_field(
                "?wait_seconds",
                format!("0 to {MAX_WAIT_SECONDS}"),
            ));
        }
        let permit = match self.wait_seconds {
            0 => None,
            _ => Some(
                caller
                    .app
                    .limits
                    .acquire_long_poll(caller.tenant)
                    .ok_or_else(ApiError::too_many_long_polls)?,
            ),
        };
        Ok(LongPoll {
            deadline: tokio::time::Instant::now() + Duration::from_secs(self.wait_seconds),
            _permit: permit,
        })
    }
}

impl LongPoll {
    /// Ends the transaction and pauses before the next read, without holding a connection. Returns
    /// `None` when the time is over.
    pub(crate) async fn next_poll(&self, tx: Tx<'static>) -> Result<Option<Tx<'static>>> {
        if tokio::time::Instant::now() >= self.deadline {
            return Ok(None);
        }
        let session = tx.rollback_into_session();
        tokio::time::sleep(POLL_INTERVAL).await;
        Ok(Some(session.into_tx_without_keys().await?))
    }
}
