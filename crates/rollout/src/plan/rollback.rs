//! The way back: built from what was started and from what live pods carry, never from what the upgrade meant to do.

use std::collections::BTreeMap;

use model::Name;
use model::plan::{Plan, Sidecar, Stamp, Step, Target, WorkloadRef};
use model::survey::Survey;

use super::{Layout, Line, TAGS, probe_value};
use crate::step::undo;

/// A step that was started, with what it captured.
pub type Started = (Step, Option<String>);

/// Restores what an upgrade changed. New pods must be injected by the old revision before any is replaced, so every tag is
/// back first, `canary` included; and the new revision goes only when nothing carries it. The order is by what a step
/// touches and not simply backwards.
pub fn rollback(layout: &Layout, target: &Line, started: &[Started], survey: &Survey) -> Plan {
    let undone = undone(started);
    let of = |wanted: fn(&Target) -> bool| about(&undone, wanted);
    let canary = layout.current.revision != target.revision;
    let unused = canary.then(|| super::unused(target));
    let plan = Plan::default()
        .wave("validation", of(|target| matches!(target, Target::Validator { .. })))
        .wave("tags", of(|target| matches!(target, Target::Tag { .. })));
    // In place there is one istiod: it must be the old one again before any pod is replaced.
    let plan = if canary { plan.wave("dry runs", proofs(layout, &undone)) } else { plan.then(line_back(layout, &of)) };
    let plan = plan.wave("namespace labels", of(|target| matches!(target, Target::NamespaceLabel { .. }))).wave_of(
        "restarts",
        layout.width,
        restarts(layout, target, started, survey),
    );
    if canary { plan.wave("nothing uses the new revision", unused).then(lines_back(&of)) } else { plan }
}

/// Control plane first, as in a retirement; the address goes last.
fn lines_back(of: &impl Fn(fn(&Target) -> bool) -> Vec<Step>) -> Plan {
    Plan::default()
        .wave("control plane", of(|target| matches!(target, Target::ControlPlane { .. })))
        .wave("roles, service and webhook", of(|target| matches!(target, Target::MemberObjects { .. })))
        .wave("address", of(|target| matches!(target, Target::Address { .. })))
}

/// In place: the slot's former release, proved by dry runs through the tags, which never left the slot.
fn line_back(layout: &Layout, of: &impl Fn(fn(&Target) -> bool) -> Vec<Step>) -> Plan {
    let back = lines_back(of);
    let probes = layout.members.iter().flat_map(|member| TAGS.map(|name| probe_value(member, name, &layout.current)));
    if back.is_empty() { back } else { back.wave("dry runs", probes) }
}

/// Dry runs through every tag that points to the old revision again. A tag that the way back removes injects nothing.
pub(super) fn proofs(layout: &Layout, undone: &[Step]) -> Vec<Step> {
    let proof = |step: &Step| match step {
        Step::Set { target: Target::Tag { member, tag }, to: Some(_), .. } => {
            Some(probe_value(member, tag, &layout.current))
        }
        _ => None,
    };
    undone.iter().filter_map(proof).collect()
}

/// The steps that restore what was there before, the last one first.
pub(super) fn undone(started: &[Started]) -> Vec<Step> {
    earliest(started).into_iter().rev().filter_map(|(step, capture)| undo(&step, &capture)).collect()
}

/// The steps that move a certain kind of target.
pub(super) fn about(steps: &[Step], wanted: fn(&Target) -> bool) -> Vec<Step> {
    steps.iter().filter(|step| matches!(step, Step::Set { target, .. } if wanted(target))).cloned().collect()
}

/// One entry for each target: the first capture is what was there before the upgrade, the last goal is what is there now.
fn earliest(started: &[Started]) -> Vec<Started> {
    let mut merged: Vec<Started> = Vec::new();
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
fn restarts(layout: &Layout, target: &Line, started: &[Started], survey: &Survey) -> Vec<Step> {
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

fn former_stamps(started: &[Started]) -> BTreeMap<(Name, WorkloadRef), Option<String>> {
    let mut stamps = BTreeMap::new();
    for (step, capture) in started {
        if let Step::Restart { member, workload, .. } = step {
            stamps.entry((member.clone(), workload.clone())).or_insert_with(|| capture.clone());
        }
    }
    stamps
}
