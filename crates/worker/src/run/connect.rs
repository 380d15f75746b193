//! Registrations and renewals: a cluster's next credential, and its way to the control planes.

use std::time::Duration;

use model::audit::Entry;
use model::credential::OVERLAP;
use model::ids::ClusterId;
use model::operation::{OperationKind, OperationState, Problem};
use rollout::ports::Settled;
use store::{Issued, ONE_REGISTRATION, Record, StoreError, Tx, sha256};

use super::{Run, RunEnd};
use crate::{DATABASE, vitals};

impl Run<'_> {
    /// A cluster that cannot be used is an answer, not a pause.
    pub(super) async fn connect(&mut self) -> Result<RunEnd, StoreError> {
        let cluster = self.operation.cluster.ok_or(StoreError::NotFound { what: "cluster" })?;
        let problem = match self.connect_to(cluster).await {
            Err(StoreError::Conflict { constraint }) if constraint == ONE_REGISTRATION => registered_already(),
            Err(StoreError::NotFound { what: "cluster" }) => gone(),
            ended => return ended,
        };
        self.refused(cluster, problem).await.map(|()| RunEnd::LetGo)
    }

    async fn connect_to(&mut self, cluster: ClusterId) -> Result<RunEnd, StoreError> {
        // The transaction ends here: what follows begins another one.
        let held = { self.engine.store.begin(self.claim.tenant).await?.cluster(cluster).await };
        let held = match held {
            Err(StoreError::NotFound { .. }) => {
                return self.finish(OperationState::Failed { problem: gone() }).await.map(|()| RunEnd::LetGo);
            }
            held => held?,
        };
        // A predecessor may have come as far as that.
        if held.life.map_or(0, |life| life.serial) < self.number("serial").unwrap_or(1) {
            let limit = self.engine.settings.look;
            let connected = tokio::time::timeout(limit, self.next_credential(cluster)).await;
            self.lease.progressed();
            match connected.unwrap_or_else(|_| Ok(Err(silent())))? {
                Ok(issued) => self.keep(cluster, &issued).await?,
                Err(problem) if problem.code == DATABASE => return Ok(RunEnd::Unreadable),
                Err(problem) => return self.refused(cluster, problem).await.map(|()| RunEnd::LetGo),
            }
        }
        let taken_over = tokio::time::timeout(self.engine.settings.look, self.taken_over(cluster)).await;
        let done = match taken_over.unwrap_or_else(|_| Err(silent())) {
            Ok(Settled::Yes) => self.finish(OperationState::Succeeded).await,
            Ok(Settled::NotYet(reason)) => self.wait_for_replicas("control_plane_not_ready", reason).await,
            Err(problem) if problem.code == DATABASE => return Ok(RunEnd::Unreadable),
            Ok(Settled::Failing(problem)) | Err(problem) => {
                self.wait_for_replicas(&problem.code, problem.message).await
            }
        };
        done.map(|()| RunEnd::LetGo)
    }

    /// The cluster is held for this registration before anything is written into it: of two registrations that come at
    /// once, one writes.
    async fn next_credential(&self, cluster: ClusterId) -> Result<Result<Issued, Problem>, StoreError> {
        let uid = match self.engine.worlds.identify(self.claim.tenant, cluster).await {
            Ok(uid) => uid,
            Err(problem) => return Ok(Err(problem)),
        };
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        tx.hold_identity(cluster, &uid).await?;
        tx.commit().await?;
        Ok(self.engine.worlds.connect(self.claim.tenant, cluster).await)
    }

    fn number(&self, argument: &str) -> Option<i64> {
        self.operation.arguments[argument].as_i64()
    }

    async fn keep(&mut self, cluster: ClusterId, issued: &Issued) -> Result<(), StoreError> {
        let overlap = self.number("overlap_seconds").and_then(|seconds| u64::try_from(seconds).ok());
        let overlap = overlap.map_or(OVERLAP, Duration::from_secs);
        let now = self.now();
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        tx.renewed_credential(cluster, issued, overlap, now).await?;
        tx.note(Entry {
            at: now,
            actor: self.engine.settings.owner.clone(),
            action: "cluster.credential.made".into(),
            target: cluster.to_string(),
            request_id: Some(self.claim.operation.to_string()),
            before: None,
            after: Some(sha256(issued.uid.as_bytes())),
        });
        let running = Record { state: Some(OperationState::Running), ..Record::default() };
        let locked = self.record(&mut tx, &running).await?;
        locked.commit(tx).await?;
        self.operation.state = OperationState::Running;
        Ok(())
    }

    /// Whether the control planes read the cluster by its new credential, as far as each of their replicas says.
    async fn taken_over(&self, cluster: ClusterId) -> Result<Settled, Problem> {
        if self.operation.kind == OperationKind::RegisterCluster {
            return Ok(Settled::Yes);
        }
        let tended = self.engine.worlds.tend(self.claim.tenant, cluster).await?;
        // Without an overlap the caller wants the former credential dead, and is told so when it was seen to be.
        let alive = self.number("overlap_seconds") == Some(0) && !tended.settled;
        let former =
            if alive { Settled::NotYet("the cluster still accepts the former one".into()) } else { Settled::Yes };
        let lost = |error: StoreError| Problem::new(DATABASE, error.to_string(), "Try again.");
        let mut tx = self.engine.store.begin(self.claim.tenant).await.map_err(lost)?;
        let mesh = match tx.mesh_of(cluster).await.map_err(lost)? {
            Some(mesh) => tx.mesh(mesh).await.map_err(lost)?,
            None => return Ok(former),
        };
        drop(tx);
        if mesh.state != store::MeshState::Ready {
            return Ok(Settled::Yes);
        }
        let (world, layout) = self.engine.worlds.open(self.claim.tenant, mesh.id).await?;
        let seen = world.readiness(&layout.current.revision, &layout.members).await;
        let seen = seen.map_err(|error| error.problem(""))?;
        Ok(if seen == Settled::Yes { former } else { seen })
    }

    /// Looks again in a moment. The credential is renewed whatever the replicas say, and whoever looks after the cluster goes
    /// on bringing it to them.
    async fn wait_for_replicas(&mut self, code: &str, reason: String) -> Result<(), StoreError> {
        if self.waited() <= self.engine.settings.patience.step {
            return self.wait(reason).await;
        }
        let hint = "The credential was renewed, and control planes are still brought to it. See what keeps them from being ready.";
        let reason = reason.trim_end_matches('.');
        let message = format!("The clusters do not show yet that only the new one is in use: {reason}.");
        self.finish(OperationState::Failed { problem: Problem::new(code, message, hint) }).await
    }

    async fn refused(&mut self, cluster: ClusterId, problem: Problem) -> Result<(), StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let problem = match tx.cluster(cluster).await {
            Ok(_) => problem,
            Err(StoreError::NotFound { .. }) => gone(),
            Err(error) => return Err(error),
        };
        self.ended(tx, OperationState::Failed { problem }).await
    }

    pub(super) async fn finish(&mut self, state: OperationState) -> Result<(), StoreError> {
        let tx = self.engine.store.begin(self.claim.tenant).await?;
        self.ended(tx, state).await
    }

    pub(super) async fn ended(&mut self, mut tx: Tx<'_>, state: OperationState) -> Result<(), StoreError> {
        let record = Record { state: Some(state), ..Record::default() };
        let _locked = self.record(&mut tx, &record).await?;
        tx.release(&self.claim, None).await?;
        tx.commit().await?;
        vitals::recorded(&self.operation, &record, self.now());
        Ok(())
    }
}

/// The same words for every tenant: they do not tell whose the other registration is.
fn registered_already() -> Problem {
    let message = "This cluster is registered already, and a cluster has one registration.";
    let hint = "Use that registration, or delete it first with `meshwright cluster delete`. If it is not yours, ask the operator of the service.";
    Problem::new("cluster_registered_already", message, hint)
}

/// The cluster was deregistered while an operation dealt with it.
pub(super) fn gone() -> Problem {
    let hint = "Register it again if that was not intended.";
    Problem::new("cluster_gone", "The cluster was deregistered meanwhile.", hint)
}

/// A conversation that takes longer than any of its calls may.
pub(crate) fn silent() -> Problem {
    let hint = "See that the cluster's API server answers, then try again.";
    Problem::new("cluster_unreachable", "The cluster did not answer in time.", hint)
}
