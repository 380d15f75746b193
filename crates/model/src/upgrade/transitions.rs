//! Decides the state that follows a verb of a person or the end of a stage's operation.

use jiff::Timestamp;

use crate::operation::{OperationKind, Problem, Signal};
use crate::rules::{Severity, Strategy};
use crate::upgrade::{
    Effect, Finding, InvalidTransition, StageOutcome, UpgradePolicyChoice, UpgradeState, Verb,
};

impl UpgradeState {
    /// Returns the verbs that a person can send in this state. `Abandon` is never among them: it
    /// comes from the forced deletion of a mesh only.
    pub fn allowed_verbs(&self) -> Vec<Verb> {
        Verb::ALL
            .into_iter()
            .filter(|verb| *verb != Verb::Abandon)
            .filter(|verb| self.clone().transition_for(*verb).is_some())
            .collect()
    }

    /// Returns the next state and the effect of a verb.
    ///
    /// # Errors
    /// Returns [`InvalidTransition`] if the state does not allow the verb. The upgrade is then
    /// unchanged.
    pub fn on_verb(self, verb: Verb) -> Result<(Self, Effect), InvalidTransition> {
        let refused = InvalidTransition {
            state: self.as_str(),
            verb,
            allowed: self.allowed_verbs(),
        };
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
            (Self::Verifying { moving: false, .. }, V::Move) => (
                Self::Verifying {
                    moving: true,
                    problem: None,
                },
                Effect::StartOperation(Kind::Move),
            ),
            (Self::Verifying { moving: false, .. }, V::Promote) => {
                (Self::Promoting, Effect::StartOperation(Kind::Promote))
            }
            (Self::Holding { .. }, V::Retire) => {
                (Self::Retiring { irrevocable: false }, Effect::RunNow)
            }
            (Self::Paused { from, .. }, V::Resume) => (*from, Effect::Signal(Signal::Resume)),
            (Self::Paused { from, .. }, V::Retry) => (*from, Effect::Signal(Signal::Retry)),
            (Self::Paused { from, problem }, V::Skip)
                if from.can_skip_workloads() && problem.is_partial_rollout() =>
            {
                (*from, Effect::Signal(Signal::Skip))
            }
            (Self::Paused { from, .. }, V::Rollback) if from.can_roll_back() => {
                (Self::RollingBack, Effect::StartOperation(Kind::Rollback))
            }
            (Self::Paused { from, .. }, V::Cancel) if *from == Self::Prechecking => {
                (Self::Cancelled, Effect::Finish)
            }
            (Self::Paused { .. }, V::Abandon) => (
                Self::Abandoned {
                    leftovers: Vec::new(),
                },
                Effect::Finish,
            ),
            (state, V::Rollback) if state.can_roll_back() => {
                (Self::RollingBack, Effect::StartOperation(Kind::Rollback))
            }
            (state, V::Pause) if state.can_pause() => (state, Effect::Signal(Signal::Pause)),
            _ => return None,
        })
    }

    /// Returns true if the state has an operation whose pause or failure concerns the upgrade.
    fn has_stage(&self) -> bool {
        self.can_pause()
            || matches!(
                self,
                Self::Prechecking | Self::Holding { .. } | Self::Paused { .. }
            )
    }

    /// Returns the pause of this stage. If the upgrade is paused already, it still continues with
    /// the same stage.
    fn into_paused(self, problem: Problem) -> Self {
        match self {
            Self::Paused { from, .. } => Self::Paused { from, problem },
            stage => Self::Paused {
                from: Box::new(stage),
                problem,
            },
        }
    }

    /// Returns true for a stage that can go on without the workloads that it could not restart. A
    /// rollback cannot: the new revision is removed at its end.
    fn can_skip_workloads(&self) -> bool {
        matches!(self, Self::Rolling | Self::Verifying { moving: true, .. })
    }

    /// Returns true if a stage is under way that can be interrupted.
    pub(super) fn can_pause(&self) -> bool {
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

    /// Returns true if clusters may have been changed, and no removal is irrevocable yet.
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

    /// Returns the next state and the effect of the end of a stage's operation. An outcome that
    /// does not fit the state changes nothing.
    pub fn on_outcome(
        self,
        outcome: StageOutcome,
        choice: UpgradePolicyChoice,
        now: Timestamp,
    ) -> (Self, Effect) {
        use OperationKind as Kind;
        let canary = choice.strategy == Strategy::Canary;
        match (self, outcome) {
            (Self::Promoting, StageOutcome::Failed(problem)) => (
                Self::Restoring { problem },
                Effect::StartOperation(Kind::Restore),
            ),
            (Self::Restoring { problem }, StageOutcome::Succeeded) => (
                Self::Verifying {
                    moving: false,
                    problem: Some(problem),
                },
                Effect::Nothing,
            ),
            // A precheck changes no cluster. Its failure is therefore a finding that blocks, and
            // the precheck can be tried again.
            (Self::Prechecking, StageOutcome::Failed(problem)) => (
                Self::Blocked {
                    findings: vec![Finding::from_problem(problem)],
                },
                Effect::Nothing,
            ),
            // The first problem is kept, because the person has to solve that one.
            (paused @ Self::Paused { .. }, StageOutcome::Paused(_)) => (paused, Effect::Nothing),
            (state, StageOutcome::Paused(problem) | StageOutcome::Failed(problem))
                if state.has_stage() =>
            {
                (state.into_paused(problem), Effect::Nothing)
            }
            (Self::Prechecking, StageOutcome::Cancelled) => (Self::Cancelled, Effect::Finish),
            (Self::Prechecking, StageOutcome::Found(findings))
                if stops_upgrade(&findings, choice) =>
            {
                (Self::Blocked { findings }, Effect::Nothing)
            }
            (Self::Prechecking, StageOutcome::Found(_) | StageOutcome::Succeeded) => {
                (Self::Deploying, Effect::StartOperation(Kind::Deploy))
            }
            (Self::Deploying, StageOutcome::Succeeded) if canary && choice.auto => {
                (Self::Promoting, Effect::StartOperation(Kind::Promote))
            }
            (Self::Deploying, StageOutcome::Succeeded) if canary => (
                Self::Verifying {
                    moving: false,
                    problem: None,
                },
                Effect::Nothing,
            ),
            (Self::Deploying | Self::Promoting, StageOutcome::Succeeded) => {
                (Self::Rolling, Effect::StartOperation(Kind::Roll))
            }
            (Self::Verifying { moving: true, .. }, StageOutcome::Succeeded) => (
                Self::Verifying {
                    moving: false,
                    problem: None,
                },
                Effect::Nothing,
            ),
            (Self::Rolling, StageOutcome::Succeeded) if choice.hold_seconds == 0 => (
                Self::Retiring { irrevocable: false },
                Effect::StartOperation(Kind::Retire),
            ),
            (Self::Rolling, StageOutcome::Succeeded) => {
                let until = now + jiff::SignedDuration::from_secs(choice.hold_seconds.into());
                (
                    Self::Holding { until },
                    Effect::StartOperation(Kind::Retire),
                )
            }
            (Self::Holding { .. } | Self::Retiring { .. }, StageOutcome::Succeeded) => {
                (Self::Succeeded, Effect::Finish)
            }
            (Self::RollingBack, StageOutcome::Succeeded) => (Self::RolledBack, Effect::Finish),
            (state, _) => (state, Effect::Nothing),
        }
    }
}

impl Finding {
    /// Creates the finding for a problem that blocks the whole upgrade and belongs to no single
    /// object.
    fn from_problem(problem: Problem) -> Self {
        let Problem {
            code,
            message,
            hint,
        } = problem;
        Self {
            severity: Severity::Block,
            code,
            object: String::new(),
            message,
            hint,
        }
    }
}

fn has_no_blocker(findings: &[Finding]) -> bool {
    findings
        .iter()
        .all(|finding| finding.severity < Severity::Block)
}

fn stops_upgrade(findings: &[Finding], choice: UpgradePolicyChoice) -> bool {
    let accepted = choice.accept_warnings && has_no_blocker(findings);
    let only_notes = findings
        .iter()
        .all(|finding| finding.severity == Severity::Note);
    !(only_notes || accepted)
}
