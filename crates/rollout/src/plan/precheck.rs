//! Collects the findings of a precheck from an observation of the mesh.

use meshwright_model::Name;
use meshwright_model::injection::{
    Injection, NoInjection, PodLabels, injected_by, labels_conflict,
};
use meshwright_model::network;
use meshwright_model::observation::{
    MemberObservation, NamespaceObservation, Observation, RestartBlocker, WorkloadObservation,
};
use meshwright_model::problem::ProblemCode;
use meshwright_model::rules::Severity;
use meshwright_model::upgrade::{Finding, LabelPolicy};

use super::MeshTopology;
use super::data_plane::INJECTION_LABEL;

mod skew;

pub use skew::SkewRule;

/// Observations that a precheck evaluates.
#[derive(Debug, Clone, Default)]
pub struct PrecheckInput {
    /// Observation of every member of the mesh, made for this precheck.
    pub survey: Observation,
    /// Istio resources whose label names the current revision, as text for people.
    pub pinned_resources: Vec<String>,
    /// Members whose policies refuse the pod that dry runs send.
    pub refusing_members: Vec<Name>,
    /// Rule for the versions by which a proxy may be behind its istiod.
    pub skew: SkewRule,
}

/// Collects all findings that a user should know before the upgrade changes anything.
pub fn collect_findings(layout: &MeshTopology, evidence: &PrecheckInput) -> Vec<Finding> {
    let mut found: Vec<Finding> = evidence
        .pinned_resources
        .iter()
        .map(|resource| pinned_resource_finding(resource))
        .collect();
    found.extend(evidence.refusing_members.iter().map(probe_refused_finding));
    found.extend(skew::collect_skew_findings(
        layout,
        &evidence.survey,
        &evidence.skew,
    ));
    for member in &evidence.survey.members {
        found.extend(
            member
                .foreign
                .iter()
                .map(|name| foreign_istio_finding(member, name)),
        );
        for namespace in &member.namespaces {
            // Pods in the mesh's own namespace ask for a sidecar themselves, and no upgrade touches
            // its labels.
            if !namespace.of_mesh {
                found.extend(namespace_finding(member, namespace));
                found.extend(label_finding(layout, member, namespace));
            }
            found.extend(
                namespace
                    .workloads
                    .iter()
                    .filter_map(|workload| workload_finding(layout, member, workload)),
            );
            found.extend(
                namespace
                    .unreachable
                    .iter()
                    .map(|pod| bare_pod_finding(member, namespace, pod)),
            );
        }
    }
    found.extend(local_services_finding(layout));
    found
}

/// Builds the finding of a cluster whose policy would refuse the dry runs of every stage, and would
/// so stop the upgrade in the middle.
fn probe_refused_finding(member: &Name) -> Finding {
    new_finding(
        Severity::Block,
        ProblemCode::ProbeRefused,
        member.to_string(),
        "The cluster refuses the pod that dry runs are made with, so no stage could prove that injection works.",
        "Exempt pods with the label meshwright.dev/probe=true in the mesh's namespace from the policy; nothing is ever created.",
    )
}

/// Builds the finding of clusters whose networks have no gateway. Until a network has one, its
/// services can only be called from its own cluster.
fn local_services_finding(layout: &MeshTopology) -> Option<Finding> {
    network::services_stay_local(&layout.members).then(|| {
        let alone: Vec<&str> = network::members_without_gateway(&layout.members).iter().map(Name::as_str).collect();
        new_finding(
            Severity::Note,
            ProblemCode::ServicesStayLocal,
            alone.join(", "),
            "Their networks have no gateway, so every service is answered by the cluster of its caller only.",
            "Call a service of another cluster by an address of its own, outside the mesh.",
        )
    })
}

fn new_finding(
    severity: Severity,
    code: ProblemCode,
    object: String,
    message: &str,
    hint: &str,
) -> Finding {
    Finding {
        severity,
        code: code.into(),
        object,
        message: message.into(),
        hint: hint.into(),
    }
}

/// Builds the finding of an injection or validation webhook of a foreign Istio.
fn foreign_istio_finding(member: &MemberObservation, name: &str) -> Finding {
    new_finding(
        Severity::Block,
        ProblemCode::ForeignIstio,
        format!("{}: {name}", member.member),
        "A webhook of an Istio that is not ours would inject the same pods, or refuse the same resources.",
        &format!(
            "Uninstall that Istio with the tool that installed it; what is left of one that is gone is removed by `kubectl delete {name}`."
        ),
    )
}

/// Builds the finding of an object with the label `istio.io/rev`. Only the named revision reads
/// such an object, and no tag can transfer it.
fn pinned_resource_finding(resource: &str) -> Finding {
    new_finding(
        Severity::Block,
        ProblemCode::ResourceNamesRevision,
        resource.to_owned(),
        "It names the revision that will be removed, and no other one would read it.",
        "Take the label istio.io/rev off, or put it on the new revision's name once that is up.",
    )
}

/// Returns the finding of a namespace whose label names the revision that will be removed, if the
/// label policy is `block`.
fn label_finding(
    layout: &MeshTopology,
    member: &MemberObservation,
    namespace: &NamespaceObservation,
) -> Option<Finding> {
    let names = namespace.labels.rev.as_deref() == Some(layout.current.revision.as_str());
    let moves = layout
        .target
        .as_ref()
        .is_some_and(|target| target.revision != layout.current.revision);
    (names && moves && layout.label_policy == LabelPolicy::Block).then(|| {
        new_finding(
            Severity::Block,
            ProblemCode::LabelNamesRevision,
            format!("{}: namespace {}", member.member, namespace.name),
            "Its label names the revision that will be removed, and the upgrade was asked not to touch it.",
            "Label it stable, or plan the upgrade with the policy relabel or alias.",
        )
    })
}

/// Returns the finding of a namespace with both injection labels or with a label that matches no
/// revision.
fn namespace_finding(
    member: &MemberObservation,
    namespace: &NamespaceObservation,
) -> Option<Finding> {
    let object = format!("{}: namespace {}", member.member, namespace.name);
    if labels_conflict(&namespace.labels) {
        let hint = format!("Remove one of the two; {INJECTION_LABEL} is the one that wins today.");
        let message = "Both injection labels are set; Istio obeys one and ignores the other.";
        return Some(new_finding(
            Severity::Block,
            ProblemCode::BothLabels,
            object,
            message,
            &hint,
        ));
    }
    let silent = matches!(
        injected_by(&namespace.labels, &PodLabels::default(), &member.injectors),
        Injection::NotInjected(NoInjection::NoSuchRevision)
    );
    silent.then(|| {
        let message =
            "The label matches no revision: new pods start without a sidecar, and no error is shown.";
        new_finding(
            Severity::Warn,
            ProblemCode::NoSuchRevision,
            object,
            message,
            "Label it with stable, canary or the name of a revision.",
        )
    })
}

/// Returns the finding of a workload whose pod template names the old revision, or that a restart
/// cannot move.
fn workload_finding(
    layout: &MeshTopology,
    member: &MemberObservation,
    workload: &WorkloadObservation,
) -> Option<Finding> {
    let object = format!("{}: {}", member.member, workload.workload);
    if workload.template.rev.as_deref() == Some(layout.current.revision.as_str()) {
        let message = "The pod template names the revision that will be removed; no namespace label can move it.";
        return Some(new_finding(
            Severity::Warn,
            ProblemCode::TemplateNamesRevision,
            object,
            message,
            "Let the template name stable, or no revision at all; until then the old revision is kept.",
        ));
    }
    let message = match workload.stuck? {
        RestartBlocker::Paused => "The Deployment is paused: a restart would not move its pods.",
        RestartBlocker::OnDelete => {
            "The update strategy is OnDelete: a restart would not move its pods."
        }
        RestartBlocker::Partition => {
            "A partition of the StatefulSet keeps some of its pods: a restart would not move these."
        }
        RestartBlocker::SelfRolling => "Its Gateway rolls it by itself the moment the tag moves.",
        RestartBlocker::Owned => "Another controller owns it and would take a restart back.",
    };
    let hint = "Restart it yourself after the promotion; the old revision is kept until then.";
    Some(new_finding(
        Severity::Warn,
        ProblemCode::CannotRestart,
        object,
        message,
        hint,
    ))
}

/// Builds the finding of an injected pod that no workload owns.
fn bare_pod_finding(
    member: &MemberObservation,
    namespace: &NamespaceObservation,
    pod: &str,
) -> Finding {
    new_finding(
        Severity::Warn,
        ProblemCode::PodWithoutWorkload,
        format!("{}: pod {}/{pod}", member.member, namespace.name),
        "No workload owns this injected pod, so nothing can restart it.",
        "Recreate it yourself after the promotion; the old revision is kept until then.",
    )
}

#[cfg(test)]
mod tests {
    use meshwright_model::injection::NamespaceLabels;
    use meshwright_model::plan::{WorkloadKind, WorkloadRef};

    use super::super::ControlPlane;
    use super::*;

    #[test]
    fn only_workloads_of_the_meshs_own_namespace_are_judged_and_not_its_labels() {
        let edge = WorkloadObservation {
            workload: WorkloadRef {
                namespace: "mesh-a".into(),
                kind: WorkloadKind::StatefulSet,
                name: "edge".into(),
            },
            template: PodLabels::default(),
            live: Vec::new(),
            stamp: None,
            stuck: Some(RestartBlocker::Partition),
        };
        let codes = |of_mesh: bool| {
            let namespace = NamespaceObservation {
                name: "mesh-a".into(),
                labels: NamespaceLabels {
                    rev: Some("gone".into()),
                    ..NamespaceLabels::default()
                },
                workloads: vec![edge.clone()],
                unreachable: Vec::new(),
                of_mesh,
            };
            let member = MemberObservation {
                member: "c1".parse().expect("a name"),
                kubernetes: (1, 33),
                namespaces: vec![namespace],
                injectors: Vec::new(),
                foreign: Vec::new(),
            };
            let layout = MeshTopology {
                members: vec![member.member.clone()],
                current: ControlPlane {
                    revision: "1-25-1".parse().expect("a name"),
                    release: "1.25.1.1".parse().expect("a version"),
                    image: "hub/proxyv2:1.25.1".into(),
                },
                target: None,
                max_concurrent_restarts: 1,
                label_policy: LabelPolicy::Block,
                rollout: meshwright_model::rollout::RolloutPolicy::default(),
            };
            let mut evidence = PrecheckInput::default();
            evidence.survey.members.push(member);
            let found = collect_findings(&layout, &evidence);
            let codes = found.iter().map(|finding| finding.code.as_str().to_owned());
            codes.collect::<Vec<_>>()
        };
        assert_eq!(codes(false), ["no_such_revision", "cannot_restart"]);
        assert_eq!(codes(true), ["cannot_restart"]);
    }
}
