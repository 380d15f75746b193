//! How soon something that did not answer is asked again.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_mins(10);

/// After so many failures in a row: soon at first, then ever later, and every ten minutes in the end.
pub fn again_in(failures: i32) -> Duration {
    let doubled = u32::try_from(failures.saturating_sub(1).clamp(0, 10)).unwrap_or(0);
    (FIRST * 2u32.pow(doubled)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_silent_is_asked_ever_more_rarely() {
        let rests: Vec<u64> = [0, 1, 2, 3, 7, 8, 9, 1_000_000].map(|failures| again_in(failures).as_secs()).into();
        assert_eq!(rests, [5, 5, 10, 20, 320, 600, 600, 600]);
    }
}
