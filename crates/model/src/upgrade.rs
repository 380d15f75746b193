//! Defines upgrades, which a person follows from one version of a mesh to another, and back.
//!
//! The state machine has two functions: [`UpgradeState::on_verb`] for the requests of people, and
//! [`UpgradeState::on_outcome`] for the end of a stage's operation. Both are total: every pair has
//! an answer.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::operation::{OperationKind, Problem, Signal};
use crate::problem::ProblemCode;
use crate::rules::{Severity, Strategy};
use crate::{OpenEnum, closed_set};

mod transitions;

/// State of an upgrade, with the data that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum UpgradeState {
    /// The upgrade was planned, and no cluster was changed.
    Planned,
    /// The precheck is running.
    Prechecking,
    /// The precheck found reasons that stop the upgrade.
    Blocked {
        /// Findings of the precheck.
        findings: Vec<Finding>,
    },
    /// The target version is being brought up.
    Deploying,
    /// Both revisions serve. A person decides on the promotion, or the choice `auto` does.
    Verifying {
        /// True while chosen namespaces are being moved to the canary.
        moving: bool,
        /// Reason for which the last promotion failed. The tags that it had switched are restored.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<Problem>,
    },
    /// The tags are being switched to the new revision.
    Promoting,
    /// The promotion failed in clusters that answer, and the tags that it switched are being
    /// switched back.
    Restoring {
        /// Reason for which the promotion failed.
        problem: Problem,
    },
    /// Workloads are being restarted.
    Rolling,
    /// The upgrade is complete for the user. The old revision is kept, so that one call can roll
    /// back.
    Holding {
        /// Time at which the old revision is removed by itself.
        until: Timestamp,
    },
    /// The old revision is being removed.
    Retiring {
        /// True once the first removal was recorded: a rollback is no longer possible.
        irrevocable: bool,
    },
    /// The upgrade stands still in the middle of a stage.
    Paused {
        /// Stage that the upgrade continues with, never a pause itself. Only
        /// `UpgradeState::into_paused` creates this state.
        #[serde(deserialize_with = "read_paused_stage")]
        from: Box<UpgradeState>,
        /// Reason for the pause, with a hint for the user.
        problem: Problem,
    },
    /// Steps that were started are being undone.
    RollingBack,
    /// The target version is current, and the old revision is gone.
    Succeeded,
    /// The mesh is as it was before the upgrade.
    RolledBack,
    /// The upgrade ended before any cluster was changed.
    Cancelled,
    /// The upgrade was given up, because a forced deletion of its mesh took over, or because its
    /// own row could not be read.
    Abandoned {
        /// Objects that were left, for a person to remove.
        leftovers: Vec<String>,
    },
}

/// Name of an upgrade's state, without the data that belongs to it. [`UpgradeState`] says what each
/// state means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpgradeStateName {
    /// Name of [`UpgradeState::Planned`].
    Planned,
    /// Name of [`UpgradeState::Prechecking`].
    Prechecking,
    /// Name of [`UpgradeState::Blocked`].
    Blocked,
    /// Name of [`UpgradeState::Deploying`].
    Deploying,
    /// Name of [`UpgradeState::Verifying`].
    Verifying,
    /// Name of [`UpgradeState::Promoting`].
    Promoting,
    /// Name of [`UpgradeState::Restoring`].
    Restoring,
    /// Name of [`UpgradeState::Rolling`].
    Rolling,
    /// Name of [`UpgradeState::Holding`].
    Holding,
    /// Name of [`UpgradeState::Retiring`].
    Retiring,
    /// Name of [`UpgradeState::Paused`].
    Paused,
    /// Name of [`UpgradeState::RollingBack`].
    RollingBack,
    /// Name of [`UpgradeState::Succeeded`].
    Succeeded,
    /// Name of [`UpgradeState::RolledBack`].
    RolledBack,
    /// Name of [`UpgradeState::Cancelled`].
    Cancelled,
    /// Name of [`UpgradeState::Abandoned`].
    Abandoned,
}

closed_set!(UpgradeStateName {
    Planned = "planned",
    Prechecking = "prechecking",
    Blocked = "blocked",
    Deploying = "deploying",
    Verifying = "verifying",
    Promoting = "promoting",
    Restoring = "restoring",
    Rolling = "rolling",
    Holding = "holding",
    Retiring = "retiring",
    Paused = "paused",
    RollingBack = "rolling_back",
    Succeeded = "succeeded",
    RolledBack = "rolled_back",
    Cancelled = "cancelled",
    Abandoned = "abandoned",
});

/// Finding of a precheck about one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Severity of the finding; `block` stops the upgrade.
    pub severity: Severity,
    /// Stable identifier of the kind of finding. Another version of the service can have stored a
    /// code that this version does not know.
    pub code: OpenEnum<ProblemCode>,
    /// Object that the finding is about, as text for people.
    pub object: String,
    /// Description of the problem in this case.
    pub message: String,
    /// Advice for the user on how to solve the problem.
    pub hint: String,
}

/// Request of a person to an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Start a planned upgrade with its precheck.
    Start,
    /// End the upgrade before any cluster is changed.
    Cancel,
    /// Go on in spite of the warnings of the precheck.
    Acknowledge,
    /// Try again what failed: the precheck, or the failed steps of the paused stage.
    Retry,
    /// Move chosen namespaces to the canary.
    Move,
    /// Make the canary the current revision.
    Promote,
    /// Stop the work and keep it as it is.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Restore the state from before the upgrade.
    Rollback,
    /// Remove the old revision now.
    Retire,
    /// Go on without the workloads that the roll-out could not restart. The old revision is kept as
    /// long as they use it.
    Skip,
    /// Give the upgrade up for a forced deletion of its mesh; no client can ask for this verb.
    Abandon,
}

closed_set!(Verb {
    Start = "start",
    Cancel = "cancel",
    Acknowledge = "acknowledge",
    Retry = "retry",
    Move = "move",
    Promote = "promote",
    Pause = "pause",
    Resume = "resume",
    Rollback = "rollback",
    Retire = "retire",
    Skip = "skip",
    Abandon = "abandon",
});

/// Effect of a transition besides the new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Starts the operation of a stage. An operation that is under way is superseded.
    StartOperation(OperationKind),
    /// Sends a signal to the operation that is under way.
    Signal(Signal),
    /// Lets the operation run now, although it waits for a time.
    RunNow,
    /// Finishes the upgrade and frees the mesh for other changes.
    Finish,
    /// No effect besides the new state.
    Nothing,
}

/// Treatment of namespaces whose label names the old revision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelPolicy {
    /// They are relabelled in the roll-out, and get their former label back in a rollback.
    #[default]
    Relabel,
    /// They keep their label, which becomes a tag of the new revision. This is for labels that
    /// another tool owns.
    Alias,
    /// They block the upgrade until their label is changed.
    Block,
}

closed_set!(LabelPolicy {
    Relabel = "relabel",
    Alias = "alias",
    Block = "block",
});

/// Choices that were made when the upgrade was planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradePolicyChoice {
    /// Strategy of the upgrade: in place or canary.
    pub strategy: Strategy,
    /// True if the promotion starts without a person once the canary is up.
    pub auto: bool,
    /// Seconds that the old revision is kept after the roll-out, from 0 (removed at once) to
    /// 2,592,000 (30 days, the limit of the API).
    pub hold_seconds: u32,
    /// True if warnings of the precheck do not stop the upgrade.
    pub accept_warnings: bool,
    /// Treatment of namespaces whose label names the old revision.
    #[serde(default)]
    pub labels: LabelPolicy,
}

/// End of a stage's operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StageOutcome {
    /// The operation reached its goal.
    Succeeded,
    /// The precheck ended with these findings.
    Found(Vec<Finding>),
    /// The operation stands still because of this problem.
    Paused(Problem),
    /// The operation failed after a part of its work. All clusters that it changed answer, so its
    /// writes can be undone at once.
    Failed(Problem),
    /// A person cancelled the operation.
    Cancelled,
}

/// Error for a verb that is not allowed in the state.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an upgrade that is {state} cannot {verb:?}")]
pub struct InvalidTransition {
    /// Name of the state that refused the verb.
    pub state: &'static str,
    /// Verb that was refused.
    pub verb: Verb,
    /// Verbs that a person can send in this state.
    pub allowed: Vec<Verb>,
}

impl UpgradeState {
    /// Returns the name of the state, without its data.
    pub fn name(&self) -> UpgradeStateName {
        match self {
            Self::Planned => UpgradeStateName::Planned,
            Self::Prechecking => UpgradeStateName::Prechecking,
            Self::Blocked { .. } => UpgradeStateName::Blocked,
            Self::Deploying => UpgradeStateName::Deploying,
            Self::Verifying { .. } => UpgradeStateName::Verifying,
            Self::Promoting => UpgradeStateName::Promoting,
            Self::Restoring { .. } => UpgradeStateName::Restoring,
            Self::Rolling => UpgradeStateName::Rolling,
            Self::Holding { .. } => UpgradeStateName::Holding,
            Self::Retiring { .. } => UpgradeStateName::Retiring,
            Self::Paused { .. } => UpgradeStateName::Paused,
            Self::RollingBack => UpgradeStateName::RollingBack,
            Self::Succeeded => UpgradeStateName::Succeeded,
            Self::RolledBack => UpgradeStateName::RolledBack,
            Self::Cancelled => UpgradeStateName::Cancelled,
            Self::Abandoned { .. } => UpgradeStateName::Abandoned,
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
            Self::Succeeded | Self::RolledBack | Self::Cancelled | Self::Abandoned { .. }
        )
    }
}

/// Reads the stage that a pause continues with. Rows of earlier releases may hold a pause within a
/// pause.
fn read_paused_stage<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Box<UpgradeState>, D::Error> {
    let mut read = Box::<UpgradeState>::deserialize(from)?;
    while let UpgradeState::Paused { from, .. } = *read {
        read = from;
    }
    Ok(read)
}

#[cfg(test)]
mod tests;
