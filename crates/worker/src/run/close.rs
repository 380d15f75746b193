//! How a claim ends: done, paused, cancelled, let go. Each is one transaction, with all that follows from it.
//!
//! Order within a transaction: the upgrade's lock, then the queue row, so that workers and verbs never wait for each
//! other in a circle.

use std::time::Duration;

use jiff::Timestamp;
use model::operation::{Fact, OperationState, Problem, Wish};
use model::release::Release;
use model::upgrade::Outcome;
use rollout::plan::Layout;
use rollout::plan::precheck::{self, Evidence, SkewRule};
use rollout::ports::{World, WorldError};
use store::{NewEvent, Operation, Record, StoreError};

use super::{Run, RunEnd, SLEEP};
use crate::vitals;

impl Run<'_> {
    /// The operation did what it was for.
    pub(super) async fn succeed(&mut self) -> Result<(), StoreError> {
        self.end(OperationState::Succeeded, Outcome::Succeeded, Record::default()).await
    }

    pub(super) async fn cancel(&mut self, seen: Option<i64>) -> Result<(), StoreError> {
        self.end(OperationState::Cancelled, Outcome::Cancelled, Record { seen, ..Record::default() }).await
    }

    /// It cannot be done, and what it has done is to be undone.
    pub(super) async fn fail(&mut self, problem: Problem, facts: Vec<(i32, Fact)>) -> Result<(), StoreError> {
        tracing::info!(operation.id = %self.claim.operation, code = problem.code, message = problem.message, "operation failed");
        let state = OperationState::Failed { problem: problem.clone() };
        self.end(state, Outcome::Failed(problem), Record { facts, ..Record::default() }).await
    }

    async fn end(&mut self, state: OperationState, outcome: Outcome, record: Record) -> Result<(), StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        if let Some(upgrade) = self.operation.upgrade {
            tx.lock_upgrade(upgrade).await?;
        }
        let record = Record { state: Some(state), ..record };
        let _locked = self.record(&mut tx, &record).await?;
        tx.release(&self.claim, None).await?;
        if let Some(upgrade) = self.operation.upgrade {
            tx.upgrade_outcome(upgrade, outcome, self.engine.clock.as_ref()).await?;
        }
        tx.commit().await?;
        vitals::recorded(&self.operation, &record, self.now());
        Ok(())
    }

    /// Something stands in the way that a person has to see to.
    pub(crate) async fn pause(&mut self, problem: Problem, facts: Vec<(i32, Fact)>) -> Result<(), StoreError> {
        tracing::info!(operation.id = %self.claim.operation, code = problem.code, message = problem.message, "operation paused");
        self.stand_still(problem, facts, None, true).await
    }

    /// A person is asked, unless it was our own database that failed: that comes back by itself.
    pub(super) async fn not_opened(&mut self, problem: Problem) -> Result<RunEnd, StoreError> {
        if problem.code == crate::DATABASE {
            return Ok(RunEnd::Unreadable);
        }
        self.pause(problem, Vec::new()).await.map(|()| RunEnd::LetGo)
    }

    /// Every call under way has ended by now, so from the commit on no cluster accepts a write of this operation.
    pub(super) async fn stand_still(
        &mut self,
        problem: Problem,
        facts: Vec<(i32, Fact)>,
        seen: Option<i64>,
        news: bool,
    ) -> Result<(), StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        if let Some(upgrade) = self.operation.upgrade {
            tx.lock_upgrade(upgrade).await?;
        }
        // Under the upgrade's lock no wish can be added. A pause among those not seen yet is answered by this one; any
        // other is taken in first, so that what the upgrade shows and what the operation does stay the same.
        let unseen = tx.unseen_wishes(&self.claim).await?;
        if unseen.after(seen).any(|wish| wish != Wish::Pause) {
            return Err(StoreError::Clash);
        }
        let seen = Some(unseen.seq);
        let state = news.then(|| OperationState::Paused { problem: problem.clone() });
        let record = Record { facts, state, seen, waiting_for: None };
        let _locked = self.record(&mut tx, &record).await?;
        tx.release(&self.claim, Some(SLEEP)).await?;
        if let (true, Some(upgrade)) = (news, self.operation.upgrade) {
            tx.upgrade_outcome(upgrade, Outcome::Paused(problem), self.engine.clock.as_ref()).await?;
        }
        tx.commit().await?;
        vitals::recorded(&self.operation, &record, self.now());
        Ok(())
    }

    /// Gives the claim back without a change.
    pub(super) async fn let_go(&mut self, due_in: Duration) -> Result<(), StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        tx.release(&self.claim, Some(due_in)).await?;
        tx.commit().await
    }

    /// The policy's number, and which version each image of the catalogue is.
    async fn skew_rule(&self) -> Result<SkewRule, StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let minors = tx.upgrade_policy().await?.in_place_minors;
        let image = |release: Release| (format!("{}/proxyv2:{}", release.hub, release.tag), release.version);
        let images = tx.releases().await?.into_iter().map(image).collect();
        Ok(SkewRule { minors, images })
    }

    /// Looks for what stands in the way of an upgrade; changes nothing anywhere.
    pub(super) async fn precheck(&mut self) -> Result<RunEnd, StoreError> {
        let mesh = self.operation.mesh.ok_or(StoreError::NotFound { what: "mesh" })?;
        let (world, mut layout) = match self.engine.worlds.open(self.claim.tenant, mesh).await {
            Ok(opened) => opened,
            Err(problem) => return self.not_opened(problem).await,
        };
        if let Some(upgrade) = self.operation.upgrade {
            layout.labels = self.engine.store.begin(self.claim.tenant).await?.upgrade(upgrade).await?.choice.labels;
        }
        let skew = self.skew_rule().await?;
        self.lease.progressed();
        let looked = tokio::time::timeout(self.engine.settings.look, evidence(world.as_ref(), &layout, skew)).await;
        let found = match looked.unwrap_or_else(|_| Err(too_slow())) {
            Ok(evidence) => precheck::findings(&layout, &evidence),
            Err(error) => return self.rest(&error).await.map(|()| RunEnd::LetGo),
        };
        let outcome = Outcome::Found(found);
        self.end(OperationState::Succeeded, outcome, Record::default()).await.map(|()| RunEnd::LetGo)
    }
}

/// Looks at everything that a precheck judges.
async fn evidence(world: &dyn World, layout: &Layout, skew: SkewRule) -> Result<Evidence, WorldError> {
    let survey = world.survey().await?;
    let pinned = world.pinned(&layout.current.revision).await?;
    let mut refusing = Vec::new();
    for member in &layout.members {
        if !world.takes_probes(member).await? {
            refusing.push(member.clone());
        }
    }
    Ok(Evidence { survey, pinned, refusing, skew })
}

/// A look at every member that takes longer than any of its calls may: counts as no answer.
pub(super) fn too_slow() -> WorldError {
    WorldError::Unreachable {
        place: "a cluster of the mesh".into(),
        code: "look_too_slow",
        cause: "the look took too long".into(),
    }
}

/// One event for each group of facts, so that whoever follows along sees steps begin and end.
pub(super) fn progress(operation: &Operation, facts: &[(i32, Fact)], at: Timestamp) -> NewEvent {
    let of = |wanted: fn(&Fact) -> bool| {
        facts.iter().filter(|(_, fact)| wanted(fact)).map(|(number, _)| *number).collect::<Vec<i32>>()
    };
    let started = of(|fact| matches!(fact, Fact::Started { .. }));
    let done = of(|fact| matches!(fact, Fact::Done));
    NewEvent {
        at,
        kind: "operation.progress",
        mesh: operation.mesh,
        upgrade: operation.upgrade,
        operation: Some(operation.id),
        body: serde_json::json!({ "started": started, "done": done }),
    }
}
