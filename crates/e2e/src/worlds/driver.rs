//! Drives one operation over a small world as the worker does, with the same pure decisions: it
//! fences, plans, checks, decides, records and writes, until the operation ends or stops.
//!
//! An [`Operation`] holds what the worker's database would hold. A [`Claim`] holds what only the
//! worker's memory holds, and a takeover loses it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use meshwright_model::operation::{OperationKind, Problem, StepEvent};
use meshwright_model::plan::{PlannedStep, Step, Target};
use meshwright_rollout::converge::WorkloadKey;
use meshwright_rollout::decide::Timeouts;
use meshwright_rollout::ports::{ClusterError, Deadline, FencingToken};
use meshwright_rollout::round::{Round, Samples};

use super::cells::operation_id;
use super::planted::Planted;
use super::stages::Stage;
use super::world::World;

mod claims;
mod rounds;

/// Seconds that pass while a worker waits for a change.
pub(super) const WAIT_SECONDS: i64 = 10;
/// Rounds of one operation after which it counts as endless. Each limit of the worker ends within a
/// few rounds here.
const MAX_ROUNDS: u32 = 200;

/// Returns the limits of the operations: short, so that few rounds reach each of them.
fn timeouts() -> Timeouts {
    Timeouts {
        step: SignedDuration::from_secs(35),
        dry_run: SignedDuration::from_secs(25),
        unreachable: SignedDuration::from_secs(15),
        unused_samples: 3,
        unused_min_span: SignedDuration::from_secs(15),
        unused_check_interval: SignedDuration::from_secs(5),
        partial_min_span: SignedDuration::from_secs(10),
    }
}

/// End of a run of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    Succeeded,
    Paused(Problem),
    Failed(Problem),
    /// The operation neither ended nor stopped.
    Endless,
}

/// Records of an operation.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) kind: OperationKind,
    /// Number of the operation, from which its id is made.
    pub(super) number: u32,
    /// Steps of the plan; `None` before the plan is stored.
    pub(super) steps: Option<Vec<PlannedStep>>,
    widths: Arc<Vec<usize>>,
    plan_number: u64,
    rounds: u32,
    /// Time since which no cluster has answered while the plan was built.
    silent_since: Option<i64>,
}

/// Memory of the worker that runs an operation.
#[derive(Debug, Clone, Default)]
pub(super) struct Claim {
    pub(super) samples: BTreeMap<i32, Samples>,
    unfenced: BTreeMap<Target, ClusterError>,
    former_stamps: Arc<BTreeMap<WorkloadKey, Option<String>>>,
    fenced: bool,
}

/// Result of one round.
enum RoundEnd {
    Advanced,
    Waiting,
    LeaseLost,
    Ended(Ending),
}

/// One operation that is being run.
#[derive(Debug, Clone)]
pub(super) struct Driver {
    pub(super) stage: Arc<Stage>,
    pub(super) operation: Operation,
    pub(super) claim: Claim,
    pub(super) planted: Planted,
}

impl Driver {
    pub(super) fn new(stage: Arc<Stage>, number: u32, planted: Planted) -> Self {
        let operation = Operation {
            kind: stage.kind,
            number,
            steps: None,
            widths: Arc::default(),
            plan_number: 0,
            rounds: 0,
            silent_since: None,
        };
        Self {
            stage,
            operation,
            claim: Claim::default(),
            planted,
        }
    }

    /// Runs the operation until it ends or stops. `before_round` is called before each round, and
    /// its answer ends the run early.
    pub(super) fn run<T>(
        &mut self,
        world: &World,
        mut before_round: impl FnMut(&Self, &World) -> Option<T>,
    ) -> Result<Ending, T> {
        loop {
            if let Some(early) = before_round(self, world) {
                return Err(early);
            }
            self.operation.rounds += 1;
            if self.operation.rounds > MAX_ROUNDS {
                return Ok(Ending::Endless);
            }
            match self.next(world) {
                RoundEnd::Ended(ending) => return Ok(ending),
                RoundEnd::Advanced => {}
                RoundEnd::Waiting => world.pass_time(WAIT_SECONDS),
                RoundEnd::LeaseLost => self.claim = Claim::default(),
            }
        }
    }

    /// Lets a person ask for a retry, and a worker claim the operation again.
    pub(super) fn retry(&mut self) {
        let retried = self.round().steps_to_retry();
        let steps = self.operation.steps.iter_mut().flatten();
        for item in steps.filter(|item| retried.contains(&item.number)) {
            item.progress.apply_event(&StepEvent::Retried);
        }
        self.claim = Claim::default();
        self.operation.rounds = 0;
        self.operation.silent_since = None;
    }

    /// Returns true once the claim has fenced its predecessors and has a plan.
    pub(super) fn is_fenced(&self) -> bool {
        self.claim.fenced
    }

    /// Returns the number of the stored plan.
    pub(super) fn plan_number(&self) -> u64 {
        self.operation.plan_number
    }

    /// Returns true if a restoration may follow the operation.
    pub(super) fn may_be_restored(&self) -> bool {
        self.operation.kind == OperationKind::Promote
    }

    /// Returns the time for which the plan could not be built.
    pub(super) fn planning_since(&self, now: i64) -> Option<i64> {
        self.operation.silent_since.map(|since| now - since)
    }

    pub(super) fn round(&self) -> Round<'_> {
        Round {
            kind: self.operation.kind,
            steps: self.operation.steps.as_deref().unwrap_or_default(),
        }
    }

    /// Does the next part of the work: fences and plans at the beginning of a claim, and one round
    /// after that.
    fn next(&mut self, world: &World) -> RoundEnd {
        if self.claim.fenced {
            return self.reconcile(world);
        }
        if !self.fence_predecessors(world) {
            return RoundEnd::LeaseLost;
        }
        self.claim.former_stamps = self.stage.former_stamps.clone();
        if self.operation.steps.is_none()
            && let Some(end) = self.plan(world)
        {
            return end;
        }
        self.claim.fenced = true;
        RoundEnd::Advanced
    }

    fn permit(&self) -> FencingToken {
        FencingToken {
            operation: operation_id(self.operation.number),
            epoch: 1,
            deadline: Deadline::at(std::time::Instant::now()),
        }
    }

    /// Returns the steps that the operation has started, with their captures.
    pub(super) fn started(&self) -> impl Iterator<Item = (Step, Option<String>)> + '_ {
        let steps = self.operation.steps.iter().flatten();
        steps.filter_map(|item| Some((item.step.clone(), item.progress.capture.clone()?)))
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a short time")
}

/// Returns the answer of a call to a small world, which is always there at once.
pub(super) fn now<T>(call: impl Future<Output = T>) -> T {
    call.now_or_never().expect("a small world answers at once")
}
