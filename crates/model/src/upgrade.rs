//! Upgrades: the long story that a person follows from one version to another, and back.
//!
//! The state machine is two functions: [`UpgradeState::on_verb`] for what people ask and [`UpgradeState::on_outcome`] for
//! how a stage's operation ended. Both are total: every pair has an answer.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::operation::{OperationKind, Problem, Signal};
use crate::rules::{Severity, Strategy};

/// Where an upgrade stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum UpgradeState {
    /// Nothing was touched.
    Planned,
    /// The precheck runs.
    Prechecking,
    /// The precheck found something.
    Blocked {
        /// What it found.
        findings: Vec<Finding>,
    },
    /// The target is brought up.
    Deploying,
    /// Both revisions serve; a person, or the policy `auto`, decides.
    Verifying {
        /// Chosen namespaces are being moved right now.
        moving: bool,
        /// Why the last promotion failed; what it had written is restored.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<Problem>,
    },
    /// The tags are switched.
    Promoting,
    /// The promotion failed in clusters that answer: the tags that it switched are switched back.
    Restoring {
        /// Why it failed.
        problem: Problem,
    },
    /// Workloads are restarted.
    Rolling,
    /// Complete for the user; the old revision is kept, one call back.
    Holding {
        /// When the old revision goes by itself.
        until: Timestamp,
    },
    /// The old revision is removed.
    Retiring {
        /// The first removal was committed to: there is no way back.
        irrevocable: bool,
    },
    /// Stands still in the middle of a stage.
    Paused {
        /// The state that it goes on from: never a pause itself. Made by `UpgradeState::pause` alone.
        #[serde(deserialize_with = "read_paused_stage")]
        from: Box<UpgradeState>,
        /// Why.
        problem: Problem,
    },
    /// What was started is restored.
    RollingBack,
    /// The target is current and alone.
    Succeeded,
    /// Everything is as it was before.
    RolledBack,
    /// Ended before anything was touched.
    Cancelled,
    /// Given up by an operator.
    Abandoned {
        /// What is left for somebody to clean up.
        leftovers: Vec<String>,
    },
}

/// What a precheck found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Whether it stands in the way.
    pub severity: Severity,
    /// Stable identifier.
    pub code: String,
    /// The object that it is about, for people.
    pub object: String,
    /// What is wrong.
    pub message: String,
    /// What helps.
    pub hint: String,
}

/// What a person asks of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Begin.
    Start,
    /// End before anything was touched.
    Cancel,
    /// Go on in spite of warnings.
    Acknowledge,
    /// Try again what failed.
    Retry,
    /// Move chosen namespaces to the canary.
    Move,
    /// Make the canary current.
    Promote,
    /// Stand still.
    Pause,
    /// Go on.
    Resume,
    /// Restore what was.
    Rollback,
    /// Remove the old revision now.
    Retire,
    /// Give up (operators only).
    Abandon,
}

impl Verb {
    /// Every verb there is.
    pub const ALL: [Self; 11] = [
        Self::Start,
        Self::Cancel,
        Self::Acknowledge,
        Self::Retry,
        Self::Move,
        Self::Promote,
        Self::Pause,
        Self::Resume,
        Self::Rollback,
        Self::Retire,
        Self::Abandon,
    ];
}

/// What follows from a transition besides the new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A stage's operation begins; one under way is superseded.
    StartOperation(OperationKind),
    /// The operation under way is told.
    Signal(Signal),
    /// The operation that waits for its time may run now.
    RunNow,
    /// The upgrade is over: the mesh is free for other changes.
    Finish,
    /// Nothing.
    Nothing,
}

/// What becomes of namespaces that name the old revision explicitly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelPolicy {
    /// They are relabelled in the roll-out, and get their label back in a rollback.
    #[default]
    Relabel,
    /// They keep their label, which becomes a name of the new revision: for labels that something else than us owns.
    Alias,
    /// They stand in the way of the upgrade.
    Block,
}

/// The choices made when the upgrade was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradePolicyChoice {
    /// In place or by canary.
    pub strategy: Strategy,
    /// Promote without a person once the canary is up.
    pub auto: bool,
    /// How long the old revision is kept after the roll-out, in seconds.
    pub hold_seconds: u32,
    /// Warnings of the precheck do not stop it.
    pub accept_warnings: bool,
    /// What becomes of namespaces that name the old revision.
    #[serde(default)]
    pub labels: LabelPolicy,
}

/// How a stage's operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StageOutcome {
    /// It did what it was for.
    Succeeded,
    /// A precheck ended with findings.
    Found(Vec<Finding>),
    /// It stands still.
    Paused(Problem),
    /// It failed with some of it done, and all that it touched answers: what was written can be restored at once.
    Failed(Problem),
    /// It was cancelled on request.
    Cancelled,
}

/// A verb that does not fit the state.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an upgrade that is {state} cannot {verb:?}")]
pub struct InvalidTransition {
    /// The state's name.
    pub state: &'static str,
    /// What was asked.
    pub verb: Verb,
    /// What may be asked.
    pub allowed: Vec<Verb>,
}

impl UpgradeState {
    /// The stored form of the state alone.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Prechecking => "prechecking",
            Self::Blocked { .. } => "blocked",
            Self::Deploying => "deploying",
            Self::Verifying { .. } => "verifying",
            Self::Promoting => "promoting",
            Self::Restoring { .. } => "restoring",
            Self::Rolling => "rolling",
            Self::Holding { .. } => "holding",
            Self::Retiring { .. } => "retiring",
            Self::Paused { .. } => "paused",
            Self::RollingBack => "rolling_back",
            Self::Succeeded => "succeeded",
            Self::RolledBack => "rolled_back",
            Self::Cancelled => "cancelled",
            Self::Abandoned { .. } => "abandoned",
        }
    }

    /// True for an end: nothing follows it.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Succeeded | Self::RolledBack | Self::Cancelled | Self::Abandoned { .. })
    }

    /// What may be asked in this state.
    pub fn allowed_verbs(&self) -> Vec<Verb> {
        Verb::ALL.into_iter().filter(|verb| self.clone().transition_for(*verb).is_some()).collect()
    }

    /// What a verb leads to.
    ///
    /// # Errors
    /// The verb does not fit the state; nothing happens.
    pub fn on_verb(self, verb: Verb) -> Result<(Self, Effect), InvalidTransition> {
        let refused = InvalidTransition { state: self.as_str(), verb, allowed: self.allowed_verbs() };
        self.transition_for(verb).ok_or(refused)
    }

    fn transition_for(self, verb: Verb) -> Option<(Self, Effect)> {
        use OperationKind as Kind;
        use Verb as V;
        Some(match (self, verb) {
            (Self::Planned, V::Start) | (Self::Blocked { .. }, V::Retry) => {
                (Self::Prechecking, Effect::StartOperation(Kind::Precheck))
            }
            (Self::Planned | Self::Blocked { .. }, V::Cancel) => (Self::Cancelled, Effect::Finish),
            (Self::Prechecking, V::Cancel) => (Self::Prechecking, Effect::Signal(Signal::Cancel)),
            (Self::Blocked { findings }, V::Acknowledge) if has_no_blocker(&findings) => {
                (Self::Deploying, Effect::StartOperation(Kind::Deploy))
            }
            (Self::Verifying { moving: false, .. }, V::Move) => {
                (Self::Verifying { moving: true, problem: None }, Effect::StartOperation(Kind::Move))
            }
            (Self::Verifying { moving: false, .. }, V::Promote) => (Self::Promoting, Effect::StartOperation(Kind::Promote)),
            (Self::Holding { .. }, V::Retire) => (Self::Retiring { irrevocable: false }, Effect::RunNow),
            (Self::Paused { from, .. }, V::Resume) => (*from, Effect::Signal(Signal::Resume)),
            (Self::Paused { from, .. }, V::Retry) => (*from, Effect::Signal(Signal::Retry)),
            (Self::Paused { from, .. }, V::Rollback) if from.can_roll_back() => {
                (Self::RollingBack, Effect::StartOperation(Kind::Rollback))
            }
            (Self::Paused { from, .. }, V::Cancel) if *from == Self::Prechecking => (Self::Cancelled, Effect::Finish),
            (Self::Paused { .. }, V::Abandon) => (Self::Abandoned { leftovers: Vec::new() }, Effect::Finish),
            (state, V::Rollback) if state.can_roll_back() => (Self::RollingBack, Effect::StartOperation(Kind::Rollback)),
            (state, V::Pause) if state.can_pause() => (state, Effect::Signal(Signal::Pause)),
            _ => return None,
        })
    }

    /// Whether an operation of a stage is there, whose pause or failure concerns the upgrade.
    fn has_stage(&self) -> bool {
        self.can_pause() || matches!(self, Self::Prechecking | Self::Holding { .. } | Self::Paused { .. })
    }

    /// The pause of a stage. A pause of what stands still already goes on from the same stage.
    fn into_paused(self, problem: Problem) -> Self {
        match self {
            Self::Paused { from, .. } => Self::Paused { from, problem },
            stage => Self::Paused { from: Box::new(stage), problem },
        }
    }

    /// Whether a stage is under way that can be interrupted.
    fn can_pause(&self) -> bool {
        matches!(
            self,
            Self::Deploying
                | Self::Verifying { moving: true, .. }
                | Self::Promoting
                | Self::Restoring { .. }
                | Self::Rolling
                | Self::Retiring { .. }
                | Self::RollingBack
        )
    }

    /// Whether something was touched and nothing is irrevocably gone.
    fn can_roll_back(&self) -> bool {
        matches!(
            self,
            Self::Deploying
                | Self::Verifying { .. }
                | Self::Promoting
                | Self::Restoring { .. }
                | Self::Rolling
                | Self::Holding { .. }
                | Self::Retiring { irrevocable: false }
        )
    }

    /// What the end of a stage's operation leads to. An outcome that does not fit the state changes nothing.
    pub fn on_outcome(self, outcome: StageOutcome, choice: UpgradePolicyChoice, now: Timestamp) -> (Self, Effect) {
        use OperationKind as Kind;
        let canary = choice.strategy == Strategy::Canary;
        match (self, outcome) {
            (Self::Promoting, StageOutcome::Failed(problem)) => (Self::Restoring { problem }, Effect::StartOperation(Kind::Restore)),
            (Self::Restoring { problem }, StageOutcome::Succeeded) => {
                (Self::Verifying { moving: false, problem: Some(problem) }, Effect::Nothing)
            }
            // A precheck has touched nothing: its failure is what stands in the way, and it can be tried again.
            (Self::Prechecking, StageOutcome::Failed(problem)) => {
                (Self::Blocked { findings: vec![Finding::from_problem(problem)] }, Effect::Nothing)
            }
            // The first reason stands: it is what the person has to see to.
            (paused @ Self::Paused { .. }, StageOutcome::Paused(_)) => (paused, Effect::Nothing),
            (state, StageOutcome::Paused(problem) | StageOutcome::Failed(problem)) if state.has_stage() => {
                (state.into_paused(problem), Effect::Nothing)
            }
            (Self::Prechecking, StageOutcome::Cancelled) => (Self::Cancelled, Effect::Finish),
            (Self::Prechecking, StageOutcome::Found(findings)) if stops_upgrade(&findings, choice) => {
                (Self::Blocked { findings }, Effect::Nothing)
            }
            (Self::Prechecking, StageOutcome::Found(_) | StageOutcome::Succeeded) => {
                (Self::Deploying, Effect::StartOperation(Kind::Deploy))
            }
            (Self::Deploying, StageOutcome::Succeeded) if canary && choice.auto => {
                (Self::Promoting, Effect::StartOperation(Kind::Promote))
            }
            (Self::Deploying, StageOutcome::Succeeded) if canary => {
                (Self::Verifying { moving: false, problem: None }, Effect::Nothing)
            }
            (Self::Deploying | Self::Promoting, StageOutcome::Succeeded) => (Self::Rolling, Effect::StartOperation(Kind::Roll)),
            (Self::Verifying { moving: true, .. }, StageOutcome::Succeeded) => {
                (Self::Verifying { moving: false, problem: None }, Effect::Nothing)
            }
            (Self::Rolling, StageOutcome::Succeeded) if choice.hold_seconds == 0 => {
                (Self::Retiring { irrevocable: false }, Effect::StartOperation(Kind::Retire))
            }
            (Self::Rolling, StageOutcome::Succeeded) => {
                let until = now + jiff::SignedDuration::from_secs(choice.hold_seconds.into());
                (Self::Holding { until }, Effect::StartOperation(Kind::Retire))
            }
            (Self::Holding { .. } | Self::Retiring { .. }, StageOutcome::Succeeded) => (Self::Succeeded, Effect::Finish),
            (Self::RollingBack, StageOutcome::Succeeded) => (Self::RolledBack, Effect::Finish),
            (state, _) => (state, Effect::Nothing),
        }
    }
}

/// Reads the stage that a pause goes on from. Rows of earlier releases may hold a pause within a pause.
fn read_paused_stage<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Box<UpgradeState>, D::Error> {
    let mut read = Box::<UpgradeState>::deserialize(from)?;
    while let UpgradeState::Paused { from, .. } = *read {
        read = from;
    }
    Ok(read)
}

impl Finding {
    /// A problem that stands in the way as a whole, not one of some object.
    fn from_problem(problem: Problem) -> Self {
        let Problem { code, message, hint } = problem;
        Self { severity: Severity::Block, code, object: String::new(), message, hint }
    }
}

fn has_no_blocker(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.severity < Severity::Block)
}

fn stops_upgrade(findings: &[Finding], choice: UpgradePolicyChoice) -> bool {
    let accepted = choice.accept_warnings && has_no_blocker(findings);
    let only_notes = findings.iter().all(|finding| finding.severity == Severity::Note);
    !(only_notes || accepted)
}

#[cfg(test)]
mod tests;
