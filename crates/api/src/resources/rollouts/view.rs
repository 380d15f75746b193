//! Converts roll-outs and their workloads to their wire form.

use std::collections::BTreeSet;

use meshwright_model::operation::StepState;
use meshwright_store::{RolloutItem, RolloutStateCount};
use meshwright_wire::{Rollout, RolloutActionValue, RolloutCounts, RolloutWaveProgress};

use crate::resources::rollouts::policy::policy_view;
use crate::resources::views;

/// Converts a roll-out.
pub(super) fn rollout_view(found: &meshwright_store::Rollout) -> Rollout {
    let shown = views::operation(&found.operation, (0, 0));
    let heads = found.operation.waves.as_deref().unwrap_or_default();
    let places: BTreeSet<usize> = found.states.iter().map(|count| count.wave).collect();
    let waves = (1..)
        .zip(places)
        .map(|(number, index)| RolloutWaveProgress {
            number,
            title: heads
                .get(index)
                .map(|head| head.title.clone())
                .unwrap_or_default(),
            counts: sum_counts(found.states.iter().filter(|count| count.wave == index)),
        });
    Rollout {
        id: shown.id,
        kind: shown.kind,
        mesh_id: shown.mesh_id.unwrap_or_default(),
        upgrade_id: shown.upgrade_id,
        state: shown.state,
        problem: shown.problem,
        done: shown.done,
        waiting_for: shown.waiting_for,
        pending_verbs: shown.pending_verbs,
        policy: policy_view(&found.policy),
        counts: sum_counts(found.states.iter()),
        waves: waves.collect(),
        forecast: None,
        created_at: shown.created_at,
        ended_at: shown.ended_at,
    }
}

fn sum_counts<'a>(counts: impl Iterator<Item = &'a RolloutStateCount>) -> RolloutCounts {
    let mut sum = RolloutCounts::default();
    for count in counts {
        match count.state.known() {
            Some(StepState::Pending) => sum.pending += count.count,
            Some(StepState::Started) => sum.started += count.count,
            Some(StepState::Done) => sum.done += count.count,
            Some(StepState::Failed) => sum.failed += count.count,
            Some(StepState::Excluded) => sum.excluded += count.count,
            Some(StepState::Skipped) => sum.skipped += count.count,
            None => {}
        }
    }
    sum
}

/// Converts a workload of a roll-out. `waves` are the places of the waves that replace pods.
pub(super) fn item_view(
    item: &RolloutItem,
    waves: &[usize],
) -> Option<meshwright_wire::RolloutItem> {
    let object = item.object()?;
    let wave = waves.iter().position(|wave| *wave == item.wave)?;
    let action = if item.step.evicts_pods() {
        RolloutActionValue::Evict
    } else {
        RolloutActionValue::Restart
    };
    let problem = item.progress.failed.as_ref();
    Some(meshwright_wire::RolloutItem {
        number: item.number,
        wave: u32::try_from(wave + 1).unwrap_or(u32::MAX),
        cluster: object.cluster.to_string(),
        namespace: object.namespace.to_owned(),
        kind: object.kind.into(),
        name: object.shown_name().to_owned(),
        action: action.into(),
        state: item.progress.state().into(),
        problem: problem
            .or(item.progress.excluded.as_ref())
            .map(views::problem_view),
        attempts: item.attempts,
        started_at: item.started_at,
        ended_at: item.ended_at,
    })
}
