//! How a claim makes sure that it is alone: writes that an earlier claim, or an earlier operation of the mesh, may still
//! have on their way are refused before anything else is done.
//!
//! That the earlier operations were fenced is recorded together with the plan. A worker that takes over before that finds
//! no plan and fences them again.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use model::operation::{StepEvent, OperationKind};
use model::plan::{Step, Target};
use rollout::plan::MeshTopology;
use rollout::ports::{Fence, MeshClusters, ClusterError};
use store::{PlannedStep, StoreError, UnfencedOperation};
use tokio_util::sync::CancellationToken;

use super::tick::MAX_CONCURRENT_CALLS;
use super::{Run, RunEnd};

/// How often the worker of an ended operation is asked for whether it has stopped.
const STOPPED_POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How often one target is fenced in a row while something else changes it.
const MAX_FENCE_ATTEMPTS: usize = 3;

/// A target with the value that an earlier claim of this operation may bring it to.
type FenceTargets = BTreeMap<Target, Option<String>>;

impl Run<'_> {
    /// Fences what an earlier claim of this operation has started and not finished; before the plan is stored, what the
    /// mesh's earlier operations have. Answers how the claim ended where it is over. A cluster that does not answer accepts
    /// nothing either: its targets are kept as not fenced, and no step of theirs counts as done before they are.
    pub(super) async fn fence_predecessors(
        &mut self,
        layout: &MeshTopology,
        world: &dyn MeshClusters,
        stop: &CancellationToken,
    ) -> Result<Option<RunEnd>, StoreError> {
        if self.operation.waves.is_some() {
            let own = started_writes(&self.steps).collect();
            let fenced = self.fence_targets(own, world).await;
            return Ok(if fenced.is_some() { None } else { Some(RunEnd::LeaseLost) });
        }
        loop {
            let earlier = self.list_unfenced_operations().await?;
            // A cluster that has left the mesh has no door any more.
            let is_member = |target: &Target| target.member().is_none_or(|name| layout.members.contains(name));
            let open = |ended: &UnfencedOperation| started_writes(&ended.open_steps).map(|(target, _)| target).collect::<Vec<_>>();
            // An absent target is not created just to be fenced: this operation may have nothing to do with it.
            let targets = earlier.iter().flat_map(open).filter(is_member).map(|target| (target, None)).collect();
            let Some(reached) = self.fence_targets(targets, world).await else { return Ok(Some(RunEnd::LeaseLost)) };
            self.fenced_operations = earlier.iter().map(|ended| ended.operation).collect();
            let writing = earlier.iter().filter(|ended| ended.writer_alive).flat_map(open);
            if !writing.into_iter().any(|target| reached.get(&target) == Some(&Fence::UntilLeaseEnds)) {
                return Ok(None);
            }
            tracing::info!(operation.id = %self.claim.operation, "waiting for the worker of an ended operation to stop");
            tokio::select! { () = tokio::time::sleep(STOPPED_POLL_INTERVAL) => {}, () = stop.cancelled() => {} }
            if stop.is_cancelled() {
                return self.release_claim(Duration::ZERO).await.map(|()| Some(RunEnd::Released));
            }
            self.lease.mark_progress();
        }
    }

    async fn list_unfenced_operations(&self) -> Result<Vec<UnfencedOperation>, StoreError> {
        let Some(mesh) = self.operation.mesh else { return Ok(Vec::new()) };
        self.engine.store.begin(self.claim.tenant).await?.list_unfenced_operations(mesh, self.claim.operation).await
    }

    /// Fences targets side by side. Those that could not be fenced are kept with the reason. `None`: the permit has run out.
    async fn fence_targets(&mut self, targets: FenceTargets, world: &dyn MeshClusters) -> Option<BTreeMap<Target, Fence>> {
        let permit = &self.fencing_token();
        let mut fences: Vec<BoxFuture<'_, (Target, Result<Fence, ClusterError>)>> = Vec::with_capacity(targets.len());
        for (target, goal) in targets {
            fences.push(Box::pin(async move {
                let mut answer = world.fence_target(&target, goal.as_deref(), permit).await;
                for _ in 1..MAX_FENCE_ATTEMPTS {
                    if matches!(answer, Err(ClusterError::Changed { .. })) {
                        answer = world.fence_target(&target, goal.as_deref(), permit).await;
                    }
                }
                (target, answer)
            }));
        }
        let answers: Vec<_> = futures::stream::iter(fences).buffer_unordered(MAX_CONCURRENT_CALLS).collect().await;
        let mut reached = BTreeMap::new();
        for (target, answer) in answers {
            match answer {
                Ok(fence) => {
                    self.unfenced_targets.remove(&target);
                    reached.insert(target, fence);
                }
                Err(ClusterError::Expired) => return None,
                // What refuses our fence, a policy or a withdrawn right, refuses the earlier write just as well. It must not
                // keep a rollback from being planned: the end of the earlier worker's lease is waited for, and no more.
                Err(error @ ClusterError::Refused { .. }) => {
                    tracing::warn!(
                        operation.id = %self.claim.operation, %target, error = &error as &dyn std::error::Error,
                        "the fence of a target of an earlier claim was refused; its lease ends before anything is written"
                    );
                    self.unfenced_targets.remove(&target);
                    reached.insert(target, Fence::UntilLeaseEnds);
                }
                Err(error) => {
                    let place = target.member().map_or("the hosting cluster", |name| name.as_str());
                    tracing::warn!(
                        operation.id = %self.claim.operation, cluster = place, %target,
                        error = &error as &dyn std::error::Error,
                        "could not fence a target of an earlier claim"
                    );
                    self.unfenced_targets.insert(target, error);
                }
            }
        }
        Some(reached)
    }

    /// Tries again what could not be fenced. Answers false when the permit has run out.
    pub(super) async fn retry_fencing(&mut self, world: &dyn MeshClusters) -> bool {
        if self.unfenced_targets.is_empty() {
            return true;
        }
        let goals: FenceTargets = started_writes(&self.steps).collect();
        let goal = |target: &Target| goals.get(target).cloned().flatten();
        let targets = self.unfenced_targets.keys().map(|target| (target.clone(), goal(target))).collect();
        self.fence_targets(targets, world).await.is_some()
    }

    /// Moves the version of what a way back found at its goal without a write of its own, because an earlier operation has
    /// started a write of each of these targets. Answers the steps that are done; `None`: the permit has run out.
    pub(super) async fn fence_done_steps(&mut self, mut found: Vec<usize>, world: &dyn MeshClusters) -> Option<Vec<(i32, StepEvent)>> {
        if self.is_reverting() {
            let untouched = found.iter().map(|index| &self.steps[*index]).filter(|item| !item.progress.is_started());
            let targets = untouched.filter_map(|item| item.step.written_target()).map(|target| (target, None)).collect();
            self.fence_targets(targets, world).await?;
            found.retain(|index| self.fencing_error(*index).is_none());
        }
        Some(found.into_iter().map(|index| (self.steps[index].number, StepEvent::Done)).collect())
    }

    /// Why the target of a step could not be fenced.
    pub(super) fn fencing_error(&self, index: usize) -> Option<&ClusterError> {
        self.steps[index].step.written_target().and_then(|target| self.unfenced_targets.get(&target))
    }

    fn is_reverting(&self) -> bool {
        matches!(self.operation.kind, OperationKind::Rollback | OperationKind::Restore)
    }
}

/// What was started and is not done, with the value that it goes to.
fn started_writes(items: &[PlannedStep]) -> impl Iterator<Item = (Target, Option<String>)> {
    items.iter().filter(|item| item.progress.is_started() && !item.progress.done).filter_map(|item| {
        let goal = if let Step::Set { to, .. } = &item.step { to.clone() } else { None };
        Some((item.step.written_target()?, goal))
    })
}
