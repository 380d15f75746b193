//! The way back: built from what was started and from what live pods carry, never from what the upgrade meant to do.

use std::collections::BTreeMap;

use model::Name;
use model::plan::{Plan, Sidecar, Stamp, Step, Target, WorkloadRef};
use model::survey::Observation;

use super::{MeshTopology, ControlPlane, TAGS, probe_step_for};
use crate::step::undo;

/// A step that was started, with what it captured.
pub type StartedStep = (Step, Option<String>);

/// Restores what an upgrade changed. New pods must be injected by the old revision before any is replaced, so every tag is
/// back first, `canary` included; and the new revision goes only when nothing carries it. The order is by what a step
/// touches and not simply backwards.
pub fn plan_rollback(layout: &MeshTopology, target: &ControlPlane, started: &[StartedStep], survey: &Observation) -> Plan {
    let undone = undo_steps(started);
    let of = |wanted: fn(&Target) -> bool| filter_by_target(&undone, wanted);
    let canary = layout.current.revision != target.revision;
    let unused = canary.then(|| super::await_unused_step(target));
    let plan = Plan::default()
        .with_wave("validation", of(|target| matches!(target, Target::Validator { .. })))
        .with_wave("tags", of(|target| matches!(target, Target::Tag { .. })));
    // In place there is one istiod: it must be the old one again before any pod is replaced.
    let plan = if canary { plan.with_wave("dry runs", tag_probes(layout, &undone)) } else { plan.followed_by(plan_in_place_undo(layout, &of)) };
    let plan = plan.with_wave("namespace labels", of(|target| matches!(target, Target::NamespaceLabel { .. }))).with_limited_wave(
        "restarts",
        layout.max_concurrent_restarts,
        restart_steps(layout, target, started, survey),
    );
    if canary { plan.with_wave("nothing uses the new revision", unused).followed_by(plan_control_plane_undo(&of)) } else { plan }
}

/// Control plane first, as in a retirement; the address goes last.
fn plan_control_plane_undo(of: &impl Fn(fn(&Target) -> bool) -> Vec<Step>) -> Plan {
    Plan::default()
        .with_wave("control plane", of(|target| matches!(target, Target::ControlPlane { .. })))
        .with_wave("roles, service and webhook", of(|target| matches!(target, Target::MemberObjects { .. })))
        .with_wave("address", of(|target| matches!(target, Target::Address { .. })))
}

/// In place: the slot's former release, proved by dry runs through the tags, which never left the slot.
fn plan_in_place_undo(layout: &MeshTopology, of: &impl Fn(fn(&Target) -> bool) -> Vec<Step>) -> Plan {
    let back = plan_control_plane_undo(of);
    let probes = layout.members.iter().flat_map(|member| TAGS.map(|name| probe_step_for(member, name, &layout.current)));
    if back.is_empty() { back } else { back.with_wave("dry runs", probes) }
}

/// Dry runs through every tag that points to the old revision again. A tag that the way back removes injects nothing.
pub(super) fn tag_probes(layout: &MeshTopology, undone: &[Step]) -> Vec<Step> {
    let proof = |step: &Step| match step {
        Step::Set { target: Target::Tag { member, tag }, to: Some(_), .. } => {
            Some(probe_step_for(member, tag, &layout.current))
        }
        _ => None,
    };
    undone.iter().filter_map(proof).collect()
}

/// The steps that restore what was there before, the last one first.
pub(super) fn undo_steps(started: &[StartedStep]) -> Vec<Step> {
    merge_by_target(started).into_iter().rev().filter_map(|(step, capture)| undo(&step, &capture)).collect()
}

/// The steps that move a certain kind of target.
pub(super) fn filter_by_target(steps: &[Step], wanted: fn(&Target) -> bool) -> Vec<Step> {
    steps.iter().filter(|step| matches!(step, Step::Set { target, .. } if wanted(target))).cloned().collect()
}

/// One entry for each target: the first capture is what was there before the upgrade, the last goal is what is there now.
fn merge_by_target(started: &[StartedStep]) -> Vec<StartedStep> {
    let mut merged: Vec<StartedStep> = Vec::new();
    for (step, capture) in started {
        let Step::Set { target, to, .. } = step else { continue };
        let known =
            merged.iter_mut().find(|(earlier, _)| matches!(earlier, Step::Set { target: same, .. } if same == target));
        match known {
            Some((Step::Set { to: last, .. }, _)) => last.clone_from(to),
            _ => merged.push((step.clone(), capture.clone())),
        }
    }
    merged
}

/// Every workload with a live pod that carries the new sidecar, whether or not the upgrade restarted it: pods born in the
/// mixed window belong to templates that nobody patched.
fn restart_steps(layout: &MeshTopology, target: &ControlPlane, started: &[StartedStep], survey: &Observation) -> Vec<Step> {
    let stamps = former_stamps(started);
    let (old, new) = (layout.current.sidecar(), target.sidecar());
    let mut steps = Vec::new();
    for member in &survey.members {
        for namespace in &member.namespaces {
            for workload in &namespace.workloads {
                let stray = |carried: &Option<Sidecar>| carried.as_ref() == Some(&new);
                let key = (member.member.clone(), workload.workload.clone());
                let former = stamps.get(&key);
                let stamped = former.is_some_and(|before| *before != workload.stamp);
                if old == new || workload.stuck.is_some() || !(stamped || workload.live.iter().any(stray)) {
                    continue;
                }
                // Taking our stamp off returns the workload to its former template, pods and all.
                let stamp = if stamped { Stamp::Former { value: former.cloned().flatten() } } else { Stamp::Fresh };
                steps.push(Step::Restart { member: key.0, workload: key.1, wanted: old.clone(), stamp });
            }
        }
    }
    steps
}

fn former_stamps(started: &[StartedStep]) -> BTreeMap<(Name, WorkloadRef), Option<String>> {
    let mut stamps = BTreeMap::new();
    for (step, capture) in started {
        if let Step::Restart { member, workload, .. } = step {
            stamps.entry((member.clone(), workload.clone())).or_insert_with(|| capture.clone());
        }
    }
    stamps
}
