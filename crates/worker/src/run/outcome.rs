//! Ends a claim: the operation succeeds, fails, is paused or is cancelled, or the claim is given
//! up. Each end is one transaction that contains all of its consequences.
//!
//! Each transaction locks the upgrade first and the queue row second. The API's verbs use the same
//! order, so workers and verbs cannot deadlock.

use std::time::Duration;

use jiff::Timestamp;
use meshwright_model::operation::{OperationKind, OperationState, Problem, Signal, StepEvent};
use meshwright_model::problem::ProblemCode;
use meshwright_model::release::Release;
use meshwright_model::upgrade::StageOutcome;
use meshwright_model::webhook::EventKind;
use meshwright_rollout::plan::MeshTopology;
use meshwright_rollout::plan::precheck::{self, PrecheckInput, SkewRule};
use meshwright_rollout::ports::{ClusterError, MeshClusters};
use meshwright_rollout::step::is_irrevocable;
use meshwright_store::{NewEvent, Operation, OperationUpdate, PlannedStep, StoreError};

use super::{PAUSED_SLEEP, Run, RunEnd};
use crate::metrics;

impl Run<'_> {
    /// Ends the operation as succeeded.
    pub(super) async fn succeed_operation(&mut self) -> Result<RunEnd, StoreError> {
        self.finish_operation(
            OperationState::Succeeded,
            StageOutcome::Succeeded,
            OperationUpdate::default(),
        )
        .await
    }

    /// Ends the operation as cancelled. `seen` is the number of the newest signal that was
    /// processed.
    pub(super) async fn cancel_operation(
        &mut self,
        seen: Option<i64>,
    ) -> Result<RunEnd, StoreError> {
        self.finish_operation(
            OperationState::Cancelled,
            StageOutcome::Cancelled,
            OperationUpdate {
                seen_signal_seq: seen,
                ..OperationUpdate::default()
            },
        )
        .await
    }

    /// Ends the operation as failed. The operation cannot be completed, and the changes that it has
    /// made have to be undone.
    pub(super) async fn fail_operation(
        &mut self,
        problem: Problem,
        mut facts: Vec<(i32, StepEvent)>,
    ) -> Result<RunEnd, StoreError> {
        let problem = self.with_possible_advice(problem);
        self.limit_advice(&mut facts);
        tracing::info!(operation.id = %self.claim.operation, code = problem.code.as_str(), message = problem.message, "the operation failed");
        let state = OperationState::Failed {
            problem: problem.clone(),
        };
        self.finish_operation(
            state,
            StageOutcome::Failed(problem),
            OperationUpdate {
                step_events: facts,
                ..OperationUpdate::default()
            },
        )
        .await
    }

    /// Ends the operation: records its final state, removes it from the queue, and applies the
    /// outcome to its upgrade.
    async fn finish_operation(
        &mut self,
        state: OperationState,
        outcome: StageOutcome,
        record: OperationUpdate,
    ) -> Result<RunEnd, StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        if let Some(upgrade) = self.operation.upgrade {
            tx.upgrades().lock_upgrade(upgrade).await?;
        }
        let record = OperationUpdate {
            state: Some(state),
            ..record
        };
        let _locked = self.record_state(&mut tx, &record).await?;
        tx.operations().end_claim(&self.claim, None).await?;
        if let Some(upgrade) = self.operation.upgrade {
            tx.upgrades()
                .apply_outcome(upgrade, outcome, self.engine.clock.as_ref())
                .await?;
        }
        tx.commit().await?;
        metrics::count_record(&self.operation, &record, self.now());
        Ok(RunEnd::Finished)
    }

    /// Pauses the operation because of a problem that a person has to solve, and gives the claim
    /// up.
    pub(crate) async fn pause_operation(
        &mut self,
        problem: Problem,
        facts: Vec<(i32, StepEvent)>,
    ) -> Result<RunEnd, StoreError> {
        tracing::info!(operation.id = %self.claim.operation, code = problem.code.as_str(), message = problem.message, "the operation was paused");
        self.pause_and_release(problem, facts, None, true).await
    }

    /// Handles a mesh that could not be opened. The operation is paused, unless our own database
    /// failed: that passes without a person, so the claim is retried.
    pub(super) async fn handle_open_failure(
        &mut self,
        problem: Problem,
    ) -> Result<RunEnd, StoreError> {
        if problem.code == crate::DATABASE_CODE {
            return Ok(RunEnd::DatabaseUnavailable);
        }
        self.pause_operation(problem, Vec::new()).await
    }

    /// Records a pause and gives the claim up. Every call of this claim has ended before, so from
    /// the commit on no cluster accepts a write of this operation. With `news` false the operation
    /// was paused already, and its state stays as it is.
    pub(super) async fn pause_and_release(
        &mut self,
        problem: Problem,
        mut facts: Vec<(i32, StepEvent)>,
        seen: Option<i64>,
        news: bool,
    ) -> Result<RunEnd, StoreError> {
        let problem = self.with_possible_advice(problem);
        self.limit_advice(&mut facts);
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        if let Some(upgrade) = self.operation.upgrade {
            tx.upgrades().lock_upgrade(upgrade).await?;
        }
        // No signal can be added while the upgrade is locked. A pending pause signal is answered by
        // this pause. Any other pending signal has to be processed first, so that the state of the
        // upgrade and the behaviour of the operation agree; the conflict restarts the claim.
        let unseen = tx.operations().read_pending_signals(&self.claim).await?;
        if unseen
            .after_seq(seen)
            .any(|wish| wish.signal != Signal::Pause)
        {
            return Err(StoreError::SerializationConflict);
        }
        let seen = Some(unseen.last_seq);
        let state = news.then(|| OperationState::Paused {
            problem: problem.clone(),
        });
        let record = OperationUpdate {
            step_events: facts,
            state,
            seen_signal_seq: seen,
            ..OperationUpdate::default()
        };
        let _locked = self.record_state(&mut tx, &record).await?;
        tx.operations()
            .end_claim(&self.claim, Some(PAUSED_SLEEP))
            .await?;
        if let (true, Some(upgrade)) = (news, self.operation.upgrade) {
            tx.upgrades()
                .apply_outcome(
                    upgrade,
                    StageOutcome::Paused(problem),
                    self.engine.clock.as_ref(),
                )
                .await?;
        }
        tx.commit().await?;
        metrics::count_record(&self.operation, &record, self.now());
        Ok(RunEnd::Released)
    }

    /// Returns the problem with the advice that this operation can follow: without the advice to
    /// roll back if it has no rollback, and to skip what is left if it does not take that verb.
    /// Problems are described where they are found, which does not know the operation.
    fn with_possible_advice(&self, mut problem: Problem) -> Problem {
        let no_way_back = |item: &PlannedStep| {
            self.operation.kind == OperationKind::Retire
                && item.progress.is_started()
                && is_irrevocable(&item.step)
        };
        if !self.operation.kind.can_skip_workloads() {
            problem = problem.without_skip();
        }
        if !self.operation.kind.can_be_rolled_back() || self.steps.iter().any(no_way_back) {
            problem = problem.without_rollback();
        }
        problem
    }

    /// Gives the problems of step events the advice that this operation can follow.
    pub(super) fn limit_advice(&self, facts: &mut [(i32, StepEvent)]) {
        for (_, fact) in facts {
            if let StepEvent::Failed { problem } | StepEvent::Excluded { problem } = fact {
                *problem = self.with_possible_advice(problem.clone());
            }
        }
    }

    /// Gives the claim up without a change; the operation is due again after `due_in`.
    pub(super) async fn release_claim(&mut self, due_in: Duration) -> Result<RunEnd, StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        tx.operations().end_claim(&self.claim, Some(due_in)).await?;
        tx.commit().await?;
        Ok(RunEnd::Released)
    }

    /// Loads the allowed version skew from the upgrade policy, and the version of each proxy image
    /// in the catalogue.
    async fn load_skew_rule(&self) -> Result<SkewRule, StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let minors = tx.catalogue().upgrade_policy().await?.in_place_minors;
        let image = |release: Release| {
            (
                format!("{}/proxyv2:{}", release.hub, release.tag),
                release.version,
            )
        };
        let images = tx
            .catalogue()
            .list_releases()
            .await?
            .into_iter()
            .map(image)
            .collect();
        Ok(SkewRule {
            max_minors_behind: minors,
            image_versions: images,
        })
    }

    /// Runs the precheck of an upgrade and stores its findings. It changes nothing in any cluster.
    pub(super) async fn run_precheck(&mut self) -> Result<RunEnd, StoreError> {
        let mesh = self
            .operation
            .mesh
            .ok_or(StoreError::NotFound { what: "mesh" })?;
        let (world, mut layout) = match self
            .engine
            .clusters
            .open_mesh(self.claim.tenant, mesh)
            .await
        {
            Ok(opened) => opened,
            Err(problem) => return self.handle_open_failure(problem).await,
        };
        if let Some(upgrade) = self.operation.upgrade {
            layout.label_policy = self
                .engine
                .store
                .begin(self.claim.tenant)
                .await?
                .upgrades()
                .get_upgrade(upgrade)
                .await?
                .choice
                .labels;
        }
        let skew = self.load_skew_rule().await?;
        self.lease.mark_progress();
        let looked = tokio::time::timeout(
            self.engine.settings.cluster_timeout,
            gather_precheck_input(world.as_ref(), &layout, skew),
        )
        .await;
        let found = match looked.unwrap_or_else(|_| Err(mesh_timeout_error())) {
            Ok(evidence) => precheck::collect_findings(&layout, &evidence),
            Err(error) => {
                let unanswered = self.time_unanswered();
                return self.wait_or_pause(&error, unanswered).await;
            }
        };
        let outcome = StageOutcome::Found(found);
        self.finish_operation(
            OperationState::Succeeded,
            outcome,
            OperationUpdate::default(),
        )
        .await
    }
}

/// Collects the observations that a precheck evaluates.
async fn gather_precheck_input(
    world: &dyn MeshClusters,
    layout: &MeshTopology,
    skew: SkewRule,
) -> Result<PrecheckInput, ClusterError> {
    let survey = world.observe_mesh().await?;
    let pinned = world
        .list_pinned_resources(&layout.current.revision)
        .await?;
    let mut refusing = Vec::new();
    for member in &layout.members {
        if !world.accepts_probes(member).await? {
            refusing.push(member.clone());
        }
    }
    Ok(PrecheckInput {
        survey,
        pinned_resources: pinned,
        refusing_members: refusing,
        skew,
    })
}

/// Returns the error of a check of all members that exceeded its timeout as a whole. It counts as
/// no answer.
pub(super) fn mesh_timeout_error() -> ClusterError {
    ClusterError::Unreachable {
        place: "a cluster of the mesh".into(),
        code: ProblemCode::LookTooSlow,
        cause: "the look took too long".into(),
    }
}

/// Builds one event for a group of step events, so that a client that follows the operation sees
/// steps start and end.
pub(super) fn progress_event(
    operation: &Operation,
    facts: &[(i32, StepEvent)],
    at: Timestamp,
) -> NewEvent {
    let of = |wanted: fn(&StepEvent) -> bool| {
        facts
            .iter()
            .filter(|(_, fact)| wanted(fact))
            .map(|(number, _)| *number)
            .collect::<Vec<i32>>()
    };
    let started = of(|fact| matches!(fact, StepEvent::Started { .. }));
    let done = of(|fact| matches!(fact, StepEvent::Done));
    NewEvent {
        at,
        kind: EventKind::OperationProgress,
        mesh: operation.mesh,
        upgrade: operation.upgrade,
        operation: Some(operation.id),
        body: serde_json::json!({ "started": started, "done": done }),
    }
}
