//! Checks the reason of a request with `force`. A cluster that does not answer is left behind only
//! for a reason, which the audit log keeps.

use meshwright_wire::Leave;

use crate::error::{ApiError, Result};

/// Maximum length of a reason, in characters.
const MAX_REASON_CHARS: usize = 500;

/// Returns the reason of a request with `force`; `None` without `force`.
pub(crate) fn force_reason(leave: &Leave) -> Result<Option<&str>> {
    if !leave.force {
        return match &leave.reason {
            Some(_) => Err(ApiError::invalid_field(
                "/reason",
                "a reason goes with force",
            )),
            None => Ok(None),
        };
    }
    let reason = leave.reason.as_deref().map(str::trim).unwrap_or_default();
    if reason.is_empty() {
        return Err(
            ApiError::invalid_field("/reason", "force needs a reason").with_code("reason_missing")
        );
    }
    if reason.chars().count() > MAX_REASON_CHARS || reason.chars().any(char::is_control) {
        let rule = format!("1 to {MAX_REASON_CHARS} characters in one line");
        return Err(ApiError::invalid_field("/reason", rule));
    }
    Ok(Some(reason))
}
