//! Chooses the restarts that are under way at once, so that no cluster and no namespace has more of
//! them than the policy of the roll-out allows.

use std::collections::BTreeMap;

use meshwright_model::Name;
use meshwright_model::plan::Step;
use meshwright_model::rollout::RestartLimits;

use super::Round;

impl Round<'_> {
    /// Returns the limits of the search for workloads in a wave, which may have ended; no limits
    /// without one.
    pub(super) fn restart_limits(&self, wave: usize) -> RestartLimits {
        let mut of_wave = self.steps.iter().filter(|item| item.wave == wave);
        let limits = of_wave.find_map(|item| match &item.step {
            Step::Converge { limits, .. } => Some(*limits),
            _ => None,
        });
        limits.unwrap_or_default()
    }

    /// Takes the first steps of which no cluster and no namespace has more than its limit.
    pub(super) fn within_limits(
        &self,
        chosen: Vec<usize>,
        width: usize,
        limits: RestartLimits,
    ) -> Vec<usize> {
        let (mut by_cluster, mut by_namespace) = (BTreeMap::new(), BTreeMap::new());
        let fits = |index: &usize| {
            let Some((member, namespace)) = place_of_pods(&self.steps[*index].step) else {
                return true;
            };
            let in_cluster: &mut u32 = by_cluster.entry(member.clone()).or_default();
            let in_namespace: &mut u32 = by_namespace
                .entry((member.clone(), namespace.to_owned()))
                .or_default();
            let full = |count: u32, limit: Option<u32>| limit.is_some_and(|limit| count >= limit);
            if full(*in_cluster, limits.max_concurrent_per_cluster)
                || full(*in_namespace, limits.max_concurrent_per_namespace)
            {
                return false;
            }
            *in_cluster += 1;
            *in_namespace += 1;
            true
        };
        chosen.into_iter().filter(fits).take(width).collect()
    }
}

/// Returns the cluster and the namespace whose pods a step replaces.
fn place_of_pods(step: &Step) -> Option<(&Name, &str)> {
    match step {
        Step::Restart {
            member, workload, ..
        } => Some((member, &workload.namespace)),
        Step::Evict {
            member, namespace, ..
        } => Some((member, namespace)),
        _ => None,
    }
}
