//! How a claim begins: the plan is built and stored, once.

use std::time::Instant;

use model::operation::OperationState;
use model::plan::Plan;
use model::upgrade::{LabelPolicy, UpgradeState};
use rollout::plan::Layout;
use rollout::ports::World;
use store::{Record, StoreError, WaveHead};

use super::{Run, close};
use crate::planner::{History, NoPlan, plan};

impl Run<'_> {
    /// Stores the plan, once, and says that the operation runs. Answers false when it was let go instead.
    pub(super) async fn prepare(&mut self, layout: Layout, world: &dyn World) -> Result<bool, StoreError> {
        // A plan is built from what is there, and an earlier operation must not change that afterwards.
        if self.operation.waves.is_none()
            && let Some(error) = self.unfenced.values().next().cloned()
        {
            self.rest(&error).await?;
            return Ok(false);
        }
        let Some((history, labels)) = self.begin_stage().await? else { return Ok(false) };
        let layout = Layout { labels, ..layout };
        let planned = match &self.operation.waves {
            Some(_) => None,
            None => match self.build(&layout, world, history).await {
                Ok(plan) => Some(plan),
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
        if let Some(plan) = planned {
            tx.store_plan(self.claim.operation, &plan).await?;
            tx.fenced(&self.earlier).await?;
            self.operation.waves =
                Some(plan.waves.iter().map(|wave| WaveHead { title: wave.title.clone(), width: wave.width }).collect());
            self.items = tx.items(self.claim.operation).await?;
        }
        let runs = self.operation.state == OperationState::Running;
        let state = (!runs).then_some(OperationState::Running);
        let since = Instant::now();
        tx.record(&self.claim, &Record { state, ..Record::default() }, self.now()).await?;
        tx.commit().await?;
        self.lease.renewed(since);
        Ok(true)
    }

    async fn build(&self, layout: &Layout, world: &dyn World, history: History) -> Result<Plan, NoPlan> {
        let built = tokio::time::timeout(self.engine.settings.look, plan(&self.operation, layout, world, history));
        built.await.unwrap_or_else(|_| Err(NoPlan::World(close::too_slow())))
    }

    /// What the upgrade's stages have started so far; nothing when it was let go instead. A retirement whose time has come
    /// is no longer a time of holding, and waits for an operation that was let in while the upgrade was complete.
    async fn begin_stage(&mut self) -> Result<Option<(History, LabelPolicy)>, StoreError> {
        let Some(upgrade) = self.operation.upgrade else { return Ok(Some((Vec::new(), LabelPolicy::default()))) };
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let known = tx.lock_upgrade(upgrade).await?;
        tx.record(&self.claim, &Record::default(), self.now()).await?;
        if matches!(known.state, UpgradeState::Holding { .. }) {
            if let Some(guest) = tx.guest(known.mesh).await? {
                drop(tx);
                self.wait(format!("{guest} changes the mesh's data plane; the retirement begins when it has ended"))
                    .await?;
                return Ok(None);
            }
            tx.upgrade_retiring(upgrade, false, self.engine.clock.as_ref()).await?;
        }
        let history = tx.started(upgrade).await?;
        tx.commit().await?;
        Ok(Some((history, known.choice.labels)))
    }
}
