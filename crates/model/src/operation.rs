//! Defines operations: each is one machine action that ends by itself and never waits for a person.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::problem::ProblemCode;
use crate::{OpenEnum, closed_set};

mod progress;

pub use progress::{Progress, StepEvent, StepState};

/// Kind of an operation. The written form is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Connects to a cluster for the first time and creates our service accounts in it.
    RegisterCluster,
    /// Replaces the credential that we hold for a cluster, with an overlap.
    RenewCredential,
    /// Removes our service account from a cluster and deletes the registration.
    DeregisterCluster,
    /// Installs a mesh in its member clusters.
    CreateMesh,
    /// Removes a mesh from its clusters.
    DeleteMesh,
    /// Restarts workloads whose pods do not carry the wanted revision.
    Restart,
    /// Changes the injection label of a namespace.
    SetInjection,
    /// Stage of an upgrade: looks for reasons that block the upgrade, before anything is changed.
    Precheck,
    /// Stage of an upgrade: brings up the target version.
    Deploy,
    /// Stage of an upgrade: moves chosen namespaces to the canary.
    Move,
    /// Stage of an upgrade: makes the canary the current revision.
    Promote,
    /// Stage of an upgrade: restores the tags that a failed promotion has moved.
    Restore,
    /// Stage of an upgrade: restarts the workloads that still run the old sidecar.
    Roll,
    /// Stage of an upgrade: removes the old revision.
    Retire,
    /// Stage of an upgrade: restores the values that the upgrade changed.
    Rollback,
}

impl OperationKind {
    /// Returns true for kinds that talk to a cluster which has not proved itself yet. Such a
    /// cluster may keep a worker waiting for a long time.
    pub fn may_stall_worker(self) -> bool {
        matches!(self, Self::RegisterCluster | Self::RenewCredential)
    }

    /// Kinds that replace pods: their plan looks for workloads until none is left.
    pub const ROLLOUTS: [Self; 4] = [Self::Restart, Self::Roll, Self::Move, Self::Rollback];

    /// Returns true for kinds that replace pods.
    pub fn is_rollout(self) -> bool {
        Self::ROLLOUTS.contains(&self)
    }

    /// Returns true for kinds that can go on without the workloads that they could not restart.
    pub fn can_skip_workloads(self) -> bool {
        matches!(self, Self::Restart | Self::Move | Self::Roll)
    }

    /// Returns true for the stages of an upgrade that a rollback can follow. A retirement is one of
    /// them until its first removal.
    pub fn can_be_rolled_back(self) -> bool {
        matches!(
            self,
            Self::Deploy | Self::Move | Self::Promote | Self::Restore | Self::Roll | Self::Retire
        )
    }
}

closed_set!(OperationKind {
    RegisterCluster = "register_cluster",
    RenewCredential = "renew_credential",
    DeregisterCluster = "deregister_cluster",
    CreateMesh = "create_mesh",
    DeleteMesh = "delete_mesh",
    Restart = "restart",
    SetInjection = "set_injection",
    Precheck = "precheck",
    Deploy = "deploy",
    Move = "move",
    Promote = "promote",
    Restore = "restore",
    Roll = "roll",
    Retire = "retire",
    Rollback = "rollback",
});

/// State of an operation, with the data that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum OperationState {
    /// No worker has claimed the operation yet.
    Queued,
    /// A worker has claimed the operation.
    Running,
    /// The operation waits, and no worker holds it until then.
    Waiting {
        /// Reason for the wait, in words for the user.
        reason: String,
        /// Time at which a worker looks again.
        until: Timestamp,
        /// Time at which the wait began, which may have been for another reason. Absent in rows of
        /// earlier versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Timestamp>,
        /// Time since which no cluster has answered; absent while the operation waits for something
        /// else.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        silent_since: Option<Timestamp>,
    },
    /// A person requested a pause, and calls under way are ending.
    Pausing,
    /// The operation stands still. From the moment at which this state is visible, no cluster
    /// accepts a write of ours.
    Paused {
        /// Reason for the pause, with a hint for the user.
        problem: Problem,
    },
    /// A person requested the cancellation.
    Cancelling,
    /// The operation reached its goal.
    Succeeded,
    /// The operation failed, and no more work will be done.
    Failed {
        /// Reason for the failure, with a hint for the user.
        problem: Problem,
    },
    /// The operation ended because a person cancelled it.
    Cancelled,
    /// The operation ended because a rollback took its place.
    Superseded,
}

/// Name of an operation's state, without the data that belongs to it. [`OperationState`] says what
/// each state means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationStateName {
    /// Name of [`OperationState::Queued`].
    Queued,
    /// Name of [`OperationState::Running`].
    Running,
    /// Name of [`OperationState::Waiting`].
    Waiting,
    /// Name of [`OperationState::Pausing`].
    Pausing,
    /// Name of [`OperationState::Paused`].
    Paused,
    /// Name of [`OperationState::Cancelling`].
    Cancelling,
    /// Name of [`OperationState::Succeeded`].
    Succeeded,
    /// Name of [`OperationState::Failed`].
    Failed,
    /// Name of [`OperationState::Cancelled`].
    Cancelled,
    /// Name of [`OperationState::Superseded`].
    Superseded,
}

closed_set!(OperationStateName {
    Queued = "queued",
    Running = "running",
    Waiting = "waiting",
    Pausing = "pausing",
    Paused = "paused",
    Cancelling = "cancelling",
    Succeeded = "succeeded",
    Failed = "failed",
    Cancelled = "cancelled",
    Superseded = "superseded",
});

/// Problem that stops an operation, in words for the user. `code` is stable and documented.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable identifier of the kind of problem. Another version of the service can have stored a
    /// code that this version does not know.
    pub code: OpenEnum<ProblemCode>,
    /// Description of the problem in this case.
    pub message: String,
    /// Advice for the user on how to solve the problem.
    pub hint: String,
}

/// Problem codes of a cluster that is silent or too slow.
const UNREACHABLE_CODES: [ProblemCode; 5] = [
    ProblemCode::AnswerTooSlow,
    ProblemCode::ClusterUnreachable,
    ProblemCode::ContactTooSlow,
    ProblemCode::ListTooSlow,
    ProblemCode::LookTooSlow,
];

/// Problem codes of a cluster that refuses every call of ours.
const ACCESS_DENIED_CODES: [ProblemCode; 2] =
    [ProblemCode::AddressRefused, ProblemCode::CredentialExpired];

/// Returns true if a problem code says that we have lost the cluster: it is silent or slow, or
/// refuses every call of ours. A cluster that answers and refuses one call is not lost.
pub fn is_cluster_lost_code(code: ProblemCode) -> bool {
    UNREACHABLE_CODES.contains(&code) || ACCESS_DENIED_CODES.contains(&code)
}

/// Advice in hints that names the rollback. Each hint that advises a rollback ends with these words,
/// so that they can be removed where an operation has no rollback.
pub const ROLLBACK_ADVICE: &str = ", or roll back";

/// Advice in hints that names the verb `skip`, in the words that [`Problem::without_skip`] removes.
pub const SKIP_ADVICE: &str = ", skip what is left";

impl Problem {
    /// Creates a problem from its three parts.
    pub fn new(
        code: impl Into<OpenEnum<ProblemCode>>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// Returns true if a cluster gave no answer or no complete one. The worker asks the cluster
    /// again before the operation waits for a person.
    pub fn is_unreachable(&self) -> bool {
        self.code
            .known()
            .is_some_and(|code| UNREACHABLE_CODES.contains(&code))
    }

    /// Returns true if we have lost the cluster, as [`is_cluster_lost_code`] defines it. A code that
    /// this version does not know proves nothing.
    pub fn is_cluster_lost(&self) -> bool {
        self.code.known().is_some_and(is_cluster_lost_code)
    }

    /// Returns true for a roll-out that restarted all workloads except those that the problem names.
    pub fn is_partial_rollout(&self) -> bool {
        self.code.known() == Some(ProblemCode::RolloutPartial)
    }

    /// Returns the problem with a hint that does not advise a rollback, for an operation that has
    /// none.
    #[must_use]
    pub fn without_rollback(self) -> Self {
        Self {
            hint: self.hint.replace(ROLLBACK_ADVICE, ""),
            ..self
        }
    }

    /// Returns the problem with a hint that does not advise to skip what is left, for an operation
    /// that does not take that verb.
    #[must_use]
    pub fn without_skip(self) -> Self {
        Self {
            hint: self.hint.replace(SKIP_ADVICE, ""),
            ..self
        }
    }

    /// Returns the problem of an operation that a person paused.
    pub fn paused_by_user() -> Self {
        Self::new(
            ProblemCode::PausedByUser,
            "Paused on request.",
            "Resume it to go on, or roll back.",
        )
    }
}

impl OperationState {
    /// Returns the name of the state, without its data.
    pub fn name(&self) -> OperationStateName {
        match self {
            Self::Queued => OperationStateName::Queued,
            Self::Running => OperationStateName::Running,
            Self::Waiting { .. } => OperationStateName::Waiting,
            Self::Pausing => OperationStateName::Pausing,
            Self::Paused { .. } => OperationStateName::Paused,
            Self::Cancelling => OperationStateName::Cancelling,
            Self::Succeeded => OperationStateName::Succeeded,
            Self::Failed { .. } => OperationStateName::Failed,
            Self::Cancelled => OperationStateName::Cancelled,
            Self::Superseded => OperationStateName::Superseded,
        }
    }

    /// Returns the stored name of the state, without its data.
    pub fn as_str(&self) -> &'static str {
        self.name().as_str()
    }

    /// Returns true for a final state.
    pub fn is_terminal(&self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed { .. } | Self::Cancelled | Self::Superseded
        )
    }

    /// Returns true for an operation that is paused because some workloads could not be restarted.
    pub fn is_partial_rollout(&self) -> bool {
        matches!(self, Self::Paused { problem } if problem.is_partial_rollout())
    }

    /// Returns true when a person has to act.
    pub fn needs_attention(&self) -> bool {
        matches!(self, Self::Paused { .. } | Self::Failed { .. })
    }
}

/// Request of a person to a running operation. Signals are numbered rows, and the worker reads them
/// in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Stop the work and keep it as it is.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Go on after a failure, and try the failed step again.
    Retry,
    /// End the operation without finishing it.
    Cancel,
    /// Go on without the workloads that could not be restarted.
    Skip,
}

closed_set!(Signal {
    Pause = "pause",
    Resume = "resume",
    Retry = "retry",
    Cancel = "cancel",
    Skip = "skip",
});

/// Signal of a person, to the whole operation or to one of its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestedSignal {
    /// Request of the person.
    pub signal: Signal,
    /// Number of the only step that the signal is about, from 0; `None` for the whole operation.
    /// [`Signal::Retry`] and [`Signal::Skip`] can have one.
    pub item: Option<i32>,
}

impl From<Signal> for RequestedSignal {
    fn from(signal: Signal) -> Self {
        Self { signal, item: None }
    }
}

#[cfg(test)]
mod tests;
