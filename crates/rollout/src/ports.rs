//! The door to a mesh's clusters, in the domain's words.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use async_trait::async_trait;
use model::Name;
use model::ids::OperationId;
use model::operation::Problem;
use model::plan::{InjectionRequest, Sidecar, Target, WorkloadRef};
use model::survey::Observation;
use model::version::RevisionName;

mod leaving;

pub use leaving::{TeardownInspection, AccountPresence};

/// One mesh's hosting cluster and member clusters.
#[async_trait]
pub trait MeshClusters: TeardownInspection {
    /// What is there now.
    ///
    /// # Errors
    /// The cluster did not answer or does not let us look.
    async fn observe_target(&self, target: &Target) -> Result<Observed, ClusterError>;

    /// Brings a target from what `seen` showed to a value; `None` removes it. Safe to repeat, never proof of success.
    ///
    /// # Errors
    /// The target has changed since it was seen, the permit has run out, or the cluster refused.
    async fn write_target(&self, target: &Target, to: Option<&str>, seen: &ObjectVersion, permit: &FencingToken) -> Result<(), ClusterError>;

    /// Changes nothing but the target's own version, so that writes that looked before are refused. A target that is
    /// absent is only fenced where it was to be created (`goal` says to what).
    ///
    /// # Errors
    /// As for [`World::set`].
    async fn fence_target(&self, target: &Target, goal: Option<&str>, permit: &FencingToken) -> Result<Fence, ClusterError>;

    /// A workload with its live pods; `None` when it is gone.
    ///
    /// # Errors
    /// As for [`World::look`].
    async fn observe_workload(&self, member: &Name, workload: &WorkloadRef) -> Result<Option<ObservedWorkload>, ClusterError>;

    /// Sends a pod through admission without creating it. `Err(reason)` inside means: not injected as wanted.
    ///
    /// # Errors
    /// As for [`World::look`].
    async fn probe_injection(&self, member: &Name, asks: &InjectionRequest, wanted: &Sidecar) -> Result<Result<(), String>, ClusterError>;

    /// Whether a member's policies take the pod that [`World::probe`] is made with. It asks for no sidecar here, so that no
    /// injector has a say.
    ///
    /// # Errors
    /// As for [`World::look`].
    async fn accepts_probes(&self, member: &Name) -> Result<bool, ClusterError>;

    /// Whether every replica of a revision is ready and reports every one of the members as synced.
    ///
    /// # Errors
    /// As for [`World::look`].
    async fn check_readiness(&self, revision: &RevisionName, members: &[Name]) -> Result<Readiness, ClusterError>;

    /// Who uses a revision. A cluster or replica that does not answer is `Unknown`, not an error. Members that are left
    /// behind are neither asked nor counted.
    ///
    /// # Errors
    /// As for [`World::look`].
    async fn check_usage(&self, revision: &RevisionName, left_behind: &[Name]) -> Result<Usage, ClusterError>;

    /// Istio's resources and Gateways in any member that name a revision by their own label, in words for people.
    ///
    /// # Errors
    /// As for [`World::look`].
    async fn list_pinned_resources(&self, revision: &RevisionName) -> Result<Vec<String>, ClusterError>;

    /// Every member, seen now.
    ///
    /// # Errors
    /// As for [`World::look`]; one silent member is enough.
    async fn observe_mesh(&self) -> Result<Observation, ClusterError>;

    /// Returns when something may have changed, and after a short while in any case.
    async fn wait_for_change(&self);
}

/// What a look showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The target's value; `None` is absence.
    pub value: Option<String>,
    /// Which version of the target that was.
    pub version: ObjectVersion,
    /// Whether the clusters have caught up with the value.
    pub readiness: Readiness,
    /// True for a target of several objects that was changed or removed in part: it is ours, and equals no value.
    pub partial: bool,
}

/// A version of a target: its identity and its generation in the cluster. Opaque outside the cluster that gave it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectVersion(pub String);

/// How far a fence reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// No write that looked before is accepted any more.
    Holds,
    /// The next turn with the target is refused. Its parts, and a target that is absent, carry no version that would refuse
    /// a write on its way: only the end of the earlier worker's lease ends those.
    UntilLeaseEnds,
}

/// Whether something that was written has come true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It has.
    Ready,
    /// Not yet, and why.
    Pending(String),
    /// It will not by itself.
    Failing(Problem),
}

/// A workload as its cluster shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedWorkload {
    /// Our restart stamp on the pod template.
    pub stamp: Option<String>,
    /// Which version of the workload that was.
    pub version: ObjectVersion,
    /// Its live pods.
    pub live: Vec<LivePod>,
    /// Whether the roll-out of its newest template has come to its end.
    pub rollout: Readiness,
}

/// A pod that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LivePod {
    /// What it was injected with.
    pub sidecar: Option<Sidecar>,
    /// True for a pod that is ending, or that an earlier template made: it goes without our doing.
    pub terminating: bool,
}

/// Who uses a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Usage {
    /// Nobody, as far as everybody answered.
    Unused,
    /// These do.
    InUse(Vec<String>),
    /// These did not answer: counts as used.
    Unknown(Vec<String>),
}

/// The right to write until a deadline, on behalf of one operation at one epoch.
#[derive(Debug, Clone)]
pub struct FencingToken {
    /// Whose write it is.
    pub operation: OperationId,
    /// Which claim of it.
    pub epoch: i64,
    /// After this nothing may be sent: another worker may have taken over.
    pub deadline: Deadline,
}

/// When a right to write ends. Clones share it, and each renewal of the lease moves it ahead, also for calls under way.
#[derive(Debug, Clone)]
pub struct Deadline(Arc<Mutex<Instant>>);

impl Deadline {
    /// Measured from before the claim was sent.
    pub fn at(instant: Instant) -> Self {
        Self(Arc::new(Mutex::new(instant)))
    }

    /// The instant as it is known now.
    pub fn instant(&self) -> Instant {
        *self.0.lock().expect("no holder panics")
    }

    /// Moves it to an instant measured from before the renewal was sent.
    pub fn move_to(&self, instant: Instant) {
        *self.0.lock().expect("no holder panics") = instant;
    }

    /// True when nothing may be sent any more.
    pub fn has_passed(&self) -> bool {
        Instant::now() >= self.instant()
    }
}

/// Why a cluster did not do what was asked; each variant says what to do.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ClusterError {
    /// Try again later: no answer.
    #[error("{place} does not answer")]
    Unreachable {
        /// Which cluster.
        place: String,
        /// The stable code of the problem that a longer silence becomes.
        code: &'static str,
        /// What was tried and how it failed.
        cause: String,
    },
    /// Look again: the target changed in between.
    #[error("{place} has changed in between")]
    Changed {
        /// What.
        place: String,
    },
    /// A person has to act: not allowed, or not accepted.
    #[error("{place} refused")]
    Refused {
        /// Which cluster.
        place: String,
        /// The stable code of the problem.
        code: &'static str,
        /// What it said, in our words.
        cause: String,
    },
    /// Stop at once: the lease may be over.
    #[error("the permit to write has run out")]
    Expired,
}

impl ClusterError {
    /// A cluster that does not answer, in our words.
    pub fn unreachable(place: impl Into<String>, cause: impl Into<String>) -> Self {
        Self::Unreachable { place: place.into(), code: crate::decide::CLUSTER_UNREACHABLE_CODE, cause: cause.into() }
    }

    /// The failure as a problem: its stable code, and its cause in our words.
    pub fn to_problem(&self, hint: &str) -> Problem {
        let (code, message) = match self {
            Self::Unreachable { code, cause, .. } | Self::Refused { code, cause, .. } => {
                (*code, format!("{self} ({cause})."))
            }
            Self::Changed { .. } => ("cluster_changed", format!("{self}.")),
            Self::Expired => ("try_again", "The attempt took too long.".to_owned()),
        };
        Problem::new(code, message, hint)
    }
}
