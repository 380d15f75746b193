//! How a claim ends: done, paused, cancelled, let go. Each is one transaction, with all that follows from it.
//!
//! Order within a transaction: the upgrade's lock, then the queue row, so that workers and verbs never wait for each
//! other in a circle.

use std::time::Duration;

use jiff::Timestamp;
use model::operation::{StepEvent, OperationState, Problem, Signal};
use model::release::Release;
use model::upgrade::StageOutcome;
use rollout::plan::MeshTopology;
use rollout::plan::precheck::{self, PrecheckInput, SkewRule};
use rollout::ports::{MeshClusters, ClusterError};
use store::{NewEvent, Operation, OperationUpdate, StoreError};

use super::{Run, RunEnd, PAUSED_SLEEP};
use crate::vitals;

impl Run<'_> {
    /// The operation did what it was for.
    pub(super) async fn succeed_operation(&mut self) -> Result<(), StoreError> {
        self.finish_operation(OperationState::Succeeded, StageOutcome::Succeeded, OperationUpdate::default()).await
    }

    pub(super) async fn cancel_operation(&mut self, seen: Option<i64>) -> Result<(), StoreError> {
        self.finish_operation(OperationState::Cancelled, StageOutcome::Cancelled, OperationUpdate { seen_signal_seq: seen, ..OperationUpdate::default() }).await
    }

    /// It cannot be done, and what it has done is to be undone.
    pub(super) async fn fail_operation(&mut self, problem: Problem, facts: Vec<(i32, StepEvent)>) -> Result<(), StoreError> {
        tracing::info!(operation.id = %self.claim.operation, code = problem.code, message = problem.message, "operation failed");
        let state = OperationState::Failed { problem: problem.clone() };
        self.finish_operation(state, StageOutcome::Failed(problem), OperationUpdate { step_events: facts, ..OperationUpdate::default() }).await
    }

    async fn finish_operation(&mut self, state: OperationState, outcome: StageOutcome, record: OperationUpdate) -> Result<(), StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        if let Some(upgrade) = self.operation.upgrade {
            tx.lock_upgrade(upgrade).await?;
        }
        let record = OperationUpdate { state: Some(state), ..record };
        let _locked = self.record_state(&mut tx, &record).await?;
        tx.end_claim(&self.claim, None).await?;
        if let Some(upgrade) = self.operation.upgrade {
            tx.apply_outcome(upgrade, outcome, self.engine.clock.as_ref()).await?;
        }
        tx.commit().await?;
        vitals::count_record(&self.operation, &record, self.now());
        Ok(())
    }

    /// Something stands in the way that a person has to see to.
    pub(crate) async fn pause_operation(&mut self, problem: Problem, facts: Vec<(i32, StepEvent)>) -> Result<(), StoreError> {
        tracing::info!(operation.id = %self.claim.operation, code = problem.code, message = problem.message, "operation paused");
        self.pause_and_release(problem, facts, None, true).await
    }

    /// A person is asked, unless it was our own database that failed: that comes back by itself.
    pub(super) async fn handle_open_failure(&mut self, problem: Problem) -> Result<RunEnd, StoreError> {
        if problem.code == crate::DATABASE_CODE {
            return Ok(RunEnd::DatabaseUnavailable);
        }
        self.pause_operation(problem, Vec::new()).await.map(|()| RunEnd::Released)
    }

    /// Every call under way has ended by now, so from the commit on no cluster accepts a write of this operation.
    pub(super) async fn pause_and_release(
        &mut self,
        problem: Problem,
        facts: Vec<(i32, StepEvent)>,
        seen: Option<i64>,
        news: bool,
    ) -> Result<(), StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        if let Some(upgrade) = self.operation.upgrade {
            tx.lock_upgrade(upgrade).await?;
        }
        // Under the upgrade's lock no wish can be added. A pause among those not seen yet is answered by this one; any
        // other is taken in first, so that what the upgrade shows and what the operation does stay the same.
        let unseen = tx.read_pending_signals(&self.claim).await?;
        if unseen.after_seq(seen).any(|wish| wish != Signal::Pause) {
            return Err(StoreError::SerializationConflict);
        }
        let seen = Some(unseen.last_seq);
        let state = news.then(|| OperationState::Paused { problem: problem.clone() });
        let record = OperationUpdate { step_events: facts, state, seen_signal_seq: seen, waiting_for: None };
        let _locked = self.record_state(&mut tx, &record).await?;
        tx.end_claim(&self.claim, Some(PAUSED_SLEEP)).await?;
        if let (true, Some(upgrade)) = (news, self.operation.upgrade) {
            tx.apply_outcome(upgrade, StageOutcome::Paused(problem), self.engine.clock.as_ref()).await?;
        }
        tx.commit().await?;
        vitals::count_record(&self.operation, &record, self.now());
        Ok(())
    }

    /// Gives the claim back without a change.
    pub(super) async fn release_claim(&mut self, due_in: Duration) -> Result<(), StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        tx.end_claim(&self.claim, Some(due_in)).await?;
        tx.commit().await
    }

    /// The policy's number, and which version each image of the catalogue is.
    async fn load_skew_rule(&self) -> Result<SkewRule, StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let minors = tx.upgrade_policy().await?.in_place_minors;
        let image = |release: Release| (format!("{}/proxyv2:{}", release.hub, release.tag), release.version);
        let images = tx.list_releases().await?.into_iter().map(image).collect();
        Ok(SkewRule { max_minors_behind: minors, image_versions: images })
    }

    /// Looks for what stands in the way of an upgrade; changes nothing anywhere.
    pub(super) async fn run_precheck(&mut self) -> Result<RunEnd, StoreError> {
        let mesh = self.operation.mesh.ok_or(StoreError::NotFound { what: "mesh" })?;
        let (world, mut layout) = match self.engine.clusters.open_mesh(self.claim.tenant, mesh).await {
            Ok(opened) => opened,
            Err(problem) => return self.handle_open_failure(problem).await,
        };
        if let Some(upgrade) = self.operation.upgrade {
            layout.label_policy = self.engine.store.begin(self.claim.tenant).await?.get_upgrade(upgrade).await?.choice.labels;
        }
        let skew = self.load_skew_rule().await?;
        self.lease.mark_progress();
        let looked = tokio::time::timeout(self.engine.settings.cluster_timeout, gather_precheck_input(world.as_ref(), &layout, skew)).await;
        let found = match looked.unwrap_or_else(|_| Err(mesh_timeout_error())) {
            Ok(evidence) => precheck::collect_findings(&layout, &evidence),
            Err(error) => return self.wait_or_pause(&error).await.map(|()| RunEnd::Released),
        };
        let outcome = StageOutcome::Found(found);
        self.finish_operation(OperationState::Succeeded, outcome, OperationUpdate::default()).await.map(|()| RunEnd::Released)
    }
}

/// Looks at everything that a precheck judges.
async fn gather_precheck_input(world: &dyn MeshClusters, layout: &MeshTopology, skew: SkewRule) -> Result<PrecheckInput, ClusterError> {
    let survey = world.observe_mesh().await?;
    let pinned = world.list_pinned_resources(&layout.current.revision).await?;
    let mut refusing = Vec::new();
    for member in &layout.members {
        if !world.accepts_probes(member).await? {
            refusing.push(member.clone());
        }
    }
    Ok(PrecheckInput { survey, pinned_resources: pinned, refusing_members: refusing, skew })
}

/// A look at every member that takes longer than any of its calls may: counts as no answer.
pub(super) fn mesh_timeout_error() -> ClusterError {
    ClusterError::Unreachable {
        place: "a cluster of the mesh".into(),
        code: "look_too_slow",
        cause: "the look took too long".into(),
    }
}

/// One event for each group of facts, so that whoever follows along sees steps begin and end.
pub(super) fn progress_event(operation: &Operation, facts: &[(i32, StepEvent)], at: Timestamp) -> NewEvent {
    let of = |wanted: fn(&StepEvent) -> bool| {
        facts.iter().filter(|(_, fact)| wanted(fact)).map(|(number, _)| *number).collect::<Vec<i32>>()
    };
    let started = of(|fact| matches!(fact, StepEvent::Started { .. }));
    let done = of(|fact| matches!(fact, StepEvent::Done));
    NewEvent {
        at,
        kind: "operation.progress",
        mesh: operation.mesh,
        upgrade: operation.upgrade,
        operation: Some(operation.id),
        body: serde_json::json!({ "started": started, "done": done }),
    }
}
