//! Fences earlier writers before a claim does anything else: writes that an earlier claim, or an
//! earlier operation of the mesh, may still have on their way are refused from then on.
//!
//! The fencing of earlier operations is recorded together with the plan. A worker that takes over
//! before that finds no plan and fences them again.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use meshwright_model::operation::{OperationKind, StepEvent};
use meshwright_model::plan::Target;
use meshwright_rollout::plan::MeshTopology;
use meshwright_rollout::ports::{ClusterError, Fence, MeshClusters};
use meshwright_rollout::round::started_writes;
use meshwright_store::{StoreError, UnfencedOperation};
use tokio_util::sync::CancellationToken;

use super::tick::MAX_CONCURRENT_CALLS;
use super::{Run, RunEnd};

/// Interval at which the worker checks whether the worker of an ended operation has stopped.
const STOPPED_POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Maximum number of attempts to fence a target that another party changes at the same time.
const MAX_FENCE_ATTEMPTS: usize = 3;

/// Targets, each with the value that an earlier claim of this operation may write.
type FenceTargets = BTreeMap<Target, Option<String>>;

impl Run<'_> {
    /// Fences the targets that an earlier claim of this operation has started and not finished.
    /// Before the plan is stored, it fences those of the mesh's earlier operations instead. Returns
    /// how the claim ended, if it has ended. A cluster that does not answer accepts no writes
    /// either: its targets are kept as unfenced, and no step on such a target counts as done before
    /// the target is fenced.
    pub(super) async fn fence_predecessors(
        &mut self,
        layout: &MeshTopology,
        world: &dyn MeshClusters,
        stop: &CancellationToken,
    ) -> Result<Option<RunEnd>, StoreError> {
        if self.operation.waves.is_some() {
            let own = started_writes(&self.steps).collect();
            let fenced = self.fence_targets(own, world).await;
            return Ok(if fenced.is_some() {
                None
            } else {
                Some(RunEnd::LeaseLost)
            });
        }
        loop {
            let earlier = self.list_unfenced_operations().await?;
            // A cluster that has left the mesh has no client any more, so its targets cannot be
            // fenced.
            let is_member = |target: &Target| {
                target
                    .member()
                    .is_none_or(|name| layout.members.contains(name))
            };
            let open = |ended: &UnfencedOperation| {
                started_writes(&ended.open_steps)
                    .map(|(target, _)| target)
                    .collect::<Vec<_>>()
            };
            // The goal is `None`, because an absent target must not be created only for the fence:
            // this operation may not use it at all.
            let targets = earlier
                .iter()
                .flat_map(open)
                .filter(is_member)
                .map(|target| (target, None))
                .collect();
            let Some(reached) = self.fence_targets(targets, world).await else {
                return Ok(Some(RunEnd::LeaseLost));
            };
            self.fenced_operations = earlier.iter().map(|ended| ended.operation).collect();
            let writing = earlier
                .iter()
                .filter(|ended| ended.writer_alive)
                .flat_map(open);
            if !writing
                .into_iter()
                .any(|target| reached.get(&target) == Some(&Fence::UntilLeaseEnds))
            {
                return Ok(None);
            }
            tracing::info!(operation.id = %self.claim.operation, "waiting for the worker of an ended operation of the mesh to stop");
            tokio::select! { () = tokio::time::sleep(STOPPED_POLL_INTERVAL) => {}, () = stop.cancelled() => {} }
            if stop.is_cancelled() {
                return self.release_claim(Duration::ZERO).await.map(Some);
            }
            self.lease.mark_progress();
        }
    }

    /// Lists the earlier operations of the mesh that are not fenced yet.
    async fn list_unfenced_operations(&self) -> Result<Vec<UnfencedOperation>, StoreError> {
        let Some(mesh) = self.operation.mesh else {
            return Ok(Vec::new());
        };
        self.engine
            .store
            .begin(self.claim.tenant)
            .await?
            .operations()
            .list_unfenced_operations(mesh, self.claim.operation)
            .await
    }

    /// Fences targets concurrently. Targets that could not be fenced are kept with the reason.
    /// Returns `None` when the fencing token has expired.
    async fn fence_targets(
        &mut self,
        targets: FenceTargets,
        world: &dyn MeshClusters,
    ) -> Option<BTreeMap<Target, Fence>> {
        let permit = &self.fencing_token();
        let mut fences: Vec<BoxFuture<'_, (Target, Result<Fence, ClusterError>)>> =
            Vec::with_capacity(targets.len());
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
        let answers: Vec<_> = futures::stream::iter(fences)
            .buffer_unordered(MAX_CONCURRENT_CALLS)
            .collect()
            .await;
        let mut reached = BTreeMap::new();
        for (target, answer) in answers {
            match answer {
                Ok(fence) => {
                    self.unfenced_targets.remove(&target);
                    reached.insert(target, fence);
                }
                Err(ClusterError::Expired) => return None,
                // A policy or a withdrawn permission that refuses our fence also refuses the
                // earlier write. The refusal must not prevent the plan of a rollback, so only the
                // end of the earlier worker's lease is awaited.
                Err(error @ ClusterError::Refused { .. }) => {
                    tracing::warn!(
                        operation.id = %self.claim.operation, %target, error = &error as &dyn std::error::Error,
                        "the cluster refused to fence a target of an earlier claim; waiting for the end of its lease before any write"
                    );
                    self.unfenced_targets.remove(&target);
                    reached.insert(target, Fence::UntilLeaseEnds);
                }
                Err(error) => {
                    let place = target
                        .member()
                        .map_or("the hosting cluster", |name| name.as_str());
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

    /// Retries the targets that could not be fenced. Returns false when the fencing token has
    /// expired.
    pub(super) async fn retry_fencing(&mut self, world: &dyn MeshClusters) -> bool {
        if self.unfenced_targets.is_empty() {
            return true;
        }
        let goals: FenceTargets = started_writes(&self.steps).collect();
        let goal = |target: &Target| goals.get(target).cloned().flatten();
        let targets = self
            .unfenced_targets
            .keys()
            .map(|target| (target.clone(), goal(target)))
            .collect();
        self.fence_targets(targets, world).await.is_some()
    }

    /// Fences the targets that a rollback or a restoration found at their goal without a write of
    /// its own, because an earlier operation has started a write to each of them. Returns the
    /// events of the steps that are done, or `None` when the fencing token has expired.
    pub(super) async fn fence_done_steps(
        &mut self,
        mut found: Vec<usize>,
        world: &dyn MeshClusters,
    ) -> Option<Vec<(i32, StepEvent)>> {
        if self.is_reverting() {
            let untouched = found
                .iter()
                .map(|index| &self.steps[*index])
                .filter(|item| !item.progress.is_started());
            let targets = untouched
                .filter_map(|item| item.step.written_target())
                .map(|target| (target, None))
                .collect();
            self.fence_targets(targets, world).await?;
            found.retain(|index| self.fencing_error(*index).is_none());
        }
        Some(
            found
                .into_iter()
                .map(|index| (self.steps[index].number, StepEvent::Done))
                .collect(),
        )
    }

    /// Returns the reason why the target of a step could not be fenced, if it could not.
    pub(super) fn fencing_error(&self, index: usize) -> Option<&ClusterError> {
        self.steps[index]
            .step
            .written_target()
            .and_then(|target| self.unfenced_targets.get(&target))
    }

    /// Returns true for operations that undo changes of an upgrade.
    fn is_reverting(&self) -> bool {
        matches!(
            self.operation.kind,
            OperationKind::Rollback | OperationKind::Restore
        )
    }
}
