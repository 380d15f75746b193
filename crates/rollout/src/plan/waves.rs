//! Builds the waves of a plan that replace pods, as the policy of the roll-out asks.

use meshwright_model::observation::Observation;
use meshwright_model::plan::{FormerPods, Plan, Step};
use meshwright_model::rollout::{OnFailure, RolloutPolicy, WorkloadSelection};

use super::{MeshTopology, NamespaceKey};

/// Number of workloads whose restart may fail in a roll-out of any size, before no further restart
/// begins.
const MIN_FAILURES: usize = 3;
/// Number of workloads for which one more restart may fail: a tenth of a large mesh.
const WORKLOADS_PER_FAILURE: usize = 10;

/// Pods that a plan replaces.
#[derive(Debug, Clone)]
pub(super) struct ReplacedPods<'a> {
    /// Pods of which none may be left at the end.
    pub(super) off: Option<FormerPods>,
    /// True if every pod is replaced that differs from the pod that its workload would create now.
    pub(super) outdated: bool,
    /// Namespaces whose workloads are restarted; `None` for all.
    pub(super) namespaces: Option<&'a [NamespaceKey]>,
}

/// Adds one wave that replaces pods until none is left. The step adds the restarts to its wave.
pub(super) fn with_restart_wave(
    plan: Plan,
    layout: &MeshTopology,
    survey: &Observation,
    pods: &ReplacedPods<'_>,
) -> Plan {
    let step = converge_step(layout, survey, pods, None);
    plan.with_limited_wave("restarts", width(layout), [step])
}

/// Adds the waves of the policy, each with the wait that follows it, and the last wave for all that
/// is left.
pub(super) fn with_restart_waves(
    mut plan: Plan,
    layout: &MeshTopology,
    survey: &Observation,
    pods: &ReplacedPods<'_>,
) -> Plan {
    let waves = &layout.rollout.waves;
    if waves.is_empty() {
        return with_restart_wave(plan, layout, survey, pods);
    }
    let last = waves.len() + 1;
    for (number, wave) in (1..).zip(waves) {
        let chosen = wave.selection.describe();
        let title = format!("restarts, wave {number} of {last}: {chosen}");
        let step = converge_step(layout, survey, pods, Some(wave.selection.clone()));
        plan = plan.with_limited_wave(title, width(layout), [step]);
        if wave.soak_seconds > 0 {
            let seconds = wave.soak_seconds;
            plan = plan.with_wave(
                format!("soak after wave {number}"),
                [Step::Soak { seconds }],
            );
        }
    }
    let title = format!("restarts, wave {last} of {last}: what is left");
    let step = converge_step(layout, survey, pods, None);
    plan.with_limited_wave(title, width(layout), [step])
}

/// Returns the number of workloads in the whole mesh that may restart at once. The operator's limit
/// protects all tenants, so a policy can only lower it.
fn width(layout: &MeshTopology) -> usize {
    let own = layout.rollout.limits.max_concurrent.map(to_count);
    own.map_or(layout.max_concurrent_restarts, |own| {
        own.min(layout.max_concurrent_restarts)
    })
}

fn converge_step(
    layout: &MeshTopology,
    survey: &Observation,
    pods: &ReplacedPods<'_>,
    selection: Option<WorkloadSelection>,
) -> Step {
    let policy = &layout.rollout;
    Step::Converge {
        off: pods.off.clone(),
        outdated: pods.outdated,
        namespaces: pods.namespaces.map(<[NamespaceKey]>::to_vec),
        max_failures: max_failures(pods, policy, survey),
        limits: policy.limits,
        evict: policy.evict_pods,
        // The last wave ends the roll-out, so a person decides about what it could not restart.
        on_failure: selection
            .as_ref()
            .map_or(OnFailure::Pause, |_| policy.on_failure),
        selection,
    }
}

/// Returns the number of failed restarts at which no further one begins. A rollback repairs what a
/// roll-out has broken, so the policy's number does not stop it.
fn max_failures(pods: &ReplacedPods<'_>, policy: &RolloutPolicy, survey: &Observation) -> usize {
    let namespaces = survey.members.iter().flat_map(|member| &member.namespaces);
    let workloads: usize = namespaces.map(|namespace| namespace.workloads.len()).sum();
    let by_size = MIN_FAILURES.max(workloads / WORKLOADS_PER_FAILURE);
    let own = policy.max_failures.filter(|_| pods.outdated);
    own.map_or(by_size, to_count)
}

fn to_count(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}
