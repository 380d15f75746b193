//! Defines plans and their steps as data. A plan lists the work of one operation; it is stored with
//! the operation and never edited.
//!
//! Names and arguments in this module are stored in the database, so renaming one is a migration.

use serde::{Deserialize, Serialize};

use crate::{Name, RevisionName};

mod display;
mod former_pods;
mod planned_step;
pub mod rollout;
mod workload;

pub use former_pods::FormerPods;
pub use planned_step::PlannedStep;
use rollout::{OnFailure, RestartLimits, WorkloadSelection};
pub use workload::{WorkloadKind, WorkloadRef};

/// Thing in one cluster that a step moves from one value to another.
///
/// The value is a short text that stands for the whole state of the target: the version of applied
/// objects, the revision that a tag points to, a namespace's label, a workload's restart stamp. The
/// absence of the target is a state too.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "target", rename_all = "snake_case")]
pub enum Target {
    /// Namespace of the mesh in the hosting cluster, with the key and certificates of the mesh CA.
    /// Value: `present`.
    #[serde(rename = "home")]
    MeshNamespace,
    /// Limits of the mesh's namespace in the hosting cluster: Pod Security, quota, network policy.
    /// Value: `present`, or `outdated` when the applied limits differ from the limits that are
    /// right by now, for example because the addresses of a member have changed.
    Limits,
    /// System namespace of the mesh and our service accounts in a member cluster. Value: `present`.
    #[serde(rename = "foothold")]
    MemberBootstrap {
        /// Member cluster that holds the namespace.
        member: Name,
    },
    /// Access of the control planes in the hosting cluster to a member. Value: `present`.
    #[serde(rename = "link")]
    RemoteAccess {
        /// Member cluster that the control planes reach.
        member: Name,
    },
    /// Address at which the member clusters reach a revision. Value: `present`.
    Address {
        /// Revision that the address belongs to.
        revision: RevisionName,
    },
    /// Istio's custom resource definitions, which belong to the cluster. Value: the release that
    /// they came from.
    Crds {
        /// Member cluster that holds the definitions.
        member: Name,
    },
    /// Objects of a revision in a member: roles, service, injection webhook. Value: the release.
    MemberObjects {
        /// Member cluster that holds the objects.
        member: Name,
        /// Revision that the objects belong to.
        revision: RevisionName,
    },
    /// Root certificates that istiod writes into every namespace of a member and does not remove.
    /// Value: `present`.
    Certificates {
        /// Member cluster that holds the certificates.
        member: Name,
    },
    /// istiod of a revision in the hosting cluster. Value: the release.
    ControlPlane {
        /// Revision that the istiod serves.
        revision: RevisionName,
    },
    /// Webhook of a revision tag in a member. Value: the revision that it points to.
    Tag {
        /// Member cluster that holds the webhook.
        member: Name,
        /// Name of the tag, such as `stable`.
        tag: String,
    },
    /// Default validation webhook, which exists in the config cluster only. Value: the revision
    /// that it points to.
    Validator {
        /// Config cluster of the mesh.
        member: Name,
    },
    /// Injection label of a namespace. Value: `key=value`.
    NamespaceLabel {
        /// Member cluster that holds the namespace.
        member: Name,
        /// Namespace that carries the label.
        namespace: String,
    },
    /// Pods of a workload. Value: our restart stamp on its pod template.
    Workload {
        /// Member cluster that holds the workload.
        member: Name,
        /// Workload that owns the pods.
        workload: WorkloadRef,
    },
}

/// Entry of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Moves a target from one value to another; `None` stands for absence.
    Set {
        /// Target that is moved.
        #[serde(flatten)]
        target: Target,
        /// Value that was there when the plan was built.
        from: Option<String>,
        /// Value that the step brings about.
        to: Option<String>,
    },
    /// Replaces the pods of a workload until the wanted revision has injected each live one.
    Restart {
        /// Member cluster that holds the workload.
        member: Name,
        /// Workload whose pods are replaced.
        workload: WorkloadRef,
        /// Sidecar that each live pod must carry at the end.
        wanted: Sidecar,
        /// Stamp that is written on the pod template to replace the pods.
        stamp: Stamp,
    },
    /// Replaces pods until none is left that has to be replaced. The step looks again and again, and
    /// adds a [`Step::Restart`] to its wave for each workload that it finds, because pods come and
    /// go while the roll-out runs.
    Converge {
        /// Pods of which none may be left at the end; `None` if there are no such pods.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        off: Option<FormerPods>,
        /// True if every pod is replaced that differs from the pod that its workload would create
        /// now: without a sidecar, of another revision, or with another proxy image.
        outdated: bool,
        /// Namespaces whose workloads are restarted, each with its member; `None` for all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespaces: Option<Vec<(Name, String)>>,
        /// Workloads that are restarted; `None` for all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        selection: Option<WorkloadSelection>,
        /// Number of workloads whose restart may fail before no further restart begins; at least 1.
        max_failures: usize,
        /// Limits of the restarts that are under way at once.
        #[serde(default)]
        limits: RestartLimits,
        /// True if pods are evicted that a changed template does not replace.
        #[serde(default)]
        evict: bool,
        /// What the step does when only workloads are left that cannot be restarted.
        #[serde(default)]
        on_failure: OnFailure,
    },
    /// Waits between two waves of a roll-out, so that faults of the new sidecar can show. If the wave
    /// before it restarted nothing, there is nothing to wait for.
    Soak {
        /// Length of the wait in seconds, counted from the end of the wave.
        seconds: u32,
    },
    /// Evicts a pod that no workload owns which we can restart. Its controller creates it again.
    Evict {
        /// Member cluster that holds the pod.
        member: Name,
        /// Namespace of the pod.
        namespace: String,
        /// Identity of the pod, as `name/uid`.
        pod: String,
    },
    /// Proves by a dry run of admission that a revision injects pods with a label value.
    Probe {
        /// Member cluster in which the dry run is made.
        member: Name,
        /// Label by which the pod requests injection.
        asks: InjectionRequest,
        /// Sidecar that the pod must come back with.
        wanted: Sidecar,
    },
    /// Waits until every replica of a revision is ready and reports every member as synced.
    AwaitReady {
        /// Revision whose replicas must be ready.
        revision: RevisionName,
        /// Members that each replica must report as synced.
        members: Vec<Name>,
    },
    /// Waits until nothing in any member uses a revision. An unknown use counts as a use.
    AwaitUnused {
        /// Revision that must be unused.
        revision: RevisionName,
        /// Members that are left behind. They are not asked for users of the revision, but none of
        /// them may answer, and none of their proxies may be connected.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left_behind: Vec<Name>,
        /// True if a tag of the mesh that points to the revision counts as a use. The deletion of a
        /// mesh removes its tags in a later step, so they do not count there.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        own_tags: bool,
    },
    /// Waits until a look at a member finds no object of the mesh.
    AwaitGone {
        /// Member cluster in which no object may be left.
        member: Name,
    },
    /// Proves that a member still does not answer. A mesh whose objects were not removed there is
    /// deleted only after this proof.
    LeaveBehind {
        /// Member cluster that is left behind.
        member: Name,
    },
}

/// Sidecar that a pod carries, or must carry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sidecar {
    /// Revision that injected it, from the pod's annotation `istio.io/rev`.
    pub revision: RevisionName,
    /// Image of the proxy container.
    pub image: String,
}

/// Restart stamp, the annotation that a restart writes on the pod template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Stamp {
    /// Value that belongs to this operation: writing it again does not replace the pods again.
    Fresh,
    /// Value from before the upgrade, so that the workload returns to its pods' former template.
    Former {
        /// Former value; `None` removes our annotation.
        value: Option<String>,
    },
    /// The template stays as it is, and the pods with another sidecar are evicted one after the
    /// other. A rollback does this where a changed template would not replace the pods.
    Evict,
}

/// Way in which the pod of a probe requests injection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InjectionRequest {
    /// The pod has the label `istio.io/rev` with this value.
    Rev(String),
    /// The pod has the label `sidecar.istio.io/inject=true`, which the tag `default` selects.
    Default,
}

/// Steps that run side by side, at most `width` of them at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    /// Purpose of the wave, shown to the user.
    pub title: String,
    /// Number of steps that may be under way at once; at least 1.
    pub width: usize,
    /// Steps of the wave, in any order.
    pub steps: Vec<Step>,
}

/// Waves in order. A wave starts when every step of the wave before it is done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Waves of the plan, from the first to the last.
    pub waves: Vec<Wave>,
}

impl Plan {
    /// Adds a wave whose steps may all run at once. A wave without steps is left out.
    #[must_use]
    pub fn with_wave(
        self,
        title: impl Into<String>,
        steps: impl IntoIterator<Item = Step>,
    ) -> Self {
        self.with_limited_wave(title, usize::MAX, steps)
    }

    /// Adds a wave with at most `width` steps under way at once. A wave without steps is left out.
    #[must_use]
    pub fn with_limited_wave(
        mut self,
        title: impl Into<String>,
        width: usize,
        steps: impl IntoIterator<Item = Step>,
    ) -> Self {
        let steps: Vec<Step> = steps.into_iter().collect();
        if !steps.is_empty() {
            self.waves.push(Wave {
                title: title.into(),
                width: width.max(1),
                steps,
            });
        }
        self
    }

    /// Adds the waves of another plan behind these.
    #[must_use]
    pub fn followed_by(mut self, other: Self) -> Self {
        self.waves.extend(other.waves);
        self
    }

    /// Returns true for a plan without work.
    pub fn is_empty(&self) -> bool {
        self.waves.is_empty()
    }
}

impl Step {
    /// Returns the member cluster that the step talks to; `None` for the hosting cluster or for all
    /// members.
    pub fn member(&self) -> Option<&Name> {
        match self {
            Self::Set { target, .. } => target.member(),
            Self::Restart { member, .. }
            | Self::Evict { member, .. }
            | Self::Probe { member, .. }
            | Self::AwaitGone { member }
            | Self::LeaveBehind { member } => Some(member),
            Self::Converge { .. }
            | Self::Soak { .. }
            | Self::AwaitReady { .. }
            | Self::AwaitUnused { .. } => None,
        }
    }

    /// Returns true for a step that evicts pods instead of changing their template.
    pub fn evicts_pods(&self) -> bool {
        matches!(
            self,
            Self::Evict { .. }
                | Self::Restart {
                    stamp: Stamp::Evict,
                    ..
                }
        )
    }

    /// Returns the target that the step writes. A later claim fences this target.
    pub fn written_target(&self) -> Option<Target> {
        match self {
            Self::Set { target, .. } => Some(target.clone()),
            Self::Restart {
                member, workload, ..
            } => Some(Target::Workload {
                member: member.clone(),
                workload: workload.clone(),
            }),
            Self::Converge { .. }
            | Self::Soak { .. }
            | Self::Evict { .. }
            | Self::Probe { .. }
            | Self::AwaitReady { .. }
            | Self::AwaitUnused { .. }
            | Self::AwaitGone { .. }
            | Self::LeaveBehind { .. } => None,
        }
    }
}

impl Target {
    /// Returns the member cluster that holds the target; `None` for the hosting cluster.
    pub fn member(&self) -> Option<&Name> {
        match self {
            Self::MeshNamespace
            | Self::Limits
            | Self::RemoteAccess { .. }
            | Self::Address { .. }
            | Self::ControlPlane { .. } => None,
            Self::MemberBootstrap { member }
            | Self::Crds { member }
            | Self::MemberObjects { member, .. }
            | Self::Certificates { member }
            | Self::Tag { member, .. }
            | Self::Validator { member }
            | Self::NamespaceLabel { member, .. }
            | Self::Workload { member, .. } => Some(member),
        }
    }
}

#[cfg(test)]
mod tests;
