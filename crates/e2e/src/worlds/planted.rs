//! Plants faults into the driver, to prove that the judge finds them.

use meshwright_model::plan::{PlannedStep, Step};
use meshwright_rollout::ports::ClusterError;
use meshwright_rollout::step::{StepCheck, StepContext};

/// Fault of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Planted {
    /// The driver has no planted fault.
    None,
    /// Revisions are removed without the proof that nothing uses them.
    NoProof,
    /// Writes of predecessors are not fenced.
    NoFence,
    /// A step counts as done as soon as its write was sent.
    TrustsAnswers,
    /// A cluster that does not answer counts as one that has no more work.
    SilenceIsGoal,
    /// The search for workloads is not made.
    NoSearch,
    /// A value of another party is waited for and never named.
    HidesProblems,
}

impl Planted {
    /// Changes the context of a check.
    pub(super) fn change_context(self, context: &mut StepContext<'_>) {
        if self == Self::NoProof {
            context.unused_proof = None;
        }
    }

    /// Makes a check, or answers in its place.
    pub(super) fn check(
        self,
        check: impl FnOnce() -> Result<StepCheck, ClusterError>,
        item: &PlannedStep,
    ) -> Result<StepCheck, ClusterError> {
        match (self, &item.step) {
            (Self::NoSearch, Step::Converge { .. }) | (Self::NoProof, Step::AwaitUnused { .. }) => {
                return Ok(StepCheck::Done);
            }
            _ => {}
        }
        let found = check();
        match (self, &found) {
            (Self::SilenceIsGoal, Err(ClusterError::Unreachable { .. })) => Ok(StepCheck::Done),
            (Self::HidesProblems, Ok(StepCheck::Blocked(_) | StepCheck::Partial { .. })) => {
                Err(ClusterError::Changed {
                    place: String::new(),
                })
            }
            (Self::TrustsAnswers, Ok(StepCheck::Ready { .. })) if item.progress.is_started() => {
                Ok(StepCheck::Done)
            }
            _ => found,
        }
    }
}
