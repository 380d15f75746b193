//! Counts and times the checks of each step while a claim runs.

use meshwright_rollout::decide::StepTiming;
use meshwright_rollout::ports::{ClusterError, ObjectVersion};
use meshwright_rollout::round::Samples;
use meshwright_rollout::step::StepCheck;

use super::Run;

impl Run<'_> {
    /// Returns the steps whose last check was long enough ago.
    pub(super) fn due_steps(&self, mut chosen: Vec<usize>) -> Vec<usize> {
        let (now, round) = (self.now(), self.round());
        chosen.retain(|index| {
            let item = &self.steps[*index];
            self.samples.get(&item.number).is_none_or(|samples| {
                let timeouts = &self.engine.settings.timeouts;
                let interval = round.min_check_interval(item, samples.is_in_use(), timeouts);
                samples.is_due(interval, now)
            })
        });
        chosen
    }

    /// Adds one check to the samples of a step and returns its times.
    pub(super) fn add_sample(
        &mut self,
        index: usize,
        check: &Result<StepCheck, ClusterError>,
    ) -> StepTiming {
        let (now, item) = (self.now(), &self.steps[index]);
        let awaits_restarts = self.round().awaits_restarts(item);
        self.samples
            .entry(item.number)
            .or_insert_with(|| Samples::starting_at(now))
            .add_check(check, awaits_restarts, now)
    }

    /// Notes that a cluster did not allow the write of a step now.
    pub(super) fn note_delay(&mut self, index: usize, reason: String) {
        if let Some(samples) = self.samples.get_mut(&self.steps[index].number) {
            samples.note_delay(reason);
        }
    }

    /// Returns the reason why the first of these writes is repeated, if its cluster has not allowed
    /// it so far.
    pub(super) fn first_delay(
        &self,
        acts: &[(usize, Option<String>, ObjectVersion)],
    ) -> Option<String> {
        acts.iter().find_map(|(index, ..)| {
            let item = &self.steps[*index];
            let reason = self.samples.get(&item.number)?.delay()?;
            Some(format!("{}: {reason}", item.step))
        })
    }
}
