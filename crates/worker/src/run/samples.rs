//! Counts and times the checks of each step while a claim runs.

use jiff::{SignedDuration, Timestamp};
use meshwright_model::plan::Step;
use meshwright_rollout::decide::StepTiming;
use meshwright_rollout::ports::ClusterError;
use meshwright_rollout::step::StepCheck;
use meshwright_store::PlannedStep;

use super::Run;

/// Summary of the checks of one step. It lives in memory only: when another claim takes over, the
/// count starts again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Samples {
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
}

impl Run<'_> {
    /// Returns the steps whose last check was long enough ago.
    pub(super) fn due_steps(&self, mut chosen: Vec<usize>) -> Vec<usize> {
        let now = self.now();
        chosen.retain(|index| {
            let item = &self.steps[*index];
            self.samples.get(&item.number).is_none_or(|looks| {
                let between = self.min_check_interval(item, looks.in_use);
                now.duration_since(looks.last_at) >= between
            })
        });
        chosen
    }

    /// Returns true if the last check of a step has deferred its write.
    pub(super) fn is_deferred(&self, item: &PlannedStep) -> bool {
        let looks = self.samples.get(&item.number);
        looks.is_some_and(|looks| looks.deferred)
    }

    /// Adds one check to the samples of a step and returns its times.
    pub(super) fn add_sample(
        &mut self,
        index: usize,
        check: &Result<StepCheck, ClusterError>,
    ) -> StepTiming {
        let now = self.now();
        let item = &self.steps[index];
        // While restarts are under way, each of them has its own limit.
        let restarting =
            matches!(item.step, Step::Converge { .. }) && self.has_open_restart(item.wave);
        let looks = self
            .samples
            .entry(self.steps[index].number)
            .or_insert(Samples {
                waits_since: now,
                last_at: now,
                answered_at: now,
                goal_seen: None,
                replaced: 0,
                deferred: false,
                in_use: false,
                partial_seen: None,
            });
        looks.last_at = now;
        if let Ok(answer) = check {
            let deferred = matches!(answer, StepCheck::Deferred { .. });
            let unused = looks.in_use && matches!(answer, StepCheck::Ready { .. });
            // The limit of the write begins when the write is possible.
            if unused || (looks.deferred && !deferred) {
                (looks.waits_since, looks.replaced) = (now, 0);
            }
            looks.deferred = deferred;
            looks.in_use = matches!(answer, StepCheck::InUse(_));
        }
        match check {
            Ok(StepCheck::Replacing { replaced, .. } | StepCheck::Deferred { replaced, .. })
                if *replaced > looks.replaced =>
            {
                (looks.waits_since, looks.replaced) = (now, *replaced);
            }
            Ok(StepCheck::Restarts(_)) => looks.waits_since = now,
            Ok(StepCheck::Waiting(_)) if restarting => looks.waits_since = now,
            _ => {}
        }
        looks.partial_seen = match (check, looks.partial_seen) {
            (Ok(StepCheck::Partial { .. }), None) => Some((1, now)),
            (Ok(StepCheck::Partial { .. }), Some((count, since))) => Some((count + 1, since)),
            _ => None,
        };
        if !matches!(check, Err(ClusterError::Unreachable { .. })) {
            looks.answered_at = now;
        }
        looks.goal_seen = match (check, looks.goal_seen) {
            (Ok(StepCheck::Done), None) => Some((1, now)),
            (Ok(StepCheck::Done), Some((count, since))) => Some((count + 1, since)),
            _ => None,
        };
        let since = |then: Timestamp| now.duration_since(then);
        let counted = |seen: Option<(u32, Timestamp)>| {
            seen.map_or((0, SignedDuration::ZERO), |(count, first)| {
                (count, since(first))
            })
        };
        StepTiming {
            waited: since(looks.waits_since),
            silent: since(looks.answered_at),
            goal_seen: counted(looks.goal_seen),
            partial_seen: counted(looks.partial_seen),
        }
    }
}
