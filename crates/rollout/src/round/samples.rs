//! Counts and times the checks of each step while a claim runs.

use jiff::{SignedDuration, Timestamp};

use crate::decide::StepTiming;
use crate::ports::ClusterError;
use crate::step::StepCheck;

/// Summary of the checks of one step. It lives in memory only: when another claim takes over, the
/// count starts again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Samples {
    /// Time of the first check, or of the last progress.
    waits_since: Timestamp,
    last_at: Timestamp,
    answered_at: Timestamp,
    goal_seen: Option<(u32, Timestamp)>,
    /// Number of pods that were replaced when the step last made progress.
    replaced: usize,
    /// True if the last answer deferred the write of the step.
    deferred: bool,
    /// True if the last check has found users of a revision.
    in_use: bool,
    partial_seen: Option<(u32, Timestamp)>,
    /// Fewest pods that were left to evict, and the evictions that were added since.
    fewest_left: Option<usize>,
    vain_evictions: u32,
    /// Reason why the cluster did not allow the last write.
    delayed: Option<String>,
}

impl Samples {
    /// Creates the samples of a step that is checked for the first time.
    pub fn starting_at(now: Timestamp) -> Self {
        Self {
            waits_since: now,
            last_at: now,
            answered_at: now,
            goal_seen: None,
            replaced: 0,
            deferred: false,
            in_use: false,
            partial_seen: None,
            fewest_left: None,
            vain_evictions: 0,
            delayed: None,
        }
    }

    /// Notes that the cluster did not allow the write of the step now, for this reason.
    pub fn note_delay(&mut self, reason: String) {
        self.delayed = Some(reason);
    }

    /// Returns the reason why the cluster did not allow the last write of the step.
    pub fn delay(&self) -> Option<&str> {
        self.delayed.as_deref()
    }

    /// Returns true if the last check of the step has deferred its write.
    pub fn is_deferred(&self) -> bool {
        self.deferred
    }

    /// Returns true if the last check has found users of a revision.
    pub fn is_in_use(&self) -> bool {
        self.in_use
    }

    /// Returns true if the last check was at least this long ago.
    pub fn is_due(&self, interval: SignedDuration, now: Timestamp) -> bool {
        now.duration_since(self.last_at) >= interval
    }

    /// Adds one check and returns the times of the step. `awaits_restarts` is true for a search
    /// whose restarts are under way.
    pub fn add_check(
        &mut self,
        check: &Result<StepCheck, ClusterError>,
        awaits_restarts: bool,
        now: Timestamp,
    ) -> StepTiming {
        self.last_at = now;
        if let Ok(answer) = check {
            let deferred = matches!(answer, StepCheck::Deferred { .. });
            let unused = self.in_use && matches!(answer, StepCheck::Ready { .. });
            // The limit of the write begins when the write is possible.
            if unused || (self.deferred && !deferred) {
                (self.waits_since, self.replaced) = (now, 0);
            }
            self.deferred = deferred;
            self.in_use = matches!(answer, StepCheck::InUse(_));
            if !matches!(answer, StepCheck::Ready { .. }) {
                self.delayed = None;
            }
        }
        match check {
            Ok(StepCheck::Replacing { replaced, .. } | StepCheck::Deferred { replaced, .. })
                if *replaced > self.replaced =>
            {
                (self.waits_since, self.replaced) = (now, *replaced);
            }
            // The owner has changed the template once more, so the count begins again.
            Ok(StepCheck::Deferred { replaced, .. }) if *replaced < self.replaced => {
                self.replaced = *replaced;
            }
            Ok(StepCheck::Restarts(_)) => self.waits_since = now,
            Ok(StepCheck::Evictions { left, .. }) => {
                self.waits_since = now;
                if self.fewest_left.is_none_or(|fewest| left.len() < fewest) {
                    (self.fewest_left, self.vain_evictions) = (Some(left.len()), 0);
                } else {
                    self.vain_evictions += 1;
                }
            }
            Ok(StepCheck::Waiting(_)) if awaits_restarts => self.waits_since = now,
            _ => {}
        }
        let counted = |seen: Option<(u32, Timestamp)>| {
            Some(seen.map_or((1, now), |(count, since)| (count + 1, since)))
        };
        self.partial_seen = match check {
            Ok(StepCheck::Partial { .. }) => counted(self.partial_seen),
            _ => None,
        };
        if !matches!(check, Err(ClusterError::Unreachable { .. })) {
            self.answered_at = now;
        }
        self.goal_seen = match check {
            Ok(StepCheck::Done) => counted(self.goal_seen),
            _ => None,
        };
        self.timing(now)
    }

    /// Returns the times of the step.
    pub fn timing(&self, now: Timestamp) -> StepTiming {
        let since = |then: Timestamp| now.duration_since(then);
        let counted = |seen: Option<(u32, Timestamp)>| {
            seen.map_or((0, SignedDuration::ZERO), |(count, first)| {
                (count, since(first))
            })
        };
        StepTiming {
            waited: since(self.waits_since),
            silent: since(self.answered_at),
            goal_seen: counted(self.goal_seen),
            partial_seen: counted(self.partial_seen),
            vain_evictions: self.vain_evictions,
            delayed: self.delayed.clone(),
        }
    }
}
