//! How a claim begins: the plan is built and stored, once.

use model::leftover::Leftover;
use model::operation::{OperationKind, OperationState};
use model::plan::{Plan, Target};
use model::upgrade::{LabelPolicy, UpgradeState};
use rollout::plan::MeshTopology;
use rollout::ports::{MeshClusters, ClusterError};
use store::{OperationUpdate, StoreError, WaveSummary};

use super::{Run, close};
use crate::observed;
use crate::planner::{StepHistory, PlanError, left_behind_members, list_plan_leftovers, build_plan};

impl Run<'_> {
    /// Stores the plan, once, and says that the operation runs. Answers false when it was let go instead.
    pub(super) async fn ensure_plan(&mut self, layout: MeshTopology, world: &dyn MeshClusters) -> Result<bool, StoreError> {
        // A plan is built from what is there, and an earlier operation must not change that afterwards.
        if self.operation.waves.is_none()
            && let Some(error) = self.unfenced_blocking_plan()
        {
            self.wait_or_pause(&error).await?;
            return Ok(false);
        }
        let Some((history, labels)) = self.begin_stage().await? else { return Ok(false) };
        let layout = self.without_planned_target(MeshTopology { label_policy: labels, ..layout }).await?;
        let planned = match &self.operation.waves {
            Some(_) => None,
            None => match self.plan_operation(&layout, world, history).await {
                Ok((plan, leftovers)) => {
                    self.drop_unfenced_left_behind(&plan);
                    if let Some(error) = self.unfenced_targets.values().next().cloned() {
                        self.wait_or_pause(&error).await?;
                        return Ok(false);
                    }
                    Some((plan, leftovers))
                }
                Err(PlanError::Problem(problem)) => {
                    self.pause_operation(problem, Vec::new()).await?;
                    return Ok(false);
                }
                Err(PlanError::Cluster(error)) => {
                    self.wait_or_pause(&error).await?;
                    return Ok(false);
                }
            },
        };
        self.lease.mark_progress();
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        if let Some((plan, leftovers)) = planned {
            tx.store_plan(self.claim.operation, &plan).await?;
            tx.mark_fenced(&self.fenced_operations).await?;
            tx.record_leftovers(self.claim.operation, &leftovers).await?;
            self.operation.waves =
                Some(plan.waves.iter().map(|wave| WaveSummary { title: wave.title.clone(), width: wave.width }).collect());
            self.steps = tx.list_steps(self.claim.operation).await?;
        }
        let runs = self.operation.state == OperationState::Running;
        let state = (!runs).then_some(OperationState::Running);
        let locked = self.record_state(&mut tx, &OperationUpdate { state, ..OperationUpdate::default() }).await?;
        locked.commit_and_renew(tx).await?;
        Ok(true)
    }

    /// The layout without a target that is only planned: in place it has the name of what runs, and a restart would wait
    /// for an image that nothing injects yet.
    async fn without_planned_target(&self, layout: MeshTopology) -> Result<MeshTopology, StoreError> {
        let (OperationKind::Restart, Some(mesh)) = (self.operation.kind, self.operation.mesh) else {
            return Ok(layout);
        };
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let planned = observed::target_is_only_planned(&mut tx, mesh).await?;
        let in_place = layout.target.as_ref().is_some_and(|target| target.revision == layout.current.revision);
        Ok(if planned && in_place { MeshTopology { target: None, ..layout } } else { layout })
    }

    /// Why no plan can be built yet. A forced deletion may leave a lost member behind, with what is open there.
    fn unfenced_blocking_plan(&self) -> Option<ClusterError> {
        let forced = self.operation.kind == OperationKind::DeleteMesh && self.operation.is_forced();
        let waits =
            |(target, error): &(&Target, &ClusterError)| !(forced && target.member().is_some() && error.is_lost());
        self.unfenced_targets.iter().find(waits).map(|(_, error)| error.clone())
    }

    /// No step follows in a member that is left behind, so nothing has to be fenced there.
    fn drop_unfenced_left_behind(&mut self, plan: &Plan) {
        let behind = left_behind_members(plan);
        self.unfenced_targets.retain(|target, _| target.member().is_none_or(|member| !behind.contains(member)));
    }

    /// The plan, with what stays in clusters once it is carried out.
    async fn plan_operation(
        &self,
        layout: &MeshTopology,
        world: &dyn MeshClusters,
        history: StepHistory,
    ) -> Result<(Plan, Vec<Leftover>), PlanError> {
        let building = async {
            let given_up = self.time_unanswered() > self.engine.settings.timeouts.unreachable;
            let plan = build_plan(&self.operation, layout, world, (history, given_up)).await?;
            let left = match self.operation.kind {
                OperationKind::DeleteMesh => list_plan_leftovers(&plan, layout, world).await?,
                _ => Vec::new(),
            };
            Ok((plan, left))
        };
        let built = tokio::time::timeout(self.engine.settings.cluster_timeout, building);
        built.await.unwrap_or_else(|_| Err(PlanError::Cluster(close::mesh_timeout_error())))
    }

    /// What the upgrade's stages have started so far; nothing when it was let go instead. A retirement whose time has come
    /// is no longer a time of holding, and waits for an operation that was let in while the upgrade was complete.
    async fn begin_stage(&mut self) -> Result<Option<(StepHistory, LabelPolicy)>, StoreError> {
        let Some(upgrade) = self.operation.upgrade else { return Ok(Some((Vec::new(), LabelPolicy::default()))) };
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let known = tx.lock_upgrade(upgrade).await?;
        let locked = self.record_state(&mut tx, &OperationUpdate::default()).await?;
        if matches!(known.state, UpgradeState::Holding { .. }) {
            if let Some(guest) = tx.data_plane_holder(known.mesh).await? {
                drop((tx, locked));
                self.release_waiting(format!("{guest} changes the mesh's data plane; the retirement begins when it has ended"))
                    .await?;
                return Ok(None);
            }
            tx.mark_retiring(upgrade, false, self.engine.clock.as_ref()).await?;
        }
        let history = tx.list_started_steps(upgrade).await?;
        locked.commit_and_renew(tx).await?;
        Ok(Some((history, known.choice.labels)))
    }
}
