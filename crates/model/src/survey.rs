//! What a worker saw in a mesh's clusters: the fresh observation that a plan is built from.

use serde::{Deserialize, Serialize};

use crate::injection::{Injector, NamespaceLabels, PodLabels};
use crate::operation::Problem;
use crate::plan::{Sidecar, WorkloadRef};
use crate::{Name, RevisionName};

/// Every member cluster of a mesh, seen at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The members, in the mesh's order: the config cluster first.
    pub members: Vec<MemberObservation>,
    /// The proxies that are connected to some replica of some revision.
    #[serde(default)]
    pub proxies: Vec<ProxyObservation>,
    /// What the mesh's revisions inject. Two entries of one revision: it is being replaced in place, and both are right.
    #[serde(default)]
    pub sidecars: Vec<Sidecar>,
}

/// The tags that every mesh has from its creation. Without a canary, `canary` points to the current revision.
pub const TAGS: [&str; 3] = ["stable", "default", "canary"];

/// Why a live pod of a workload is not as a new one would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartReason {
    /// It has no sidecar.
    NoSidecar,
    /// Another revision injected it.
    Revision,
    /// The right revision injected it, with another proxy image than it injects now.
    Image,
}

impl Observation {
    /// Why some live pod of a workload does not carry what a revision injects now; the gravest reason, and none where every
    /// pod does. Without knowledge of the images only revisions are compared.
    pub fn restart_reason(&self, workload: &WorkloadObservation, wanted: &RevisionName) -> Option<RestartReason> {
        let mut right = self.sidecars.iter().filter(|sidecar| sidecar.revision == *wanted).peekable();
        let unknown = right.peek().is_none();
        let images: Vec<&str> = right.map(|sidecar| sidecar.image.as_str()).collect();
        let judge = |carried: &Option<Sidecar>| match carried {
            None => Some(RestartReason::NoSidecar),
            Some(sidecar) if sidecar.revision != *wanted => Some(RestartReason::Revision),
            Some(sidecar) if !unknown && !images.contains(&sidecar.image.as_str()) => Some(RestartReason::Image),
            Some(_) => None,
        };
        workload.live.iter().filter_map(judge).min()
    }
}

impl MemberObservation {
    /// The tags of every mesh that no webhook answers to in this member: somebody removed them.
    pub fn missing_tags(&self) -> impl Iterator<Item = &'static str> + '_ {
        let answered = |tag: &&str| self.injectors.iter().any(|injector| injector.value == *tag);
        TAGS.into_iter().filter(move |tag| !answered(tag))
    }
}

/// One proxy as the istiod that it is connected to sees it. All of it is what the proxy says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyObservation {
    /// `pod.namespace`.
    pub proxy: String,
    /// The member cluster that it claims to be in.
    pub member: String,
    /// The revision that it is connected to.
    pub revision: RevisionName,
    /// The Istio version that it claims.
    pub version: String,
    /// Whether everything that was sent was acknowledged.
    pub synced: bool,
    /// What it last rejected.
    pub error: Option<String>,
    /// True when no such pod exists: it blocks a retirement all the same.
    pub ghost: bool,
}

/// One member cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberObservation {
    /// The cluster's name.
    pub member: Name,
    /// Kubernetes' version, major and minor.
    pub kubernetes: (u32, u32),
    /// Every namespace but the cluster's own and the mesh's.
    pub namespaces: Vec<NamespaceObservation>,
    /// The injection webhooks that there are.
    pub injectors: Vec<Injector>,
    /// Webhook configurations of an Istio that is not ours, as `kind/name`.
    pub foreign: Vec<String>,
}

/// Webhooks of another Istio stand in the way: all of them, with the command that removes what is left of it.
pub fn foreign_istio_problem(place: &str, webhooks: &[String]) -> Problem {
    /// The most that one message names.
    const MAX_LISTED_WEBHOOKS: usize = 20;
    let named = &webhooks[..webhooks.len().min(MAX_LISTED_WEBHOOKS)];
    let more = match webhooks.len() - named.len() {
        0 => String::new(),
        left => format!(" and {left} more"),
    };
    let message = format!("{place} has webhooks of an Istio that is not this mesh's: {}{more}.", named.join(", "));
    let hint = format!(
        "If that Istio is in use, uninstall it with the tool that installed it. What is left of one that is gone is removed by `kubectl delete {}`. Then try again.",
        named.join(" ")
    );
    Problem::new("foreign_istio", message, hint)
}

/// One namespace with its workloads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceObservation {
    /// Its name.
    pub name: String,
    /// Its injection labels.
    pub labels: NamespaceLabels,
    /// The workloads in it that own pods.
    pub workloads: Vec<WorkloadObservation>,
    /// Pods that no workload of ours can restart: bare pods, Jobs, unknown owners.
    pub unreachable: Vec<String>,
}

/// One workload and what its live pods carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadObservation {
    /// Which workload.
    pub workload: WorkloadRef,
    /// The labels of its pod template.
    pub template: PodLabels,
    /// What each live pod was injected with; `None` for a pod without a sidecar. Finished pods do not count.
    pub live: Vec<Option<Sidecar>>,
    /// The stamp that our last restart left on the template.
    pub stamp: Option<String>,
    /// Why no restart of ours can reach it, where that is so.
    pub stuck: Option<RestartBlocker>,
}

/// Why a template change would not replace a workload's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartBlocker {
    /// The Deployment is paused: a restart would wait for its owner.
    Paused,
    /// The update strategy is `OnDelete`.
    OnDelete,
    /// The Gateway API controller owns it: it rolls by itself when its tag moves.
    SelfRolling,
    /// Another controller owns it and would revert the template.
    Owned,
}

impl WorkloadObservation {
    /// True when some live pod does not carry the wanted sidecar (requirement D1). Annotations count, labels do not.
    pub fn needs_restart(&self, wanted: &Sidecar) -> bool {
        self.live.iter().any(|carried| carried.as_ref() != Some(wanted))
    }

    /// True when some live pod carries the revision.
    pub fn carries_revision(&self, revision: &RevisionName) -> bool {
        self.live.iter().any(|carried| carried.as_ref().is_some_and(|sidecar| sidecar.revision == *revision))
    }
}
