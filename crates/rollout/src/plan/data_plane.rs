//! Builds the plans that move sidecars: they change namespace labels and restart workloads.

use std::collections::BTreeMap;

use meshwright_model::Name;
use meshwright_model::injection::{Injector, NamespaceLabels};
use meshwright_model::observation::{NamespaceObservation, Observation};
use meshwright_model::plan::{FormerPods, Plan, Target};
use meshwright_model::upgrade::LabelPolicy;

use super::{
    ControlPlane, MeshTopology, NamespaceKey, TAGS, change_step, create_step, probe_step_for,
    set_step, tag_target,
    waves::{ReplacedPods, with_restart_wave, with_restart_waves},
};

/// Label that names a revision or a revision tag.
pub const REV_LABEL: &str = "istio.io/rev";
/// Label that requests injection by the default revision.
pub const INJECTION_LABEL: &str = "istio-injection";

/// Returns a namespace's injection labels as the value of a target. A namespace with both labels
/// has a value of its own, so that a namespace that has the wanted label and also the other one
/// does not count as correct.
pub fn label_value(labels: &NamespaceLabels) -> Option<String> {
    let rev = labels
        .rev
        .as_ref()
        .map(|value| format!("{REV_LABEL}={value}"));
    let injection = labels
        .injection
        .as_ref()
        .map(|value| format!("{INJECTION_LABEL}={value}"));
    let both: Vec<String> = rev.into_iter().chain(injection).collect();
    (!both.is_empty()).then(|| both.join(","))
}

/// Parses the value of a target into the labels that it stands for.
pub fn parse_labels(value: Option<&str>) -> NamespaceLabels {
    let part = |key: &str| {
        let mut parts = value.unwrap_or_default().split(',');
        parts
            .find_map(|text| text.strip_prefix(key)?.strip_prefix('='))
            .map(str::to_owned)
    };
    NamespaceLabels {
        injection: part(INJECTION_LABEL),
        rev: part(REV_LABEL),
    }
}

/// Plans the move of chosen namespaces to the canary: labels them with the canary's own name and
/// restarts their workloads.
pub fn plan_namespace_move(
    layout: &MeshTopology,
    target: &ControlPlane,
    survey: &Observation,
    chosen: &[NamespaceKey],
) -> Plan {
    let wanted = format!("{REV_LABEL}={}", target.revision);
    let plan = with_label_wave(Plan::default(), survey, |member, namespace| {
        if chosen.contains(&(member.clone(), namespace.name.clone())) {
            Some(wanted.clone())
        } else {
            label_value(&namespace.labels)
        }
    });
    let pods = ReplacedPods {
        off: None,
        outdated: true,
        namespaces: Some(chosen),
    };
    with_restart_wave(plan, layout, survey, &pods)
}

/// Plans the roll-out: restarts each workload that has pods of the old revision. Namespaces whose
/// label named the old revision are relabelled to the new one. Namespaces that were moved before
/// the promotion get their former label back.
pub fn plan_roll(
    layout: &MeshTopology,
    target: &ControlPlane,
    survey: &Observation,
    moved: &BTreeMap<NamespaceKey, Option<String>>,
) -> Plan {
    let old = format!("{REV_LABEL}={}", layout.current.revision);
    let new = format!("{REV_LABEL}={}", target.revision);
    let relabel = layout.label_policy != LabelPolicy::Alias;
    let (mut aliases, mut proofs) = (Vec::new(), Vec::new());
    for member in &survey.members {
        for injector in member
            .injectors
            .iter()
            .filter(|injector| moves_in_roll(layout, target, injector))
        {
            aliases.push(change_step(
                tag_target(&member.member, &injector.value),
                &injector.revision,
                &target.revision,
            ));
            proofs.push(probe_step_for(&member.member, &injector.value, target));
        }
    }
    let plan = Plan::default()
        .with_wave("alias tags", aliases)
        .with_wave("dry runs through the alias tags", proofs);
    let plan = with_label_wave(plan, survey, |member, namespace| {
        let before = moved
            .get(&(member.clone(), namespace.name.clone()))
            .cloned();
        let label = label_value(&namespace.labels);
        let wanted = before.unwrap_or_else(|| label.clone());
        if relabel && wanted.as_deref() == Some(old.as_str()) {
            Some(new.clone())
        } else {
            wanted
        }
    });
    // In place both releases have one revision name, so the pods are told apart by their image.
    let off = (layout.current.revision != target.revision).then(|| FormerPods {
        revision: layout.current.revision.clone(),
        image: None,
    });
    let pods = ReplacedPods {
        off,
        outdated: true,
        namespaces: None,
    };
    with_restart_waves(plan, layout, survey, &pods)
}

/// Returns true for a name of the old revision that the roll-out points to the new one: an alias
/// that an earlier upgrade left, and the revision's own name if the label policy is `alias`. The
/// promotion has moved `stable` and `default` already.
fn moves_in_roll(layout: &MeshTopology, target: &ControlPlane, injector: &Injector) -> bool {
    let old = &layout.current.revision;
    let own = injector.value == old.as_str();
    injector.revision == *old
        && *old != target.revision
        && !TAGS.contains(&injector.value.as_str())
        && (!own || layout.label_policy == LabelPolicy::Alias)
}

/// Plans a restart of the mesh: creates removed tags again, restarts every workload that does not
/// have the sidecar that its labels ask for, and changes no label. While the mesh has two revisions
/// the tags are left alone, because the upgrade decides what they point to.
pub fn plan_restart(layout: &MeshTopology, survey: &Observation) -> Plan {
    let (mut tags, mut proofs) = (Vec::new(), Vec::new());
    for member in survey.members.iter().filter(|_| layout.target.is_none()) {
        for missing in member.missing_tags() {
            tags.push(create_step(
                tag_target(&member.member, missing.as_str()),
                &layout.current.revision,
            ));
            proofs.push(probe_step_for(
                &member.member,
                missing.as_str(),
                &layout.current,
            ));
        }
    }
    let plan = Plan::default()
        .with_wave("tags that were removed", tags)
        .with_wave("dry runs through these tags", proofs);
    let pods = ReplacedPods {
        off: None,
        outdated: true,
        namespaces: None,
    };
    with_restart_waves(plan, layout, survey, &pods)
}

/// Builds the wave that changes namespace labels. `choose` returns the label that a namespace is to
/// have. The mesh's own namespace has no such label.
fn with_label_wave(
    plan: Plan,
    survey: &Observation,
    choose: impl Fn(&Name, &NamespaceObservation) -> Option<String>,
) -> Plan {
    let mut steps = Vec::new();
    for member in &survey.members {
        let labelled = member.namespaces.iter().filter(|found| !found.of_mesh);
        for namespace in labelled {
            let (found, wanted) = (
                label_value(&namespace.labels),
                choose(&member.member, namespace),
            );
            if found != wanted {
                let target = Target::NamespaceLabel {
                    member: member.member.clone(),
                    namespace: namespace.name.clone(),
                };
                steps.push(set_step(target, found, wanted));
            }
        }
    }
    plan.with_wave("namespace labels", steps)
}
