//! Plans and steps as data: what an operation will do, stored with it and never edited.
//!
//! Names and arguments here are stored in the database: renaming one is a migration.

use serde::{Deserialize, Serialize};

use crate::{Name, RevisionName};

/// What a step is about: one thing in one place, whose whole state is a short text.
///
/// The text is what the step moves: the version of applied objects, the revision that a tag points to, a namespace's
/// label, a workload's restart stamp. Absence is a state too.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "target", rename_all = "snake_case")]
pub enum Target {
    /// The mesh's namespace in the hosting cluster with its authority's key and certificates. Value: `present`.
    Home,
    /// What the mesh's namespace in the hosting cluster may do: Pod Security, quota, traffic. Value: `present`; `outdated`
    /// where they are not what they ought to be by now, because a member's addresses have changed, for example.
    Limits,
    /// The mesh's system namespace and our accounts in a member cluster. Value: `present`.
    Foothold {
        /// The member cluster.
        member: Name,
    },
    /// What lets the hosted control planes reach a member. Value: `present`.
    Link {
        /// The member cluster.
        member: Name,
    },
    /// The address that a revision is reached at from the member clusters. Value: `present`.
    Address {
        /// The revision.
        revision: RevisionName,
    },
    /// Istio's custom resource definitions, which belong to the cluster. Value: the release they came from.
    Crds {
        /// The member cluster.
        member: Name,
    },
    /// A revision's objects in a member: roles, service, injection webhook. Value: the release.
    MemberObjects {
        /// The member cluster.
        member: Name,
        /// The revision.
        revision: RevisionName,
    },
    /// The root certificates that istiod writes into every namespace of a member, and leaves behind. Value: `present`.
    Certificates {
        /// The member cluster.
        member: Name,
    },
    /// A revision's istiod in the hosting cluster. Value: the release.
    ControlPlane {
        /// The revision.
        revision: RevisionName,
    },
    /// A revision tag's webhook in a member. Value: the revision it points to.
    Tag {
        /// The member cluster.
        member: Name,
        /// The tag's name.
        tag: String,
    },
    /// The default validation webhook, in the config cluster only. Value: the revision it points to.
    Validator {
        /// The config cluster.
        member: Name,
    },
    /// A namespace's injection label. Value: `key=value`.
    NamespaceLabel {
        /// The member cluster.
        member: Name,
        /// The namespace.
        namespace: String,
    },
    /// A workload's pods. Value: our restart stamp on its pod template.
    Workload {
        /// The member cluster.
        member: Name,
        /// The workload.
        workload: WorkloadRef,
    },
}

/// A workload that owns pods and can roll them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkloadRef {
    /// Its namespace.
    pub namespace: String,
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
}

/// The kinds whose pods a template change replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadKind {
    /// `apps/v1 Deployment`.
    Deployment,
    /// `apps/v1 StatefulSet`.
    StatefulSet,
    /// `apps/v1 DaemonSet`.
    DaemonSet,
}

/// One entry of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Moves a target from one value to another; `None` is absence.
    Set {
        /// What is moved.
        #[serde(flatten)]
        target: Target,
        /// The value that the plan found.
        from: Option<String>,
        /// The value that the step brings about.
        to: Option<String>,
    },
    /// Replaces a workload's pods until every live one is injected by the wanted revision.
    Restart {
        /// The member cluster.
        member: Name,
        /// The workload.
        workload: WorkloadRef,
        /// What every live pod must carry at the end.
        wanted: Sidecar,
        /// What is written on the pod template to bring it about.
        stamp: Stamp,
    },
    /// Proves by a dry-run admission that a label value is injected by a revision.
    Probe {
        /// The member cluster.
        member: Name,
        /// How the pod asks for injection.
        asks: InjectionRequest,
        /// What the pod must come back with.
        wanted: Sidecar,
    },
    /// Waits until every replica of a revision is ready and reports every member as synced.
    AwaitReady {
        /// The revision.
        revision: RevisionName,
        /// The members that must be synced.
        members: Vec<Name>,
    },
    /// Waits until nothing in any member uses a revision. Unknown counts as used.
    AwaitUnused {
        /// The revision.
        revision: RevisionName,
        /// Members that are left behind: what uses the revision there does not count.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left_behind: Vec<Name>,
    },
    /// Waits until a look at a member shows nothing of the mesh.
    AwaitGone {
        /// The member cluster.
        member: Name,
    },
    /// Proves that a member still does not answer, before the mesh is gone without having been removed there.
    LeaveBehind {
        /// The member cluster.
        member: Name,
    },
}

/// What a pod was injected with, or must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sidecar {
    /// The revision in its `istio.io/rev` annotation.
    pub revision: RevisionName,
    /// The proxy's image.
    pub image: String,
}

/// What a restart writes on the pod template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Stamp {
    /// A value of this operation's own: the pods are replaced once, however often it is written.
    Fresh,
    /// What was there before the upgrade, so that the workload returns to the pods' former template.
    Former {
        /// The former value; `None` takes our annotation off.
        value: Option<String>,
    },
}

/// How a probe pod asks for injection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InjectionRequest {
    /// By the label `istio.io/rev` with this value.
    Rev(String),
    /// By `sidecar.istio.io/inject=true`, which the tag `default` answers to.
    Default,
}

/// Steps that run side by side, at most `width` of them at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    /// What the wave is for, shown to the user.
    pub title: String,
    /// How many steps may be under way at once; at least 1.
    pub width: usize,
    /// The steps.
    pub steps: Vec<Step>,
}

/// Waves in order. A wave starts when every step of the one before it is done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The waves.
    pub waves: Vec<Wave>,
}

impl Plan {
    /// Adds a wave whose steps may all run at once; an empty one is left out.
    #[must_use]
    pub fn with_wave(self, title: impl Into<String>, steps: impl IntoIterator<Item = Step>) -> Self {
        self.with_limited_wave(title, usize::MAX, steps)
    }

    /// Adds a wave with at most `width` steps under way.
    #[must_use]
    pub fn with_limited_wave(mut self, title: impl Into<String>, width: usize, steps: impl IntoIterator<Item = Step>) -> Self {
        let steps: Vec<Step> = steps.into_iter().collect();
        if !steps.is_empty() {
            self.waves.push(Wave { title: title.into(), width: width.max(1), steps });
        }
        self
    }

    /// Adds the waves of another plan.
    #[must_use]
    pub fn followed_by(mut self, other: Self) -> Self {
        self.waves.extend(other.waves);
        self
    }

    /// How many steps there are.
    pub fn step_count(&self) -> usize {
        self.waves.iter().map(|wave| wave.steps.len()).sum()
    }

    /// True for a plan that has nothing to do.
    pub fn is_empty(&self) -> bool {
        self.waves.is_empty()
    }
}

impl Step {
    /// The member cluster that the step talks to; `None` for the hosting cluster or all of them.
    pub fn member(&self) -> Option<&Name> {
        match self {
            Self::Set { target, .. } => target.member(),
            Self::Restart { member, .. }
            | Self::Probe { member, .. }
            | Self::AwaitGone { member }
            | Self::LeaveBehind { member } => Some(member),
            Self::AwaitReady { .. } | Self::AwaitUnused { .. } => None,
        }
    }

    /// The target that the step writes to: what a later claim fences.
    pub fn written_target(&self) -> Option<Target> {
        match self {
            Self::Set { target, .. } => Some(target.clone()),
            Self::Restart { member, workload, .. } => {
                Some(Target::Workload { member: member.clone(), workload: workload.clone() })
            }
            Self::Probe { .. }
            | Self::AwaitReady { .. }
            | Self::AwaitUnused { .. }
            | Self::AwaitGone { .. }
            | Self::LeaveBehind { .. } => None,
        }
    }
}

impl Target {
    /// The member cluster that holds the target; `None` for the hosting cluster.
    pub fn member(&self) -> Option<&Name> {
        match self {
            Self::Home | Self::Limits | Self::Link { .. } | Self::Address { .. } | Self::ControlPlane { .. } => None,
            Self::Foothold { member }
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

impl std::fmt::Display for WorkloadRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            WorkloadKind::Deployment => "deployment",
            WorkloadKind::StatefulSet => "statefulset",
            WorkloadKind::DaemonSet => "daemonset",
        };
        write!(f, "{}/{kind}/{}", self.namespace, self.name)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Home => write!(f, "namespace and authority of the mesh"),
            Self::Limits => write!(f, "limits of the mesh's namespace"),
            Self::Foothold { member } => write!(f, "system namespace and accounts in {member}"),
            Self::Link { member } => write!(f, "access of the control planes to {member}"),
            Self::Address { revision } => write!(f, "address of {revision}"),
            Self::Crds { member } => write!(f, "custom resource definitions in {member}"),
            Self::MemberObjects { member, revision } => write!(f, "objects of {revision} in {member}"),
            Self::Certificates { member } => write!(f, "root certificates in the namespaces of {member}"),
            Self::ControlPlane { revision } => write!(f, "control plane {revision}"),
            Self::Tag { member, tag } => write!(f, "tag {tag} in {member}"),
            Self::Validator { member } => write!(f, "default validation in {member}"),
            Self::NamespaceLabel { member, namespace } => write!(f, "label of namespace {namespace} in {member}"),
            Self::Workload { member, workload } => write!(f, "{workload} in {member}"),
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Set { target, to: Some(to), .. } => write!(f, "{target} → {to}"),
            Self::Set { target, to: None, .. } => write!(f, "remove {target}"),
            Self::Restart { member, workload, wanted, .. } => {
                write!(f, "restart {workload} in {member} onto {}", wanted.revision)
            }
            Self::Probe { member, asks: InjectionRequest::Rev(value), wanted } => {
                write!(f, "dry run in {member}: istio.io/rev={value} is injected by {}", wanted.revision)
            }
            Self::Probe { member, asks: InjectionRequest::Default, wanted } => {
                write!(f, "dry run in {member}: istio-injection=enabled is injected by {}", wanted.revision)
            }
            Self::AwaitReady { revision, .. } => write!(f, "wait until {revision} is ready and synced"),
            Self::AwaitUnused { revision, .. } => write!(f, "wait until nothing uses {revision}"),
            Self::AwaitGone { member } => write!(f, "look that nothing is left in {member}"),
            Self::LeaveBehind { member } => write!(f, "leave {member} behind, which does not answer"),
        }
    }
}
