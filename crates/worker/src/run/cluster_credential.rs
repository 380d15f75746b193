//! Registers clusters and renews their credentials: issues the next credential of a cluster and,
//! after a renewal, waits until the control planes use it.

use std::time::Duration;

use meshwright_model::OpenEnum;
use meshwright_model::audit::Entry;
use meshwright_model::credential::DEFAULT_CREDENTIAL_OVERLAP;
use meshwright_model::ids::ClusterId;
use meshwright_model::operation::{OperationKind, OperationState, Problem};
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::Readiness;
use meshwright_store::{
    CLUSTER_IDENTITY_CONSTRAINT, IssuedCredential, OperationUpdate, StoreError, Tx, sha256,
};

use super::{Run, RunEnd};
use crate::DATABASE_CODE;
use crate::metrics;

impl Run<'_> {
    /// Runs a registration or a renewal. A cluster that cannot be used fails the operation and does
    /// not pause it, because the problem is the answer to the request.
    pub(super) async fn run_credential_issue(&mut self) -> Result<RunEnd, StoreError> {
        let cluster = self
            .operation
            .cluster
            .ok_or(StoreError::NotFound { what: "cluster" })?;
        let problem = match self.issue_and_distribute(cluster).await {
            Err(StoreError::Conflict { constraint })
                if constraint == CLUSTER_IDENTITY_CONSTRAINT =>
            {
                cluster_registered_already()
            }
            Err(StoreError::NotFound { what: "cluster" }) => cluster_gone(),
            ended => return ended,
        };
        self.fail_credential_issue(cluster, problem).await
    }

    /// Issues the next credential if it does not exist yet. A renewal then waits until the control
    /// planes use it.
    async fn issue_and_distribute(&mut self, cluster: ClusterId) -> Result<RunEnd, StoreError> {
        // The block ends the transaction before the next one begins.
        let held = {
            self.engine
                .store
                .begin(self.claim.tenant)
                .await?
                .clusters()
                .get_cluster(cluster)
                .await
        };
        let held = match held {
            Err(StoreError::NotFound { .. }) => {
                return self
                    .finish_cluster_operation(OperationState::Failed {
                        problem: cluster_gone(),
                    })
                    .await;
            }
            held => held?,
        };
        // An earlier claim may have issued and stored the credential already.
        if held.credential_lifetime.map_or(0, |life| life.serial)
            < self.integer_argument("serial").unwrap_or(1)
        {
            let limit = self.engine.settings.cluster_timeout;
            let connected = tokio::time::timeout(limit, self.issue_next_credential(cluster)).await;
            self.lease.mark_progress();
            match connected.unwrap_or_else(|_| Ok(Err(cluster_unreachable())))? {
                Ok(issued) => self.store_credential(cluster, &issued).await?,
                Err(problem) if problem.code == DATABASE_CODE => {
                    return Ok(RunEnd::DatabaseUnavailable);
                }
                Err(problem) => {
                    return self.fail_credential_issue(cluster, problem).await;
                }
            }
        }
        let taken_over = tokio::time::timeout(
            self.engine.settings.cluster_timeout,
            self.check_credential_adoption(cluster),
        )
        .await;
        match taken_over.unwrap_or_else(|_| Err(cluster_unreachable())) {
            Ok(Readiness::Ready) => {
                self.finish_cluster_operation(OperationState::Succeeded)
                    .await
            }
            Ok(Readiness::Pending(reason)) => {
                self.wait_for_replicas(ProblemCode::ControlPlaneNotReady, reason)
                    .await
            }
            Err(problem) if problem.code == DATABASE_CODE => Ok(RunEnd::DatabaseUnavailable),
            Ok(Readiness::Failing(problem)) | Err(problem) => {
                self.wait_for_replicas(problem.code, problem.message).await
            }
        }
    }

    /// Issues the next credential of a cluster. The identity of the cluster is reserved for this
    /// registration before anything is written to the cluster, so that only one of two concurrent
    /// registrations writes.
    async fn issue_next_credential(
        &self,
        cluster: ClusterId,
    ) -> Result<Result<IssuedCredential, Problem>, StoreError> {
        let uid = match self
            .engine
            .clusters
            .identify_cluster(self.claim.tenant, cluster)
            .await
        {
            Ok(uid) => uid,
            Err(problem) => return Ok(Err(problem)),
        };
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        tx.clusters()
            .reserve_cluster_identity(cluster, &uid)
            .await?;
        tx.commit().await?;
        Ok(self
            .engine
            .clusters
            .issue_credential(self.claim.tenant, cluster)
            .await)
    }

    /// Returns an argument of the operation as an integer, if it has that argument.
    fn integer_argument(&self, argument: &str) -> Option<i64> {
        self.operation.arguments[argument].as_i64()
    }

    /// Stores an issued credential with its audit entry. The former credential stays valid for the
    /// overlap.
    async fn store_credential(
        &mut self,
        cluster: ClusterId,
        issued: &IssuedCredential,
    ) -> Result<(), StoreError> {
        let overlap = self
            .integer_argument("overlap_seconds")
            .and_then(|seconds| u64::try_from(seconds).ok());
        let overlap = overlap.map_or(DEFAULT_CREDENTIAL_OVERLAP, Duration::from_secs);
        let now = self.now();
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        tx.clusters()
            .store_renewed_credential(cluster, issued, overlap, now)
            .await?;
        tx.audit().record_audit(Entry {
            at: now,
            actor: self.engine.settings.worker_name.clone(),
            action: "cluster.credential.made".into(),
            target: cluster.to_string(),
            request_id: Some(self.claim.operation.to_string()),
            before: None,
            after: Some(sha256(issued.uid.as_bytes())),
        });
        let running = OperationUpdate {
            state: Some(OperationState::Running),
            ..OperationUpdate::default()
        };
        let locked = self.record_state(&mut tx, &running).await?;
        locked.commit_and_renew(tx).await?;
        self.operation.state = OperationState::Running;
        Ok(())
    }

    /// Checks whether every replica of the control planes reports that it uses the new credential
    /// of the cluster.
    async fn check_credential_adoption(&self, cluster: ClusterId) -> Result<Readiness, Problem> {
        if self.operation.kind == OperationKind::RegisterCluster {
            return Ok(Readiness::Ready);
        }
        let tended = self
            .engine
            .clusters
            .monitor_cluster(self.claim.tenant, cluster)
            .await?;
        // Without an overlap the caller wants the former credential revoked, so the operation only
        // succeeds after the cluster was seen to refuse it.
        let alive =
            self.integer_argument("overlap_seconds") == Some(0) && !tended.old_credentials_revoked;
        let former = if alive {
            Readiness::Pending("the cluster still accepts the former one".into())
        } else {
            Readiness::Ready
        };
        let lost = |error: StoreError| Problem::new(DATABASE_CODE, error.to_string(), "Try again.");
        let mut tx = self
            .engine
            .store
            .begin(self.claim.tenant)
            .await
            .map_err(lost)?;
        let mesh = match tx.clusters().mesh_of_cluster(cluster).await.map_err(lost)? {
            Some(mesh) => tx.meshes().get_mesh(mesh).await.map_err(lost)?,
            None => return Ok(former),
        };
        drop(tx);
        if mesh.state != meshwright_store::MeshState::Ready {
            return Ok(Readiness::Ready);
        }
        let (world, layout) = self
            .engine
            .clusters
            .open_mesh(self.claim.tenant, mesh.id)
            .await?;
        let seen = world
            .check_readiness(&layout.current.revision, &layout.members)
            .await;
        let seen = seen.map_err(|error| error.to_problem(""))?;
        Ok(if seen == Readiness::Ready {
            former
        } else {
            seen
        })
    }

    /// Waits for the control planes, and fails the operation after the step timeout. The credential
    /// is renewed in either case, and the cluster monitor continues to bring it to the control
    /// planes.
    async fn wait_for_replicas(
        &mut self,
        code: impl Into<OpenEnum<ProblemCode>>,
        reason: String,
    ) -> Result<RunEnd, StoreError> {
        if self.time_waited() <= self.engine.settings.timeouts.step {
            return self.release_waiting(reason).await;
        }
        let hint = "The credential was renewed, and control planes are still brought to it. See what keeps them from being ready.";
        let reason = reason.trim_end_matches('.');
        let message =
            format!("The clusters do not show yet that only the new one is in use: {reason}.");
        self.finish_cluster_operation(OperationState::Failed {
            problem: Problem::new(code, message, hint),
        })
        .await
    }

    /// Ends the operation as failed because the cluster cannot be used. If the cluster was
    /// deregistered meanwhile, that is the problem.
    async fn fail_credential_issue(
        &mut self,
        cluster: ClusterId,
        problem: Problem,
    ) -> Result<RunEnd, StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let problem = match tx.clusters().get_cluster(cluster).await {
            Ok(_) => problem,
            Err(StoreError::NotFound { .. }) => cluster_gone(),
            Err(error) => return Err(error),
        };
        self.finish_in_tx(tx, OperationState::Failed { problem })
            .await
    }

    /// Ends an operation on a cluster in a new transaction.
    pub(super) async fn finish_cluster_operation(
        &mut self,
        state: OperationState,
    ) -> Result<RunEnd, StoreError> {
        let tx = self.engine.store.begin(self.claim.tenant).await?;
        self.finish_in_tx(tx, state).await
    }

    /// Ends an operation on a cluster in a transaction that may hold other changes.
    pub(super) async fn finish_in_tx(
        &mut self,
        mut tx: Tx<'_>,
        state: OperationState,
    ) -> Result<RunEnd, StoreError> {
        let record = OperationUpdate {
            state: Some(state),
            ..OperationUpdate::default()
        };
        let _locked = self.record_state(&mut tx, &record).await?;
        tx.operations().end_claim(&self.claim, None).await?;
        tx.commit().await?;
        metrics::count_record(&self.operation, &record, self.now());
        Ok(RunEnd::Finished)
    }
}

/// Builds the problem of a cluster that has another registration. The text is the same for every
/// tenant, so that it does not reveal the owner of the other registration.
fn cluster_registered_already() -> Problem {
    let message = "This cluster is registered already, and a cluster has one registration.";
    let hint = "Use that registration, or delete it first with `meshwright cluster delete`. If it is not yours, ask the operator of the service.";
    Problem::new(ProblemCode::ClusterRegisteredAlready, message, hint)
}

/// Builds the problem of a cluster that was deregistered while an operation used it.
pub(super) fn cluster_gone() -> Problem {
    let hint = "Register it again if that was not intended.";
    Problem::new(
        ProblemCode::ClusterGone,
        "The cluster was deregistered meanwhile.",
        hint,
    )
}

/// Builds the problem of a cluster that did not answer within the timeout for all calls together.
pub(crate) fn cluster_unreachable() -> Problem {
    let hint = "See that the cluster's API server answers, then try again.";
    Problem::new(
        ProblemCode::ClusterUnreachable,
        "The cluster did not answer in time.",
        hint,
    )
}
