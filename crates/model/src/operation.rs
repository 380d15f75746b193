//! Operations: one machine action that ends by itself and never waits for a person.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What an operation does. The written form is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Connects to a cluster for the first time and makes our accounts in it.
    RegisterCluster,
    /// Replaces the credential that we hold of a cluster, with an overlap.
    RenewCredential,
    /// Removes our account from a cluster and forgets the cluster.
    DeregisterCluster,
    /// Brings a mesh up in its member clusters.
    CreateMesh,
    /// Takes a mesh down.
    DeleteMesh,
    /// Restarts workloads whose pods do not carry the wanted revision.
    Restart,
    /// Changes a namespace's injection label.
    SetInjection,
    /// Upgrade: looks for what stands in the way.
    Precheck,
    /// Upgrade: brings the target up.
    Deploy,
    /// Upgrade: moves chosen namespaces to the canary.
    Move,
    /// Upgrade: makes the canary current.
    Promote,
    /// Upgrade: puts the tags back that a failed promotion has moved.
    Restore,
    /// Upgrade: restarts the workloads that still run the old sidecar.
    Roll,
    /// Upgrade: removes the old revision.
    Retire,
    /// Upgrade: restores what the upgrade changed.
    Rollback,
}

impl OperationKind {
    /// Every kind there is.
    pub const ALL: [Self; 15] = [
        Self::RegisterCluster,
        Self::RenewCredential,
        Self::DeregisterCluster,
        Self::CreateMesh,
        Self::DeleteMesh,
        Self::Restart,
        Self::SetInjection,
        Self::Precheck,
        Self::Deploy,
        Self::Move,
        Self::Promote,
        Self::Restore,
        Self::Roll,
        Self::Retire,
        Self::Rollback,
    ];

    /// True for kinds that talk to a cluster which has not proved itself yet: it may keep a worker waiting for long.
    pub fn may_stall_worker(self) -> bool {
        matches!(self, Self::RegisterCluster | Self::RenewCredential)
    }

    /// The stored form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RegisterCluster => "register_cluster",
            Self::RenewCredential => "renew_credential",
            Self::DeregisterCluster => "deregister_cluster",
            Self::CreateMesh => "create_mesh",
            Self::DeleteMesh => "delete_mesh",
            Self::Restart => "restart",
            Self::SetInjection => "set_injection",
            Self::Precheck => "precheck",
            Self::Deploy => "deploy",
            Self::Move => "move",
            Self::Promote => "promote",
            Self::Restore => "restore",
            Self::Roll => "roll",
            Self::Retire => "retire",
            Self::Rollback => "rollback",
        }
    }
}

/// Where an operation stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum OperationState {
    /// Nobody has taken it up yet.
    Queued,
    /// A worker has it.
    Running,
    /// Nobody holds it until then.
    Waiting {
        /// What it waits for.
        reason: String,
        /// When it is looked at again.
        until: Timestamp,
        /// When it began to wait, also for other reasons before this one. Absent in rows of earlier versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Timestamp>,
        /// Since when no cluster has answered; absent while it waits for something else.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        silent_since: Option<Timestamp>,
    },
    /// A pause was asked for; calls under way are ending.
    Pausing,
    /// Stands still. From the moment this is visible, no cluster accepts a write of ours.
    Paused {
        /// Why.
        problem: Problem,
    },
    /// A cancellation was asked for.
    Cancelling,
    /// Ended well.
    Succeeded,
    /// Ended badly; nothing more will happen.
    Failed {
        /// Why.
        problem: Problem,
    },
    /// Ended because somebody asked.
    Cancelled,
    /// Ended because a rollback took its place.
    Superseded,
}

/// Why something stands still, in words for the user. `code` is stable and documented.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable identifier, for example `workload_not_ready`.
    pub code: String,
    /// What happened here.
    pub message: String,
    /// What the user can do.
    pub hint: String,
}

/// Codes of problems that a cluster's silence or slowness is.
const UNREACHABLE_CODES: [&str; 5] =
    ["answer_too_slow", "cluster_unreachable", "contact_too_slow", "list_too_slow", "look_too_slow"];

/// Codes of problems with which a cluster refuses every call of ours.
const ACCESS_DENIED_CODES: [&str; 2] = ["address_refused", "credential_expired"];

/// Whether the problem of a code says that a cluster is lost to us: it is silent or slow, or refuses every call of ours. A
/// cluster that answers and refuses one call is not lost.
pub fn is_cluster_lost_code(code: &str) -> bool {
    UNREACHABLE_CODES.contains(&code) || ACCESS_DENIED_CODES.contains(&code)
}

impl Problem {
    /// A problem with its three parts.
    pub fn new(code: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), hint: hint.into() }
    }

    /// Whether a cluster did not answer, or not to the end: it is asked again before a person is.
    pub fn is_unreachable(&self) -> bool {
        UNREACHABLE_CODES.contains(&self.code.as_str())
    }

    /// The problem of an operation that a person paused.
    pub fn paused_by_user() -> Self {
        Self::new("paused_by_user", "Paused on request.", "Resume it to go on, or roll back.")
    }
}

impl OperationState {
    /// The stored form of the state alone.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Waiting { .. } => "waiting",
            Self::Pausing => "pausing",
            Self::Paused { .. } => "paused",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded",
        }
    }

    /// True for an end: nothing follows it.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed { .. } | Self::Cancelled | Self::Superseded)
    }

    /// True when a person has to do something.
    pub fn needs_attention(&self) -> bool {
        matches!(self, Self::Paused { .. } | Self::Failed { .. })
    }
}

/// What a person asks of a running operation. Wishes are numbered rows; the worker reads them in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Stand still.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Go on after a failure, trying what failed again.
    Retry,
    /// End without finishing.
    Cancel,
}

impl Signal {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Pause, Self::Resume, Self::Retry, Self::Cancel];

    /// The stored form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry => "retry",
            Self::Cancel => "cancel",
        }
    }
}

/// What a step left behind, in the order it was recorded. Facts are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum StepEvent {
    /// Committed before the first effect: what was there, which is what an undo restores. The first capture wins.
    Started {
        /// The value found; `None` is absence.
        capture: Option<String>,
    },
    /// A look showed the goal.
    Done,
    /// It cannot go on by itself.
    Failed {
        /// Why.
        problem: Problem,
    },
    /// A person asked to try again after a failure.
    Retried,
}

/// What the facts of one step add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// The first capture, once the step was started.
    pub capture: Option<Option<String>>,
    /// The goal was seen.
    pub done: bool,
    /// It stands still.
    pub failed: Option<Problem>,
    /// How often a person asked to try again; part of the restart stamp.
    pub attempt: u32,
}

impl Progress {
    /// Takes one more fact into account.
    pub fn apply_event(&mut self, fact: &StepEvent) {
        match fact {
            StepEvent::Started { capture } => {
                self.capture.get_or_insert_with(|| capture.clone());
            }
            StepEvent::Done => {
                self.done = true;
                self.failed = None;
            }
            StepEvent::Failed { problem } => self.failed = Some(problem.clone()),
            StepEvent::Retried => {
                self.failed = None;
                self.attempt += 1;
            }
        }
    }

    /// True from the first commitment to an effect: the step may have run.
    pub fn is_started(&self) -> bool {
        self.capture.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_of_a_kind_is_its_serialised_form() {
        for kind in OperationKind::ALL {
            assert_eq!(serde_json::to_value(kind).expect("a name"), kind.as_str());
        }
    }

    #[test]
    fn the_first_capture_wins_and_a_retry_clears_the_failure() {
        let mut progress = Progress::default();
        let problem = Problem::new("x", "x", "x");
        for fact in [
            StepEvent::Started { capture: None },
            StepEvent::Failed { problem },
            StepEvent::Retried,
            StepEvent::Started { capture: Some("later".into()) },
            StepEvent::Done,
        ] {
            progress.apply_event(&fact);
        }
        assert_eq!(progress, Progress { capture: Some(None), done: true, failed: None, attempt: 1 });
    }
}
