//! Builds the plan of a rollback from the steps that were started and from the sidecars of live
//! pods, never from what the upgrade intended.

use std::collections::BTreeMap;

use meshwright_model::observation::Observation;
use meshwright_model::plan::{FormerPods, Plan, Step, Target};

use super::waves::{ReplacedPods, with_restart_wave};
use super::{ControlPlane, MeshTopology, TAGS, probe_step_for};
use crate::converge::WorkloadKey;
use crate::step::undo;

/// A step that was started, with the value that it captured.
pub type StartedStep = (Step, Option<String>);

/// Plans the rollback of an upgrade. The order depends on what a step touches and is not simply
/// reversed. Every tag, `canary` included, is restored before a pod is replaced, because new pods
/// must be injected by the old revision. The new revision is removed only after nothing uses it.
pub fn plan_rollback(
    layout: &MeshTopology,
    target: &ControlPlane,
    started: &[StartedStep],
    survey: &Observation,
) -> Plan {
    let undone = undo_steps(started);
    let of = |wanted: fn(&Target) -> bool| filter_by_target(&undone, wanted);
    let canary = layout.current.revision != target.revision;
    let unused = canary.then(|| super::await_unused_step(target));
    let plan = Plan::default()
        .with_wave(
            "validation",
            of(|target| matches!(target, Target::Validator { .. })),
        )
        .with_wave("tags", of(|target| matches!(target, Target::Tag { .. })));
    // In place there is one istiod. It must run the old release again before any pod is replaced.
    let plan = if canary {
        plan.with_wave("dry runs", tag_probes(layout, &undone))
    } else {
        plan.followed_by(plan_in_place_undo(layout, &of))
    };
    let plan = plan.with_wave(
        "namespace labels",
        of(|target| matches!(target, Target::NamespaceLabel { .. })),
    );
    // Pods of the new revision are looked for, not remembered: while both revisions injected pods,
    // templates that the upgrade never patched could get the new sidecar.
    let new = FormerPods {
        revision: target.revision.clone(),
        image: (!canary).then(|| target.image.clone()),
    };
    let plan = if layout.current.sidecar() == target.sidecar() {
        plan
    } else {
        let pods = ReplacedPods {
            off: Some(new),
            outdated: false,
            namespaces: None,
        };
        with_restart_wave(plan, layout, survey, &pods)
    };
    if canary {
        plan.with_wave("nothing uses the new revision", unused)
            .followed_by(plan_control_plane_undo(&of))
    } else {
        plan
    }
}

/// Plans the removal of the new control plane. The control plane goes first, as in a retirement,
/// and the address last.
fn plan_control_plane_undo(of: &impl Fn(fn(&Target) -> bool) -> Vec<Step>) -> Plan {
    Plan::default()
        .with_wave(
            "control plane",
            of(|target| matches!(target, Target::ControlPlane { .. })),
        )
        .with_wave(
            "roles, service and webhook",
            of(|target| matches!(target, Target::MemberObjects { .. })),
        )
        .with_wave(
            "address",
            of(|target| matches!(target, Target::Address { .. })),
        )
}

/// Plans the return of the slot to its former release. Dry runs through the tags prove it; the tags
/// have pointed to the slot all the time.
fn plan_in_place_undo(
    layout: &MeshTopology,
    of: &impl Fn(fn(&Target) -> bool) -> Vec<Step>,
) -> Plan {
    let back = plan_control_plane_undo(of);
    let probes = layout
        .members
        .iter()
        .flat_map(|member| TAGS.map(|name| probe_step_for(member, name, &layout.current)));
    if back.is_empty() {
        back
    } else {
        back.with_wave("dry runs", probes)
    }
}

/// Builds dry runs through every tag that points to the old revision again. A tag that the rollback
/// removes injects nothing and needs no dry run.
pub(super) fn tag_probes(layout: &MeshTopology, undone: &[Step]) -> Vec<Step> {
    let proof = |step: &Step| match step {
        Step::Set {
            target: Target::Tag { member, tag },
            to: Some(_),
            ..
        } => Some(probe_step_for(member, tag, &layout.current)),
        _ => None,
    };
    undone.iter().filter_map(proof).collect()
}

/// Returns the steps that restore the former values, in the reverse order of the started steps.
pub(super) fn undo_steps(started: &[StartedStep]) -> Vec<Step> {
    merge_by_target(started)
        .into_iter()
        .rev()
        .filter_map(|(step, capture)| undo(&step, &capture))
        .collect()
}

/// Returns the steps whose target fulfils a condition.
pub(super) fn filter_by_target(steps: &[Step], wanted: fn(&Target) -> bool) -> Vec<Step> {
    steps
        .iter()
        .filter(|step| matches!(step, Step::Set { target, .. } if wanted(target)))
        .cloned()
        .collect()
}

/// Merges the started steps into one entry for each target. The first capture is the value before
/// the upgrade, and the last goal is the present value.
fn merge_by_target(started: &[StartedStep]) -> Vec<StartedStep> {
    let mut merged: Vec<StartedStep> = Vec::new();
    for (step, capture) in started {
        let Step::Set { target, to, .. } = step else {
            continue;
        };
        let known = merged.iter_mut().find(
            |(earlier, _)| matches!(earlier, Step::Set { target: same, .. } if same == target),
        );
        match known {
            Some((Step::Set { to: last, .. }, _)) => last.clone_from(to),
            _ => merged.push((step.clone(), capture.clone())),
        }
    }
    merged
}

/// Returns the stamp that each restarted workload had before the upgrade.
pub fn former_stamps(started: &[StartedStep]) -> BTreeMap<WorkloadKey, Option<String>> {
    let mut stamps = BTreeMap::new();
    for (step, capture) in started {
        if let Step::Restart {
            member, workload, ..
        } = step
        {
            stamps
                .entry((member.clone(), workload.clone()))
                .or_insert_with(|| capture.clone());
        }
    }
    stamps
}
