//! Starts a claim: builds the plan of the operation and stores it once.

use std::sync::OnceLock;

use jiff::SignedDuration;
use meshwright_model::leftover::Leftover;
use meshwright_model::operation::{OperationKind, OperationState};
use meshwright_model::plan::{Plan, Target};
use meshwright_model::rollout::RolloutPolicy;
use meshwright_model::upgrade::{LabelPolicy, UpgradeState};
use meshwright_rollout::plan::{MeshTopology, rollback};
use meshwright_rollout::ports::{ClusterError, MeshClusters};
use meshwright_store::{OperationUpdate, StoreError, WaveSummary};

use super::{Run, RunEnd, outcome};
use crate::observed;
use crate::planner::{
    KnownTags, PlanError, StepHistory, build_plan, left_behind_members, list_plan_leftovers,
};

impl Run<'_> {
    /// Builds and stores the plan if there is none yet, and records that the operation runs.
    /// Returns the end of the run if the claim was given up instead.
    pub(super) async fn ensure_plan(
        &mut self,
        layout: MeshTopology,
        world: &dyn MeshClusters,
    ) -> Result<Option<RunEnd>, StoreError> {
        // The plan is built from the present state of the clusters, which a late write of an
        // earlier operation would change afterwards. Such writes must be fenced first.
        if self.operation.waves.is_none()
            && let Some(error) = self.unfenced_blocking_plan()
        {
            let unanswered = self.time_unanswered();
            return self.wait_or_pause(&error, unanswered).await.map(Some);
        }
        let Some((history, labels)) = self.begin_stage().await? else {
            return Ok(Some(RunEnd::Released));
        };
        let layout = self
            .without_planned_target(MeshTopology {
                label_policy: labels,
                rollout: self.load_rollout_policy().await?,
                ..layout
            })
            .await?;
        let known_tags = self.load_known_tags().await?;
        let planned = match &self.operation.waves {
            Some(_) => None,
            None => match self
                .plan_operation(&layout, world, history, &known_tags)
                .await
            {
                Ok((plan, leftovers)) => {
                    self.drop_unfenced_left_behind(&plan);
                    if let Some(error) = self.unfenced_targets.values().next().cloned() {
                        let unanswered = self.time_unanswered();
                        return self.wait_or_pause(&error, unanswered).await.map(Some);
                    }
                    Some((plan, leftovers))
                }
                Err((PlanError::Problem(problem), _)) => {
                    return self.pause_operation(problem, Vec::new()).await.map(Some);
                }
                Err((PlanError::Lost(error), _)) => {
                    return self.wait_for_answer(error.to_string()).await.map(Some);
                }
                Err((PlanError::Cluster(error), unanswered)) => {
                    return self.wait_or_pause(&error, unanswered).await.map(Some);
                }
            },
        };
        self.lease.mark_progress();
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        if let Some((plan, leftovers)) = planned {
            tx.operations()
                .store_plan(self.claim.operation, &plan)
                .await?;
            tx.operations().mark_fenced(&self.fenced_operations).await?;
            tx.meshes()
                .record_leftovers(self.claim.operation, &leftovers)
                .await?;
            self.operation.waves = Some(
                plan.waves
                    .iter()
                    .map(|wave| WaveSummary {
                        title: wave.title.clone(),
                        width: wave.width,
                    })
                    .collect(),
            );
            self.steps = tx.operations().list_steps(self.claim.operation).await?;
        }
        let runs = self.operation.state == OperationState::Running;
        let state = (!runs).then_some(OperationState::Running);
        let locked = self
            .record_state(
                &mut tx,
                &OperationUpdate {
                    state,
                    ..OperationUpdate::default()
                },
            )
            .await?;
        locked.commit_and_renew(tx).await?;
        Ok(None)
    }

    /// Returns the waves and limits with which the operation restarts workloads. Only a plan that is
    /// to be built needs them.
    async fn load_rollout_policy(&self) -> Result<RolloutPolicy, StoreError> {
        if !self.operation.kind.is_rollout() || self.operation.waves.is_some() {
            return Ok(RolloutPolicy::default());
        }
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        tx.operations().read_rollout_policy(&self.operation).await
    }

    /// Removes a target that is only planned from the topology of a restart. In place the target
    /// has the revision name of the running control plane, so the restart would wait for an image
    /// that no istiod injects yet.
    async fn without_planned_target(
        &self,
        layout: MeshTopology,
    ) -> Result<MeshTopology, StoreError> {
        let (OperationKind::Restart, Some(mesh)) = (self.operation.kind, self.operation.mesh)
        else {
            return Ok(layout);
        };
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let planned = observed::target_is_only_planned(&mut tx, mesh).await?;
        let in_place = layout
            .target
            .as_ref()
            .is_some_and(|target| target.revision == layout.current.revision);
        Ok(if planned && in_place {
            MeshTopology {
                target: None,
                ..layout
            }
        } else {
            layout
        })
    }

    /// Returns the tags that the members of a mesh which is deleted were last known to have. No
    /// other plan needs them.
    async fn load_known_tags(&self) -> Result<KnownTags, StoreError> {
        match (self.operation.kind, self.operation.mesh) {
            (OperationKind::DeleteMesh, Some(mesh)) if self.operation.waves.is_none() => {
                let mut tx = self.engine.store.begin(self.claim.tenant).await?;
                observed::load_known_tags(&mut tx, mesh).await
            }
            _ => Ok(KnownTags::new()),
        }
    }

    /// Returns the reason why no plan can be built yet, if there is one. A forced deletion may
    /// leave a lost member behind, so the unfenced targets of that member do not block its plan.
    fn unfenced_blocking_plan(&self) -> Option<ClusterError> {
        let forced = self.operation.kind == OperationKind::DeleteMesh && self.operation.is_forced();
        let waits = |(target, error): &(&Target, &ClusterError)| {
            !(forced && target.member().is_some() && error.is_lost())
        };
        self.unfenced_targets
            .iter()
            .find(waits)
            .map(|(_, error)| error.clone())
    }

    /// Forgets the unfenced targets of members that are left behind. The plan has no steps in these
    /// members, so no fence is needed there.
    fn drop_unfenced_left_behind(&mut self, plan: &Plan) {
        let behind = left_behind_members(plan);
        self.unfenced_targets.retain(|target, _| {
            target
                .member()
                .is_none_or(|member| !behind.contains(member))
        });
    }

    /// Builds the plan of the operation, with the objects that stay in clusters once it is carried
    /// out. An error comes with the time without an answer, read once after the look that failed:
    /// the decision to leave a member behind and the decision to pause use the same time.
    async fn plan_operation(
        &self,
        layout: &MeshTopology,
        world: &dyn MeshClusters,
        history: StepHistory,
        known_tags: &KnownTags,
    ) -> Result<(Plan, Vec<Leftover>), (PlanError, SignedDuration)> {
        let unanswered = OnceLock::new();
        let time_unanswered = || *unanswered.get_or_init(|| self.time_unanswered());
        let given_up = || time_unanswered() > self.engine.settings.timeouts.unreachable;
        let building = async {
            let plan = build_plan(&self.operation, layout, world, (history, &given_up)).await?;
            let left = match self.operation.kind {
                OperationKind::DeleteMesh => {
                    list_plan_leftovers(&plan, layout, world, known_tags).await?
                }
                _ => Vec::new(),
            };
            Ok((plan, left))
        };
        let built = tokio::time::timeout(self.engine.settings.cluster_timeout, building);
        built
            .await
            .unwrap_or_else(|_| Err(PlanError::Cluster(outcome::mesh_timeout_error())))
            .map_err(|error| (error, time_unanswered()))
    }

    /// Starts the stage and returns the steps that the upgrade's stages have started so far, with
    /// the label policy. Returns `None` when the claim was given up instead. A retirement whose
    /// time has come ends the holding period, and first waits for an operation that was admitted
    /// while the upgrade was complete.
    async fn begin_stage(&mut self) -> Result<Option<(StepHistory, LabelPolicy)>, StoreError> {
        let Some(upgrade) = self.operation.upgrade else {
            return Ok(Some((Vec::new(), LabelPolicy::default())));
        };
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let known = tx.upgrades().lock_upgrade(upgrade).await?;
        let locked = self
            .record_state(&mut tx, &OperationUpdate::default())
            .await?;
        if matches!(known.state, UpgradeState::Holding { .. }) {
            if let Some(guest) = tx.meshes().data_plane_holder(known.mesh).await? {
                drop((tx, locked));
                self.release_waiting(format!(
                    "{guest} changes the mesh's data plane; the retirement begins when it has ended"
                ))
                .await?;
                return Ok(None);
            }
            tx.upgrades()
                .mark_retiring(upgrade, false, self.engine.clock.as_ref())
                .await?;
        }
        let history = tx.operations().list_started_steps(upgrade).await?;
        locked.commit_and_renew(tx).await?;
        if self.operation.kind == OperationKind::Rollback {
            let started: Vec<_> = history
                .iter()
                .map(|(_, step, capture)| (step.clone(), capture.clone()))
                .collect();
            self.former_stamps = rollback::former_stamps(&started);
        }
        Ok(Some((history, known.choice.labels)))
    }
}
