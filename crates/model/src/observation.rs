//! Describes the observation of a mesh: the state that a worker saw in the mesh's clusters, from
//! which a plan is built.

use serde::{Deserialize, Serialize};

use crate::closed_set;
use crate::injection::{Injector, NamespaceLabels, PodLabels};
use crate::operation::Problem;
use crate::plan::{Sidecar, WorkloadRef};
use crate::problem::ProblemCode;
use crate::{Name, RevisionName};

/// State of all member clusters of a mesh, seen at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Members in the order of the mesh, beginning with the config cluster.
    pub members: Vec<MemberObservation>,
    /// Proxies that are connected to any replica of any revision.
    #[serde(default)]
    pub proxies: Vec<ProxyObservation>,
    /// Sidecars that the mesh's revisions inject. A revision with two entries is being replaced in
    /// place, and both entries are right.
    #[serde(default)]
    pub sidecars: Vec<Sidecar>,
}

/// Tag that every mesh has from its creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeshTag {
    /// Points to the current revision.
    Stable,
    /// Points to the current revision, and also selects pods that name no revision.
    Default,
    /// Points to the revision of a canary, or to the current revision without one.
    Canary,
}

closed_set!(MeshTag {
    Stable = "stable",
    Default = "default",
    Canary = "canary",
});

/// Names of the tags that every mesh has from its creation.
pub const TAGS: [&str; 3] = [
    MeshTag::Stable.as_str(),
    MeshTag::Default.as_str(),
    MeshTag::Canary.as_str(),
];

/// Reason why a live pod of a workload differs from a pod that would be created now. The gravest
/// reason comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartReason {
    /// The pod has no sidecar.
    NoSidecar,
    /// Another revision injected the pod.
    Revision,
    /// The right revision injected the pod, with another proxy image than it injects now.
    Image,
}

closed_set!(RestartReason {
    NoSidecar = "no_sidecar",
    Revision = "revision",
    Image = "image",
});

impl Observation {
    /// Returns the gravest reason why a live pod of the workload does not carry the sidecar that
    /// the revision injects now, or `None` if every pod does. If the images of the revision are
    /// unknown, only revisions are compared.
    pub fn restart_reason(
        &self,
        workload: &WorkloadObservation,
        wanted: &RevisionName,
    ) -> Option<RestartReason> {
        let mut right = self
            .sidecars
            .iter()
            .filter(|sidecar| sidecar.revision == *wanted)
            .peekable();
        let unknown = right.peek().is_none();
        let images: Vec<&str> = right.map(|sidecar| sidecar.image.as_str()).collect();
        let judge = |carried: &Option<Sidecar>| match carried {
            None => Some(RestartReason::NoSidecar),
            Some(sidecar) if sidecar.revision != *wanted => Some(RestartReason::Revision),
            Some(sidecar) if !unknown && !images.contains(&sidecar.image.as_str()) => {
                Some(RestartReason::Image)
            }
            Some(_) => None,
        };
        workload.live.iter().filter_map(judge).min()
    }
}

impl MemberObservation {
    /// Returns the tags of [`TAGS`] that no webhook of this member serves, because they were
    /// removed by others.
    pub fn missing_tags(&self) -> impl Iterator<Item = MeshTag> + '_ {
        let answered = |tag: &MeshTag| {
            let mut injectors = self.injectors.iter();
            injectors.any(|injector| injector.value == tag.as_str())
        };
        MeshTag::ALL.into_iter().filter(move |tag| !answered(tag))
    }
}

/// Proxy as seen by the istiod that it is connected to. All of this is the proxy's own statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyObservation {
    /// Name of the proxy, `pod.namespace`.
    pub proxy: String,
    /// Member cluster that the proxy claims to be in.
    pub member: String,
    /// Revision that the proxy is connected to.
    pub revision: RevisionName,
    /// Istio version that the proxy claims to run.
    pub version: String,
    /// True if the proxy has acknowledged all configuration that was sent to it.
    pub synced: bool,
    /// Error with which the proxy last rejected configuration; `None` without one.
    pub error: Option<String>,
    /// True when no such pod exists. Such a proxy blocks a retirement all the same.
    pub ghost: bool,
}

/// State of one member cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberObservation {
    /// Name of the member cluster.
    pub member: Name,
    /// Version of Kubernetes, major and minor.
    pub kubernetes: (u32, u32),
    /// Namespaces of the cluster, except for its own. The mesh's own namespace is listed if it has
    /// workloads or pods in the mesh.
    pub namespaces: Vec<NamespaceObservation>,
    /// Injection webhooks that exist in the cluster.
    pub injectors: Vec<Injector>,
    /// Webhook configurations of an Istio that is not ours, as `kind/name`.
    pub foreign: Vec<String>,
}

/// Creates the problem that webhooks of another Istio block the mesh, with the command that removes
/// their remains.
pub fn foreign_istio_problem(place: &str, webhooks: &[String]) -> Problem {
    /// Most webhooks that one message lists.
    const MAX_LISTED_WEBHOOKS: usize = 20;
    let named = &webhooks[..webhooks.len().min(MAX_LISTED_WEBHOOKS)];
    let more = match webhooks.len() - named.len() {
        0 => String::new(),
        left => format!(" and {left} more"),
    };
    let message = format!(
        "{place} has webhooks of an Istio that is not this mesh's: {}{more}.",
        named.join(", ")
    );
    let hint = format!(
        "If that Istio is in use, uninstall it with the tool that installed it. What is left of one that is gone is removed by `kubectl delete {}`. Then try again.",
        named.join(" ")
    );
    Problem::new(ProblemCode::ForeignIstio, message, hint)
}

/// Namespace with its workloads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceObservation {
    /// Name of the namespace.
    pub name: String,
    /// Injection labels of the namespace.
    pub labels: NamespaceLabels,
    /// Workloads in the namespace that own pods.
    pub workloads: Vec<WorkloadObservation>,
    /// Pods that no restart of ours can replace: bare pods, pods of Jobs, pods of unknown owners.
    pub unreachable: Vec<String>,
    /// True for the namespace of the mesh itself, in which gateways run. Their pods are replaced
    /// last.
    #[serde(default)]
    pub of_mesh: bool,
}

/// Workload with the sidecars of its live pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadObservation {
    /// Workload that was observed.
    pub workload: WorkloadRef,
    /// Injection labels of the workload's pod template.
    pub template: PodLabels,
    /// Sidecar of each live pod; `None` for a pod without a sidecar. Finished pods are left out.
    pub live: Vec<Option<Sidecar>>,
    /// Stamp that our last restart left on the pod template.
    pub stamp: Option<String>,
    /// Reason why no restart of ours can replace the pods; `None` if one can.
    pub stuck: Option<RestartBlocker>,
}

/// Reason why a change of the template would not replace a workload's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartBlocker {
    /// The Deployment is paused: a restart would wait for its owner.
    Paused,
    /// The update strategy is `OnDelete`.
    OnDelete,
    /// The `StatefulSet` has a partition: its pods with a lower ordinal keep the old template.
    Partition,
    /// The Gateway API controller owns the workload, which restarts by itself when its tag moves.
    SelfRolling,
    /// Another controller owns the workload and would revert the template.
    Owned,
}

closed_set!(RestartBlocker {
    Paused = "paused",
    OnDelete = "on_delete",
    Partition = "partition",
    SelfRolling = "self_rolling",
    Owned = "owned",
});
