//! What stands in the way of an upgrade, read from a survey.

use model::Name;
use model::injection::{Injection, NoInjection, PodLabels, decide, labels_conflict};
use model::network;
use model::rules::Severity;
use model::survey::{MemberSurvey, NamespaceSurvey, Stuck, Survey, WorkloadSurvey};
use model::upgrade::{Finding, LabelPolicy};

use super::Layout;
use super::data_plane::INJECTION_LABEL;

mod skew;

pub use skew::SkewRule;

/// What a precheck looked at.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Every member, seen now.
    pub survey: Survey,
    /// Istio's resources that name the current revision.
    pub pinned: Vec<String>,
    /// Members that refuse the pod that dry runs are made with.
    pub refusing: Vec<Name>,
    /// How far a proxy may be behind.
    pub skew: SkewRule,
}

/// Everything that a user should know before anything is touched.
pub fn findings(layout: &Layout, evidence: &Evidence) -> Vec<Finding> {
    let mut found: Vec<Finding> = evidence.pinned.iter().map(|resource| names_revision(resource)).collect();
    found.extend(evidence.refusing.iter().map(refuses_probe));
    found.extend(skew::findings(layout, &evidence.survey, &evidence.skew));
    for member in &evidence.survey.members {
        found.extend(member.foreign.iter().map(|name| foreign(member, name)));
        for namespace in &member.namespaces {
            found.extend(namespace_finding(member, namespace));
            found.extend(label_finding(layout, member, namespace));
            found.extend(namespace.workloads.iter().filter_map(|workload| workload_finding(layout, member, workload)));
            found.extend(namespace.unreachable.iter().map(|pod| unreachable(member, namespace, pod)));
        }
    }
    found.extend(services_stay_local(layout));
    found
}

/// A policy of the cluster would refuse the dry runs of every stage, in the middle of the upgrade.
fn refuses_probe(member: &Name) -> Finding {
    finding(
        Severity::Block,
        "probe_refused",
        member.to_string(),
        "The cluster refuses the pod that dry runs are made with, so no stage could prove that injection works.",
        "Exempt pods with the label meshwright.dev/probe=true in the mesh's namespace from the policy; nothing is ever created.",
    )
}

/// Until its network has a gateway, a cluster's services are its own.
fn services_stay_local(layout: &Layout) -> Option<Finding> {
    network::services_stay_local(&layout.members).then(|| {
        let alone: Vec<&str> = network::without_gateway(&layout.members).iter().map(Name::as_str).collect();
        finding(
            Severity::Note,
            "services_stay_local",
            alone.join(", "),
            "Their networks have no gateway, so every service is answered by the cluster of its caller only.",
            "Call a service of another cluster by an address of its own, outside the mesh.",
        )
    })
}

fn finding(severity: Severity, code: &str, object: String, message: &str, hint: &str) -> Finding {
    Finding { severity, code: code.into(), object, message: message.into(), hint: hint.into() }
}

fn foreign(member: &MemberSurvey, name: &str) -> Finding {
    finding(
        Severity::Block,
        "foreign_istio",
        format!("{}: {name}", member.member),
        "A webhook of an Istio that is not ours would inject the same pods, or refuse the same resources.",
        &format!(
            "Uninstall that Istio with the tool that installed it; what is left of one that is gone is removed by `kubectl delete {name}`."
        ),
    )
}

/// An object with the label `istio.io/rev` is read by that revision alone, and no tag can carry it over.
fn names_revision(resource: &str) -> Finding {
    finding(
        Severity::Block,
        "resource_names_revision",
        resource.to_owned(),
        "It names the revision that will be removed, and no other one would read it.",
        "Take the label istio.io/rev off, or put it on the new revision's name once that is up.",
    )
}

fn label_finding(layout: &Layout, member: &MemberSurvey, namespace: &NamespaceSurvey) -> Option<Finding> {
    let names = namespace.labels.rev.as_deref() == Some(layout.current.revision.as_str());
    let moves = layout.target.as_ref().is_some_and(|target| target.revision != layout.current.revision);
    (names && moves && layout.labels == LabelPolicy::Block).then(|| {
        finding(
            Severity::Block,
            "label_names_revision",
            format!("{}: namespace {}", member.member, namespace.name),
            "Its label names the revision that will be removed, and the upgrade was asked not to touch it.",
            "Label it stable, or plan the upgrade with the policy relabel or alias.",
        )
    })
}

fn namespace_finding(member: &MemberSurvey, namespace: &NamespaceSurvey) -> Option<Finding> {
    let object = format!("{}: namespace {}", member.member, namespace.name);
    if labels_conflict(&namespace.labels) {
        let hint = format!("Remove one of the two; {INJECTION_LABEL} is the one that wins today.");
        let message = "Both injection labels are set; Istio obeys one and ignores the other.";
        return Some(finding(Severity::Block, "both_labels", object, message, &hint));
    }
    let silent = matches!(
        decide(&namespace.labels, &PodLabels::default(), &member.injectors),
        Injection::None(NoInjection::NoSuchRevision)
    );
    silent.then(|| {
        let message = "The label matches no revision: new pods start without a sidecar, and nobody is told.";
        finding(
            Severity::Warn,
            "no_such_revision",
            object,
            message,
            "Label it with stable, canary or the name of a revision.",
        )
    })
}

fn workload_finding(layout: &Layout, member: &MemberSurvey, workload: &WorkloadSurvey) -> Option<Finding> {
    let object = format!("{}: {}", member.member, workload.workload);
    if workload.template.rev.as_deref() == Some(layout.current.revision.as_str()) {
        let message = "The pod template names the revision that will be removed; no namespace label can move it.";
        return Some(finding(
            Severity::Block,
            "template_names_revision",
            object,
            message,
            "Let the template name stable, or no revision at all.",
        ));
    }
    let message = match workload.stuck? {
        Stuck::Paused => "The Deployment is paused: a restart would not move its pods.",
        Stuck::OnDelete => "The update strategy is OnDelete: a restart would not move its pods.",
        Stuck::SelfRolling => "Its Gateway rolls it by itself the moment the tag moves.",
        Stuck::Owned => "Another controller owns it and would take a restart back.",
    };
    let hint = "Restart it yourself after the promotion; the old revision is kept until then.";
    Some(finding(Severity::Warn, "cannot_restart", object, message, hint))
}

fn unreachable(member: &MemberSurvey, namespace: &NamespaceSurvey, pod: &str) -> Finding {
    finding(
        Severity::Warn,
        "pod_without_workload",
        format!("{}: pod {}/{pod}", member.member, namespace.name),
        "No workload owns this injected pod, so nothing can restart it.",
        "Recreate it yourself after the promotion; the old revision is kept until then.",
    )
}
