//! Interface to the clusters of a mesh, in the terms of the domain.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use async_trait::async_trait;
use meshwright_model::Name;
use meshwright_model::ids::OperationId;
use meshwright_model::observation::Observation;
use meshwright_model::operation::Problem;
use meshwright_model::plan::{InjectionRequest, Sidecar, Target, WorkloadRef};
use meshwright_model::problem::ProblemCode;
use meshwright_model::version::RevisionName;

mod leaving;
mod usage;

pub use leaving::{AccountPresence, TeardownInspection};
pub use usage::{RevisionUser, RevisionUsers, UserKind, UserSearch};

/// The hosting cluster and the member clusters of one mesh.
#[async_trait]
pub trait MeshClusters: TeardownInspection {
    /// Observes the present value of a target.
    ///
    /// # Errors
    /// Returns [`ClusterError::Unreachable`] when the cluster does not answer, and
    /// [`ClusterError::Refused`] when it denies the read.
    async fn observe_target(&self, target: &Target) -> Result<Observed, ClusterError>;

    /// Checks whether a target in a member, which has this value, names a former address of its
    /// control plane. A mesh that is created again gets new addresses, and a member that had been
    /// left behind still has the former ones. This costs two or three reads of its own.
    ///
    /// # Errors
    /// Returns the same errors as [`MeshClusters::observe_target`].
    async fn names_former_address(
        &self,
        target: &Target,
        value: &str,
    ) -> Result<bool, ClusterError>;

    /// Writes a target, from the version that `seen` names to a value; `None` removes the target.
    /// The call is safe to repeat, and its success does not prove that the target has its value.
    ///
    /// # Errors
    /// Returns [`ClusterError::Changed`] when the target has changed since it was observed,
    /// [`ClusterError::Expired`] when the fencing token has expired, and the errors of
    /// [`MeshClusters::observe_target`].
    async fn write_target(
        &self,
        target: &Target,
        to: Option<&str>,
        seen: &ObjectVersion,
        permit: &FencingToken,
    ) -> Result<(), ClusterError>;

    /// Fences a target: changes only its version, so that writes based on an earlier version are
    /// refused. An absent target is only fenced if it was to be created; `goal` is then the value
    /// that it was to get.
    ///
    /// # Errors
    /// Returns the same errors as [`MeshClusters::write_target`].
    async fn fence_target(
        &self,
        target: &Target,
        goal: Option<&str>,
        permit: &FencingToken,
    ) -> Result<Fence, ClusterError>;

    /// Observes a workload with its live pods. Returns `None` when the workload does not exist.
    ///
    /// # Errors
    /// Returns the same errors as [`MeshClusters::observe_target`].
    async fn observe_workload(
        &self,
        member: &Name,
        workload: &WorkloadRef,
    ) -> Result<Option<ObservedWorkload>, ClusterError>;

    /// Sends a pod through admission without creating it (`dryRun=All`). The inner `Err(reason)`
    /// means that the pod was not injected as wanted.
    ///
    /// # Errors
    /// Returns the same errors as [`MeshClusters::observe_target`].
    async fn probe_injection(
        &self,
        member: &Name,
        asks: &InjectionRequest,
        wanted: &Sidecar,
    ) -> Result<Result<(), String>, ClusterError>;

    /// Asks which sidecar a new pod of each of these workloads would get: a pod of the workload's
    /// own template goes through admission without being created (`dryRun=All`). Only the cluster
    /// knows all that decides it: annotations that opt out, `hostNetwork`, a pinned proxy image, the
    /// webhooks of others. A workload that does not exist is missing in the result.
    ///
    /// # Errors
    /// Returns the same errors as [`MeshClusters::observe_target`]. A pod that is refused is no
    /// error, but [`NextPod::Refused`].
    async fn ask_next_pods(
        &self,
        member: &Name,
        workloads: &[WorkloadRef],
    ) -> Result<BTreeMap<WorkloadRef, NextPod>, ClusterError>;

    /// Checks whether a member's policies accept the pod of [`MeshClusters::probe_injection`]. The
    /// pod of this check requests no sidecar, so that no injector affects the result.
    ///
    /// # Errors
    /// Returns the same errors as [`MeshClusters::observe_target`].
    async fn accepts_probes(&self, member: &Name) -> Result<bool, ClusterError>;

    /// Observes a pod. Returns `None` when the pod is gone or another one has its name.
    ///
    /// # Errors
    /// Returns the same errors as [`MeshClusters::observe_target`].
    async fn observe_pod(
        &self,
        member: &Name,
        namespace: &str,
        pod: &ObjectVersion,
    ) -> Result<Option<LivePod>, ClusterError>;

    /// Asks a member to evict a pod, within the disruption budgets of its owner. `pod` is the version
    /// that a look has shown; a pod of the same name that was created since is not evicted.
    ///
    /// # Errors
    /// Returns [`ClusterError::Changed`] when the pod is gone, [`ClusterError::Delayed`] when a budget allows no disruption now,
    /// and the errors of [`MeshClusters::write_target`].
    async fn evict_pod(
        &self,
        member: &Name,
        namespace: &str,
        pod: &ObjectVersion,
        permit: &FencingToken,
    ) -> Result<(), ClusterError>;

    /// Checks whether every replica of a revision is ready and reports all of these members as
    /// synced.
    ///
    /// # Errors
    /// Returns the same errors as [`MeshClusters::observe_target`].
    async fn check_readiness(
        &self,
        revision: &RevisionName,
        members: &[Name],
    ) -> Result<Readiness, ClusterError>;

    /// Lists the users of a revision. A cluster or replica that does not answer is named as silent
    /// and leads to no error.
    ///
    /// # Errors
    /// Returns the same errors as [`MeshClusters::observe_target`].
    async fn list_users(&self, search: &UserSearch<'_>) -> Result<RevisionUsers, ClusterError>;

    /// Lists the Istio resources and Gateways in any member whose own label names a revision, as
    /// text for people.
    ///
    /// # Errors
    /// Returns the same errors as [`MeshClusters::observe_target`].
    async fn list_pinned_resources(
        &self,
        revision: &RevisionName,
    ) -> Result<Vec<String>, ClusterError>;

    /// Observes all members of the mesh at one time.
    ///
    /// # Errors
    /// Returns the same errors as [`MeshClusters::observe_target`]; one member that does not answer
    /// is enough.
    async fn observe_mesh(&self) -> Result<Observation, ClusterError>;

    /// Waits until a cluster may have changed, for a short time at most.
    async fn wait_for_change(&self);
}

/// Result of the observation of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Value of the target; `None` means that the target is absent.
    pub value: Option<String>,
    /// Version of the target that was observed.
    pub version: ObjectVersion,
    /// State of the clusters in applying the value.
    pub readiness: Readiness,
    /// True for a target of several objects of which only a part was changed or removed. The target
    /// is ours, and its state equals no value.
    pub partial: bool,
    /// True for a field of a user's object, such as the label of a namespace, if the object does not
    /// exist. The users remove their objects, and we never create them, so nothing is left to write.
    /// False for a target of which we create the object.
    pub gone: bool,
}

/// Version of a target: its identity and its generation in the cluster. The text has no meaning
/// outside the cluster that issued it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectVersion(pub String);

/// Effect of a fence on earlier writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// No write that is based on an earlier version is accepted any more.
    Holds,
    /// The next change of the target as a whole is refused. Its parts, and an absent target, have
    /// no version that could refuse a write on its way; only the end of the earlier worker's lease
    /// stops such a write.
    UntilLeaseEnds,
}

/// Whether a written target has taken effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// The target has taken effect.
    Ready,
    /// The target has not taken effect yet, for this reason.
    Pending(String),
    /// The target will not take effect without help, because of this problem.
    Failing(Problem),
}

/// A workload with its live pods, as observed in its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedWorkload {
    /// Restart stamp that we wrote on the pod template; `None` if there is none.
    pub stamp: Option<String>,
    /// Version of the workload that was observed.
    pub version: ObjectVersion,
    /// Live pods of the workload.
    pub live: Vec<LivePod>,
    /// State of the rollout of the workload's newest pod template.
    pub rollout: Readiness,
    /// Number of pods that the newest template has made, as the controller counts them.
    pub updated: usize,
    /// True if a changed template makes the controller take the next pod at once, although an
    /// earlier one does not serve yet. A `DaemonSet` does so, and a `StatefulSet` that manages its
    /// pods in parallel: they wait only for pods of the newest template.
    pub takes_next_at_once: bool,
}

/// Admission's answer to a new pod of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextPod {
    /// The pod would start with this sidecar.
    Injected(Sidecar),
    /// The pod would start without a sidecar, so the workload is not in the mesh.
    NotInjected,
    /// The pod would not start: a quota, a policy or a webhook refuses it, for this reason. A quota
    /// that the restart itself frees is no such reason if the labels tell the sidecar.
    Refused(String),
}

/// A live pod of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LivePod {
    /// Identity of the pod: its name and its uid.
    pub version: ObjectVersion,
    /// Whether the pod serves.
    pub readiness: PodReadiness,
    /// True if the pod is being deleted.
    pub deleted: bool,
    /// Sidecar that the pod was injected with; `None` if it has none.
    pub sidecar: Option<Sidecar>,
    /// True for a pod that terminates or that belongs to an earlier pod template: it disappears
    /// without a restart by us.
    pub terminating: bool,
}

/// Whether a pod serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodReadiness {
    /// The pod serves.
    Ready,
    /// The pod does not serve yet, or not at present.
    Starting,
    /// A container of the pod does not start, for example because it crashes again and again or
    /// because its image is missing. Waiting does not make such a pod serve.
    Broken,
}

/// Right to write to clusters until a deadline, for one operation at one epoch.
#[derive(Debug, Clone)]
pub struct FencingToken {
    /// Operation that the writes belong to.
    pub operation: OperationId,
    /// Epoch of the claim that the writes belong to.
    pub epoch: i64,
    /// Deadline after which no write may be sent, because another worker may have taken the
    /// operation over.
    pub deadline: Deadline,
}

/// End of a right to write. All clones share one instant, so each renewal of the lease extends the
/// right, also for the later requests of a write that is under way.
#[derive(Debug, Clone)]
pub struct Deadline(Arc<Mutex<Instant>>);

impl Deadline {
    /// Creates a deadline at an instant that is counted from before the claim was sent.
    pub fn at(instant: Instant) -> Self {
        Self(Arc::new(Mutex::new(instant)))
    }

    /// Returns the present instant of the deadline.
    pub fn instant(&self) -> Instant {
        *self.0.lock().expect("no holder panics")
    }

    /// Moves the deadline to an instant that is counted from before the renewal was sent.
    pub fn move_to(&self, instant: Instant) {
        *self.0.lock().expect("no holder panics") = instant;
    }

    /// Returns true when no write may be sent any more.
    pub fn has_passed(&self) -> bool {
        Instant::now() >= self.instant()
    }
}

/// Reason why a cluster did not do what was asked. Each variant says what the caller has to do.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ClusterError {
    /// The cluster did not answer: try again later.
    #[error("{place} does not answer")]
    Unreachable {
        /// Cluster that did not answer, as text for people.
        place: String,
        /// Stable code of the problem that a longer silence becomes.
        code: ProblemCode,
        /// Cause in our words: the call that was tried and how it failed.
        cause: String,
    },
    /// The target changed between the check and the write: check again.
    #[error("{place} has changed in between")]
    Changed {
        /// Cluster or target that changed, as text for people.
        place: String,
    },
    /// The cluster does not allow the call now, but may later, such as an eviction that a disruption
    /// budget forbids.
    #[error("{place} cannot be changed now")]
    Delayed {
        /// Target that stays as it is, as text for people.
        place: String,
        /// Cause in our words.
        cause: String,
    },
    /// The cluster denied or rejected the call: a person has to act.
    #[error("{place} refused")]
    Refused {
        /// Cluster that refused the call, as text for people.
        place: String,
        /// Stable code of the problem.
        code: ProblemCode,
        /// Cause that the cluster gave, in our words.
        cause: String,
    },
    /// The fencing token has expired and the lease may have ended: stop at once.
    #[error("the fencing token has expired")]
    Expired,
}

impl ClusterError {
    /// Builds the error of a cluster that does not answer, with the cause in our words.
    pub fn unreachable(place: impl Into<String>, cause: impl Into<String>) -> Self {
        Self::Unreachable {
            place: place.into(),
            code: ProblemCode::ClusterUnreachable,
            cause: cause.into(),
        }
    }

    /// Returns the error as a problem, with its stable code and its cause in our words.
    pub fn to_problem(&self, hint: &str) -> Problem {
        let (code, message) = match self {
            Self::Unreachable { code, cause, .. } | Self::Refused { code, cause, .. } => {
                (*code, format!("{self} ({cause})."))
            }
            Self::Changed { .. } => (ProblemCode::ClusterChanged, format!("{self}.")),
            Self::Delayed { cause, .. } => (ProblemCode::TryAgain, format!("{self}: {cause}.")),
            Self::Expired => (
                ProblemCode::TryAgain,
                "The attempt took too long.".to_owned(),
            ),
        };
        Problem::new(code, message, hint)
    }
}
