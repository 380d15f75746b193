//! Checks the wait between two waves of a roll-out.

use jiff::{SignedDuration, Timestamp};
use meshwright_model::operation::Progress;

use super::{StepCheck, StepContext};
use crate::ports::ObjectVersion;

/// Checks whether the wait is over. Its end is recorded when it begins, as the capture of the step,
/// so another worker does not begin the wait again.
pub(super) fn check(place: &StepContext<'_>, seconds: u32) -> StepCheck {
    let begun = |(_, progress): &(_, &Progress)| progress.is_started();
    if !place.restarts.iter().any(begun) {
        return StepCheck::Done;
    }
    let recorded = place.progress.capture.as_ref().map(|end| {
        let text = end.as_deref().unwrap_or_default();
        // A capture that cannot be read was not written by this step, and must not end the wait.
        text.parse::<Timestamp>().ok()
    });
    let end = place.now + SignedDuration::from_secs(seconds.into());
    match recorded {
        None => StepCheck::Ready {
            capture: Some(end.to_string()),
            version: ObjectVersion(String::new()),
        },
        Some(Some(end)) if place.now >= end => StepCheck::Done,
        Some(recorded) => {
            let until = recorded.unwrap_or(end);
            StepCheck::WaitUntil {
                reason: format!("the next wave begins at {until}"),
                until,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use meshwright_model::operation::{Problem, StepEvent};
    use meshwright_model::plan::Step;

    use super::*;

    #[test]
    fn the_end_of_a_soak_is_recorded_once() {
        let step = Step::Soak { seconds: 60 };
        let (mut progress, former) = (Progress::default(), BTreeMap::new());
        let mut restarted = Progress::default();
        restarted.apply_event(&StepEvent::Started { capture: None });
        let restarts = [(&step, &restarted)];
        let at = |second: i64, progress: &Progress| {
            let place = StepContext {
                operation: format!("op_{:026}", 1).parse().expect("an id"),
                number: 1,
                step: &step,
                progress,
                now: Timestamp::from_second(second).expect("a time"),
                restarts: &restarts,
                former_stamps: &former,
                unused_proof: None,
            };
            check(&place, 60)
        };
        let StepCheck::Ready { capture, .. } = at(100, &progress) else {
            panic!("it has not begun");
        };
        progress.apply_event(&StepEvent::Started { capture });
        for second in [100, 159] {
            let StepCheck::WaitUntil { until, .. } = at(second, &progress) else {
                panic!("it is not over");
            };
            assert_eq!(until.as_second(), 160);
        }
        assert_eq!(at(160, &progress), StepCheck::Done);
    }

    #[test]
    fn a_wave_that_restarted_nothing_needs_no_soak() {
        let (step, progress) = (Step::Soak { seconds: 60 }, Progress::default());
        let mut excluded = Progress::default();
        excluded.apply_event(&StepEvent::Excluded {
            problem: Problem::paused_by_user(),
        });
        let place = StepContext {
            operation: format!("op_{:026}", 1).parse().expect("an id"),
            number: 1,
            step: &step,
            progress: &progress,
            now: Timestamp::UNIX_EPOCH,
            restarts: &[(&step, &excluded)],
            former_stamps: &BTreeMap::new(),
            unused_proof: None,
        };
        assert_eq!(check(&place, 60), StepCheck::Done);
    }
}
