//! Begins a claim of an operation, as the worker does: fences earlier writers, and builds the plan.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::SignedDuration;
use meshwright_model::operation::Progress;
use meshwright_model::plan::{Plan, PlannedStep, Target};
use meshwright_rollout::decide::{Decision, decide_after_planning_failure};
use meshwright_rollout::ports::{ClusterError, MeshClusters};
use meshwright_rollout::round::started_writes;

use super::{Claim, Driver, Ending, RoundEnd, now, timeouts};
use crate::worlds::fingerprint::plan_fingerprint;
use crate::worlds::planted::Planted;
use crate::worlds::world::World;

impl Driver {
    /// Fences the writes of an earlier claim, or those of earlier operations before the plan is
    /// built. Returns false if the lease may have ended.
    pub(super) fn fence_predecessors(&mut self, world: &World) -> bool {
        if self.planted == Planted::NoFence {
            return true;
        }
        let targets = match &self.operation.steps {
            Some(steps) => started_writes(steps).collect(),
            None => self
                .stage
                .open_targets
                .iter()
                .map(|target| (target.clone(), None))
                .collect(),
        };
        self.fence(targets, world)
    }

    pub(super) fn fence(
        &mut self,
        targets: BTreeMap<Target, Option<String>>,
        world: &World,
    ) -> bool {
        const MAX_ATTEMPTS: usize = 3;
        let permit = self.permit();
        for (target, goal) in targets {
            let mut answer = now(world.fence_target(&target, goal.as_deref(), &permit));
            for _ in 1..MAX_ATTEMPTS {
                if matches!(answer, Err(ClusterError::Changed { .. })) {
                    answer = now(world.fence_target(&target, goal.as_deref(), &permit));
                }
            }
            match answer {
                Ok(_) | Err(ClusterError::Refused { .. }) => {
                    self.claim.unfenced.remove(&target);
                }
                Err(ClusterError::Expired) => return false,
                Err(error) => {
                    self.claim.unfenced.insert(target, error);
                }
            }
        }
        true
    }

    /// Builds and stores the plan. Returns the end of the round if that is not possible now.
    pub(super) fn plan(&mut self, world: &World) -> Option<RoundEnd> {
        let blocked = self.claim.unfenced.values().next().cloned();
        let planned = match blocked {
            Some(error) => Err(error),
            None => now(self.stage.build_plan(world)),
        };
        let error = match planned {
            Ok(plan) => {
                self.store_plan(&plan);
                return None;
            }
            Err(error) => error,
        };
        let at = world.now();
        let since = *self.operation.silent_since.get_or_insert(at);
        let silent = SignedDuration::from_secs(at - since);
        self.claim = Claim::default();
        Some(
            match decide_after_planning_failure(&error, silent, &timeouts()) {
                Decision::Wait(_) => RoundEnd::Waiting,
                Decision::Pause(problem) => RoundEnd::Ended(Ending::Paused(problem)),
                _ => RoundEnd::LeaseLost,
            },
        )
    }

    fn store_plan(&mut self, plan: &Plan) {
        self.operation.widths = Arc::new(plan.waves.iter().map(|wave| wave.width).collect());
        let waves = plan.waves.iter().enumerate();
        let steps = waves.flat_map(|(wave, head)| head.steps.iter().map(move |step| (wave, step)));
        let planned = (0..).zip(steps).map(|(number, (wave, step))| PlannedStep {
            number,
            wave,
            step: step.clone(),
            progress: Progress::default(),
        });
        let planned: Vec<PlannedStep> = planned.collect();
        self.operation.plan_number = plan_fingerprint(&planned);
        self.operation.steps = Some(planned);
    }
}
