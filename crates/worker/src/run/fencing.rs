//! How a claim makes sure that it is alone: writes that an earlier claim, or an earlier operation of the mesh, may still
//! have on their way are refused before anything else is done.
//!
//! That the earlier operations were fenced is recorded together with the plan. A worker that takes over before that finds
//! no plan and fences them again.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use model::operation::{Fact, OperationKind};
use model::plan::{Step, Target};
use rollout::plan::Layout;
use rollout::ports::{Fence, World, WorldError};
use store::{Item, StoreError, Unfenced};
use tokio_util::sync::CancellationToken;

use super::tick::CALLS;
use super::{Run, RunEnd};

/// How often the worker of an ended operation is asked for whether it has stopped.
const STOPPED_POLL: Duration = Duration::from_millis(200);
/// How often one target is fenced in a row while something else changes it.
const FENCE_ATTEMPTS: usize = 3;

/// A target with the value that an earlier claim of this operation may bring it to.
type Targets = BTreeMap<Target, Option<String>>;

impl Run<'_> {
    /// Fences what an earlier claim of this operation has started and not finished; before the plan is stored, what the
    /// mesh's earlier operations have. Answers how the claim ended where it is over. A cluster that does not answer accepts
    /// nothing either: its targets are kept as not fenced, and no step of theirs counts as done before they are.
    pub(super) async fn fence_earlier(
        &mut self,
        layout: &Layout,
        world: &dyn World,
        stop: &CancellationToken,
    ) -> Result<Option<RunEnd>, StoreError> {
        if self.operation.waves.is_some() {
            let own = started(&self.items).collect();
            let fenced = self.fence_all(own, world).await;
            return Ok(if fenced.is_some() { None } else { Some(RunEnd::LeaseLost) });
        }
        loop {
            let earlier = self.earlier().await?;
            // A cluster that has left the mesh has no door any more.
            let is_member = |target: &Target| target.member().is_none_or(|name| layout.members.contains(name));
            let open = |ended: &Unfenced| started(&ended.open).map(|(target, _)| target).collect::<Vec<_>>();
            // An absent target is not created just to be fenced: this operation may have nothing to do with it.
            let targets = earlier.iter().flat_map(open).filter(is_member).map(|target| (target, None)).collect();
            let Some(reached) = self.fence_all(targets, world).await else { return Ok(Some(RunEnd::LeaseLost)) };
            self.earlier = earlier.iter().map(|ended| ended.operation).collect();
            let writing = earlier.iter().filter(|ended| ended.writing).flat_map(open);
            if !writing.into_iter().any(|target| reached.get(&target) == Some(&Fence::UntilLeaseEnds)) {
                return Ok(None);
            }
            tracing::info!(operation.id = %self.claim.operation, "waiting for the worker of an ended operation to stop");
            tokio::select! { () = tokio::time::sleep(STOPPED_POLL) => {}, () = stop.cancelled() => {} }
            if stop.is_cancelled() {
                return self.let_go(Duration::ZERO).await.map(|()| Some(RunEnd::LetGo));
            }
            self.lease.progressed();
        }
    }

    async fn earlier(&self) -> Result<Vec<Unfenced>, StoreError> {
        let Some(mesh) = self.operation.mesh else { return Ok(Vec::new()) };
        self.engine.store.begin(self.claim.tenant).await?.unfenced(mesh, self.claim.operation).await
    }

    /// Fences targets side by side. Those that could not be fenced are kept with the reason. `None`: the permit has run out.
    async fn fence_all(&mut self, targets: Targets, world: &dyn World) -> Option<BTreeMap<Target, Fence>> {
        let permit = &self.permit();
        let mut fences: Vec<BoxFuture<'_, (Target, Result<Fence, WorldError>)>> = Vec::with_capacity(targets.len());
        for (target, goal) in targets {
            fences.push(Box::pin(async move {
                let mut answer = world.fence(&target, goal.as_deref(), permit).await;
                for _ in 1..FENCE_ATTEMPTS {
                    if matches!(answer, Err(WorldError::Changed { .. })) {
                        answer = world.fence(&target, goal.as_deref(), permit).await;
                    }
                }
                (target, answer)
            }));
        }
        let answers: Vec<_> = futures::stream::iter(fences).buffer_unordered(CALLS).collect().await;
        let mut reached = BTreeMap::new();
        for (target, answer) in answers {
            match answer {
                Ok(fence) => {
                    self.unfenced.remove(&target);
                    reached.insert(target, fence);
                }
                Err(WorldError::Expired) => return None,
                // What refuses our fence, a policy or a withdrawn right, refuses the earlier write just as well. It must not
                // keep a rollback from being planned: the end of the earlier worker's lease is waited for, and no more.
                Err(error @ WorldError::Refused { .. }) => {
                    tracing::warn!(
                        operation.id = %self.claim.operation, %target, error = &error as &dyn std::error::Error,
                        "the fence of a target of an earlier claim was refused; its lease ends before anything is written"
                    );
                    self.unfenced.remove(&target);
                    reached.insert(target, Fence::UntilLeaseEnds);
                }
                Err(error) => {
                    let place = target.member().map_or("the hosting cluster", |name| name.as_str());
                    tracing::warn!(
                        operation.id = %self.claim.operation, cluster = place, %target,
                        error = &error as &dyn std::error::Error,
                        "could not fence a target of an earlier claim"
                    );
                    self.unfenced.insert(target, error);
                }
            }
        }
        Some(reached)
    }

    /// Tries again what could not be fenced. Answers false when the permit has run out.
    pub(super) async fn fence_again(&mut self, world: &dyn World) -> bool {
        if self.unfenced.is_empty() {
            return true;
        }
        let goals: Targets = started(&self.items).collect();
        let goal = |target: &Target| goals.get(target).cloned().flatten();
        let targets = self.unfenced.keys().map(|target| (target.clone(), goal(target))).collect();
        self.fence_all(targets, world).await.is_some()
    }

    /// Moves the version of what a way back found at its goal without a write of its own, because an earlier operation has
    /// started a write of each of these targets. Answers the steps that are done; `None`: the permit has run out.
    pub(super) async fn fence_found(&mut self, mut found: Vec<usize>, world: &dyn World) -> Option<Vec<(i32, Fact)>> {
        if self.steps_back() {
            let untouched = found.iter().map(|index| &self.items[*index]).filter(|item| !item.progress.started());
            let targets = untouched.filter_map(|item| item.step.writes()).map(|target| (target, None)).collect();
            self.fence_all(targets, world).await?;
            found.retain(|index| self.open(*index).is_none());
        }
        Some(found.into_iter().map(|index| (self.items[index].number, Fact::Done)).collect())
    }

    /// Why the target of a step could not be fenced.
    pub(super) fn open(&self, index: usize) -> Option<&WorldError> {
        self.items[index].step.writes().and_then(|target| self.unfenced.get(&target))
    }

    fn steps_back(&self) -> bool {
        matches!(self.operation.kind, OperationKind::Rollback | OperationKind::Restore)
    }
}

/// What was started and is not done, with the value that it goes to.
fn started(items: &[Item]) -> impl Iterator<Item = (Target, Option<String>)> {
    items.iter().filter(|item| item.progress.started() && !item.progress.done).filter_map(|item| {
        let goal = if let Step::Set { to, .. } = &item.step { to.clone() } else { None };
        Some((item.step.writes()?, goal))
    })
}
