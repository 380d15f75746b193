//! Deregisters clusters: removes our service account from a cluster, and deletes the cluster's
//! record only after a check shows that the account is gone.

use jiff::SignedDuration;
use meshwright_model::audit::Entry;
use meshwright_model::ids::ClusterId;
use meshwright_model::leftover::{AccountRemoval, Leftover};
use meshwright_model::operation::{OperationState, Problem};
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::AccountPresence;
use meshwright_store::{OperationUpdate, StoreError};

use super::cluster_credential::cluster_gone;
use super::{Run, RunEnd, cluster_unreachable};
use crate::DATABASE_CODE;

/// Reason of the wait between two refusals of the credential. It is also compared with the stored
/// reason to recognize the second refusal.
const CREDENTIAL_REFUSED_REASON: &str =
    "the cluster refuses our credential; looking once more before the account counts as gone";
/// Minimum time between two refusals of our credential that together prove that the account is
/// gone.
const MIN_REFUSAL_INTERVAL: SignedDuration = SignedDuration::from_secs(5);

impl Run<'_> {
    /// Runs a deregistration. A cluster that cannot be left fails the operation and does not pause
    /// it, because the problem is the answer to the request.
    pub(super) async fn run_deregistration(&mut self) -> Result<RunEnd, StoreError> {
        let cluster = self
            .operation
            .cluster
            .ok_or(StoreError::NotFound { what: "cluster" })?;
        let held = match self
            .engine
            .store
            .begin(self.claim.tenant)
            .await?
            .clusters()
            .get_cluster(cluster)
            .await
        {
            Err(StoreError::NotFound { .. }) => {
                return self.fail_deregistration(cluster_gone()).await;
            }
            held => held?,
        };
        let mut seen = self.check_account(cluster, held.removal).await;
        if let Ok(AccountPresence::Present(leftovers)) = &seen {
            self.begin_removal(cluster, leftovers).await?;
            seen = self.check_account(cluster, AccountRemoval::Begun).await;
        }
        match seen {
            Ok(AccountPresence::CredentialRefused) => self.handle_refused_credential(cluster).await,
            Ok(AccountPresence::Terminating(reason)) => {
                if held.removal != AccountRemoval::Accepted {
                    self.accept_removal(cluster).await?;
                }
                self.wait_until_gone(reason).await
            }
            Ok(AccountPresence::Present(_)) => {
                self.wait_until_gone("our account is still there".into())
                    .await
            }
            Err(problem) if problem.code == DATABASE_CODE => Ok(RunEnd::DatabaseUnavailable),
            Err(problem) if problem.is_cluster_lost() => {
                self.handle_lost_cluster(cluster, problem).await
            }
            Err(problem) => self.fail_deregistration(problem).await,
        }
    }

    /// Reads our account in the cluster, and removes it once the removal has begun. A cluster that
    /// exceeds the timeout counts as unreachable.
    async fn check_account(
        &self,
        cluster: ClusterId,
        removal: AccountRemoval,
    ) -> Result<AccountPresence, Problem> {
        let look = self
            .engine
            .clusters
            .remove_account(self.claim.tenant, cluster, removal);
        let seen = tokio::time::timeout(self.engine.settings.cluster_timeout, look)
            .await
            .unwrap_or_else(|_| Err(cluster_unreachable()));
        self.lease.mark_progress();
        seen
    }

    /// Records that the removal begins, with the objects that will stay in the cluster.
    async fn begin_removal(
        &mut self,
        cluster: ClusterId,
        leftovers: &[Leftover],
    ) -> Result<(), StoreError> {
        let now = self.now();
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let running = OperationUpdate {
            state: Some(OperationState::Running),
            ..OperationUpdate::default()
        };
        let locked = self.record_state(&mut tx, &running).await?;
        tx.clusters().record_removal_intent(cluster, now).await?;
        tx.meshes()
            .record_leftovers(self.claim.operation, leftovers)
            .await?;
        tx.audit()
            .record_audit(self.audit_entry_for("cluster.account.removal", cluster));
        locked.commit_and_renew(tx).await?;
        self.operation.state = OperationState::Running;
        Ok(())
    }

    /// Records that the cluster has accepted the removal. From now on repeated refusals of our
    /// credential prove that the account is gone.
    async fn accept_removal(&mut self, cluster: ClusterId) -> Result<(), StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let locked = self
            .record_state(&mut tx, &OperationUpdate::default())
            .await?;
        tx.clusters()
            .record_removal_accepted(cluster, self.now())
            .await?;
        locked.commit_and_renew(tx).await?;
        Ok(())
    }

    /// Handles a refused credential. The account counts as gone when two checks with some seconds
    /// between them are refused. The time counts from the first refusal, because a silence before
    /// it proves nothing.
    async fn handle_refused_credential(
        &mut self,
        cluster: ClusterId,
    ) -> Result<RunEnd, StoreError> {
        let refused_before = matches!(&self.operation.state, OperationState::Waiting { reason, .. } if reason == CREDENTIAL_REFUSED_REASON);
        if !refused_before {
            return self
                .restart_wait_for_answer(CREDENTIAL_REFUSED_REASON.into())
                .await;
        }
        if self.time_unanswered() >= MIN_REFUSAL_INTERVAL {
            return self.finish_deregistration(cluster, None).await;
        }
        self.wait_for_answer(CREDENTIAL_REFUSED_REASON.into()).await
    }

    /// Ends the deregistration and deletes the cluster's record. For a cluster that is left behind,
    /// the objects that stay in it are recorded.
    async fn finish_deregistration(
        &mut self,
        cluster: ClusterId,
        behind: Option<(Vec<Leftover>, Problem)>,
    ) -> Result<RunEnd, StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        if let Some((leftovers, problem)) = &behind {
            tracing::info!(cluster.id = %cluster, code = problem.code.as_str(), "the cluster is left behind, because the deregistration was forced");
            tx.meshes()
                .record_leftovers(self.claim.operation, leftovers)
                .await?;
        }
        tx.audit().record_audit(self.audit_entry_for(
            if behind.is_some() {
                "cluster.left_behind"
            } else {
                "cluster.left"
            },
            cluster,
        ));
        tx.clusters().delete_cluster(cluster).await?;
        self.finish_in_tx(tx, OperationState::Succeeded).await
    }

    /// Builds an audit entry of the deregistration.
    fn audit_entry_for(&self, action: &str, cluster: ClusterId) -> Entry {
        Entry {
            at: self.now(),
            actor: self.engine.settings.worker_name.clone(),
            action: action.into(),
            target: cluster.to_string(),
            request_id: Some(self.claim.operation.to_string()),
            before: None,
            after: None,
        }
    }

    /// Waits until the account is gone, and fails the deregistration after the step timeout.
    async fn wait_until_gone(&mut self, reason: String) -> Result<RunEnd, StoreError> {
        if self.time_waited() <= self.engine.settings.timeouts.step {
            return self.release_waiting(reason).await;
        }
        let message = format!("Our account is not gone from the cluster: {reason}.");
        let hint = "See what keeps the objects in the namespace meshwright-system, then delete the cluster again with `meshwright cluster delete`.";
        self.fail_deregistration(Problem::new(ProblemCode::StillThere, message, hint))
            .await
    }

    /// Handles a cluster that is lost to us. The operation waits for it first, even if the cluster
    /// may be left behind, because one failed call proves nothing.
    async fn handle_lost_cluster(
        &mut self,
        cluster: ClusterId,
        problem: Problem,
    ) -> Result<RunEnd, StoreError> {
        if self.time_unanswered() <= self.engine.settings.timeouts.unreachable {
            self.wait_for_answer(problem.message).await
        } else if self.operation.is_forced() {
            match self
                .engine
                .clusters
                .list_left_behind(self.claim.tenant, cluster)
                .await
            {
                Ok(leftovers) => {
                    self.finish_deregistration(cluster, Some((leftovers, problem)))
                        .await
                }
                Err(_) => Ok(RunEnd::DatabaseUnavailable),
            }
        } else {
            let hint = "Bring the cluster back or renew its credential, then delete it again; or leave it behind with `meshwright cluster delete NAME --force --reason TEXT`.";
            self.fail_deregistration(Problem::new(problem.code, problem.message, hint))
                .await
        }
    }

    /// Ends the deregistration as failed; the cluster stays registered.
    async fn fail_deregistration(&mut self, problem: Problem) -> Result<RunEnd, StoreError> {
        self.finish_cluster_operation(OperationState::Failed { problem })
            .await
    }
}
