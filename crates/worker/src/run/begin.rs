//! How a claim begins: the plan is built and stored, once.

use model::leftover::Leftover;
use model::operation::{OperationKind, OperationState};
use model::plan::{Plan, Target};
use model::upgrade::{LabelPolicy, UpgradeState};
use rollout::plan::Layout;
use rollout::ports::{World, WorldError};
use store::{Record, StoreError, WaveHead};

use super::{Run, close};
use crate::observed;
use crate::planner::{History, NoPlan, left_behind, leftovers, plan};

impl Run<'_> {
    /// Stores the plan, once, and says that the operation runs. Answers false when it was let go instead.
    pub(super) async fn prepare(&mut self, layout: Layout, world: &dyn World) -> Result<bool, StoreError> {
        // A plan is built from what is there, and an earlier operation must not change that afterwards.
        if self.operation.waves.is_none()
            && let Some(error) = self.unfenced_for_a_plan()
        {
            self.rest(&error).await?;
            return Ok(false);
        }
        let Some((history, labels)) = self.begin_stage().await? else { return Ok(false) };
        let layout = self.as_it_runs(Layout { labels, ..layout }).await?;
        let planned = match &self.operation.waves {
            Some(_) => None,
            None => match self.build(&layout, world, history).await {
                Ok((plan, leftovers)) => {
                    self.forget_left_behind(&plan);
                    if let Some(error) = self.unfenced.values().next().cloned() {
                        self.rest(&error).await?;
                        return Ok(false);
                    }
                    Some((plan, leftovers))
                }
                Err(NoPlan::Problem(problem)) => {
                    self.pause(problem, Vec::new()).await?;
                    return Ok(false);
                }
                Err(NoPlan::World(error)) => {
                    self.rest(&error).await?;
                    return Ok(false);
                }
            },
        };
        self.lease.progressed();
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        if let Some((plan, leftovers)) = planned {
            tx.store_plan(self.claim.operation, &plan).await?;
            tx.fenced(&self.earlier).await?;
            tx.keep_leftovers(self.claim.operation, &leftovers).await?;
            self.operation.waves =
                Some(plan.waves.iter().map(|wave| WaveHead { title: wave.title.clone(), width: wave.width }).collect());
            self.items = tx.items(self.claim.operation).await?;
        }
        let runs = self.operation.state == OperationState::Running;
        let state = (!runs).then_some(OperationState::Running);
        let locked = self.record(&mut tx, &Record { state, ..Record::default() }).await?;
        locked.commit(tx).await?;
        Ok(true)
    }

    /// The layout without a target that is only planned: in place it has the name of what runs, and a restart would wait
    /// for an image that nothing injects yet.
    async fn as_it_runs(&self, layout: Layout) -> Result<Layout, StoreError> {
        let (OperationKind::Restart, Some(mesh)) = (self.operation.kind, self.operation.mesh) else {
            return Ok(layout);
        };
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let planned = observed::target_is_only_planned(&mut tx, mesh).await?;
        let in_place = layout.target.as_ref().is_some_and(|target| target.revision == layout.current.revision);
        Ok(if planned && in_place { Layout { target: None, ..layout } } else { layout })
    }

    /// Why no plan can be built yet. A forced deletion may leave a lost member behind, with what is open there.
    fn unfenced_for_a_plan(&self) -> Option<WorldError> {
        let forced = self.operation.kind == OperationKind::DeleteMesh && self.operation.forced();
        let waits =
            |(target, error): &(&Target, &WorldError)| !(forced && target.member().is_some() && error.is_lost());
        self.unfenced.iter().find(waits).map(|(_, error)| error.clone())
    }

    /// No step follows in a member that is left behind, so nothing has to be fenced there.
    fn forget_left_behind(&mut self, plan: &Plan) {
        let behind = left_behind(plan);
        self.unfenced.retain(|target, _| target.member().is_none_or(|member| !behind.contains(member)));
    }

    /// The plan, with what stays in clusters once it is carried out.
    async fn build(
        &self,
        layout: &Layout,
        world: &dyn World,
        history: History,
    ) -> Result<(Plan, Vec<Leftover>), NoPlan> {
        let building = async {
            let given_up = self.silent() > self.engine.settings.patience.unreachable;
            let plan = plan(&self.operation, layout, world, (history, given_up)).await?;
            let left = match self.operation.kind {
                OperationKind::DeleteMesh => leftovers(&plan, layout, world).await?,
                _ => Vec::new(),
            };
            Ok((plan, left))
        };
        let built = tokio::time::timeout(self.engine.settings.look, building);
        built.await.unwrap_or_else(|_| Err(NoPlan::World(close::too_slow())))
    }

    /// What the upgrade's stages have started so far; nothing when it was let go instead. A retirement whose time has come
    /// is no longer a time of holding, and waits for an operation that was let in while the upgrade was complete.
    async fn begin_stage(&mut self) -> Result<Option<(History, LabelPolicy)>, StoreError> {
        let Some(upgrade) = self.operation.upgrade else { return Ok(Some((Vec::new(), LabelPolicy::default()))) };
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let known = tx.lock_upgrade(upgrade).await?;
        let locked = self.record(&mut tx, &Record::default()).await?;
        if matches!(known.state, UpgradeState::Holding { .. }) {
            if let Some(guest) = tx.guest(known.mesh).await? {
                drop((tx, locked));
                self.wait(format!("{guest} changes the mesh's data plane; the retirement begins when it has ended"))
                    .await?;
                return Ok(None);
            }
            tx.upgrade_retiring(upgrade, false, self.engine.clock.as_ref()).await?;
        }
        let history = tx.started(upgrade).await?;
        locked.commit(tx).await?;
        Ok(Some((history, known.choice.labels)))
    }
}
