//! Computes the delay before a cluster or a webhook that failed is tried again.

use std::time::Duration;

const FIRST_RETRY_DELAY: Duration = Duration::from_secs(5);
const MAX_RETRY_DELAY: Duration = Duration::from_mins(10);

/// Returns the delay after this many failures in a row: 5 seconds after the first, doubled after
/// each further one, and at most 10 minutes.
pub fn retry_delay(failures: i32) -> Duration {
    let doubled = u32::try_from(failures.saturating_sub(1).clamp(0, 10)).unwrap_or(0);
    (FIRST_RETRY_DELAY * 2u32.pow(doubled)).min(MAX_RETRY_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_silent_is_asked_ever_more_rarely() {
        let rests: Vec<u64> = [0, 1, 2, 3, 7, 8, 9, 1_000_000]
            .map(|failures| retry_delay(failures).as_secs())
            .into();
        assert_eq!(rests, [5, 5, 10, 20, 320, 600, 600, 600]);
    }
}
