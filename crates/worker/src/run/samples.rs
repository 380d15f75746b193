//! Counts and times the checks of each step while a claim runs.

use meshwright_rollout::decide::StepTiming;
use meshwright_rollout::ports::ClusterError;
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
}
