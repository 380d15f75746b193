//! Deregistrations: our account is removed from a cluster, and a look shows that it is gone. Only then is the cluster
//! forgotten.

use jiff::SignedDuration;
use model::audit::Entry;
use model::ids::ClusterId;
use model::leftover::{Leftover, AccountRemoval};
use model::operation::{OperationState, Problem, is_cluster_lost_code};
use rollout::ports::AccountPresence;
use store::{OperationUpdate, StoreError};

use super::connect::cluster_gone;
use super::{Run, RunEnd, cluster_unreachable};
use crate::DATABASE_CODE;

/// What a deregistration waits for between two refusals of its credential.
const CREDENTIAL_REFUSED_REASON: &str = "the cluster refuses our credential; looking once more before the account counts as gone";
/// Time between two refusals that prove together that our account is gone.
const MIN_REFUSAL_INTERVAL: SignedDuration = SignedDuration::from_secs(5);

impl Run<'_> {
    /// A cluster that cannot be left is an answer, not a pause.
    pub(super) async fn run_deregistration(&mut self) -> Result<RunEnd, StoreError> {
        let cluster = self.operation.cluster.ok_or(StoreError::NotFound { what: "cluster" })?;
        let held = match self.engine.store.begin(self.claim.tenant).await?.get_cluster(cluster).await {
            Err(StoreError::NotFound { .. }) => return self.fail_deregistration(cluster_gone()).await.map(|()| RunEnd::Released),
            held => held?,
        };
        let mut seen = self.check_account(cluster, held.removal).await;
        if let Ok(AccountPresence::Present(leftovers)) = &seen {
            self.begin_removal(cluster, leftovers).await?;
            seen = self.check_account(cluster, AccountRemoval::Begun).await;
        }
        let done = match seen {
            Ok(AccountPresence::CredentialRefused) => self.handle_refused_credential(cluster).await,
            Ok(AccountPresence::Terminating(reason)) => {
                if held.removal != AccountRemoval::Accepted {
                    self.accept_removal(cluster).await?;
                }
                self.wait_until_gone(reason).await
            }
            Ok(AccountPresence::Present(_)) => self.wait_until_gone("our account is still there".into()).await,
            Err(problem) if problem.code == DATABASE_CODE => return Ok(RunEnd::DatabaseUnavailable),
            Err(problem) if is_cluster_lost_code(&problem.code) => return self.handle_lost_cluster(cluster, problem).await,
            Err(problem) => self.fail_deregistration(problem).await,
        };
        done.map(|()| RunEnd::Released)
    }

    /// One look, which removes the account once that has begun; a cluster that takes too long for it is silent.
    async fn check_account(&self, cluster: ClusterId, removal: AccountRemoval) -> Result<AccountPresence, Problem> {
        let look = self.engine.clusters.remove_account(self.claim.tenant, cluster, removal);
        let seen = tokio::time::timeout(self.engine.settings.cluster_timeout, look).await.unwrap_or_else(|_| Err(cluster_unreachable()));
        self.lease.mark_progress();
        seen
    }

    async fn begin_removal(&mut self, cluster: ClusterId, leftovers: &[Leftover]) -> Result<(), StoreError> {
        let now = self.now();
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let running = OperationUpdate { state: Some(OperationState::Running), ..OperationUpdate::default() };
        let locked = self.record_state(&mut tx, &running).await?;
        tx.record_removal_intent(cluster, now).await?;
        tx.record_leftovers(self.claim.operation, leftovers).await?;
        tx.record_audit(self.audit_entry_for("cluster.account.removal", cluster));
        locked.commit_and_renew(tx).await?;
        self.operation.state = OperationState::Running;
        Ok(())
    }

    async fn accept_removal(&mut self, cluster: ClusterId) -> Result<(), StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let locked = self.record_state(&mut tx, &OperationUpdate::default()).await?;
        tx.record_removal_accepted(cluster, self.now()).await?;
        locked.commit_and_renew(tx).await?;
        Ok(())
    }

    /// The account is gone when its credential is refused in two looks with some seconds in between.
    async fn handle_refused_credential(&mut self, cluster: ClusterId) -> Result<(), StoreError> {
        let second = matches!(&self.operation.state, OperationState::Waiting { reason, .. } if reason == CREDENTIAL_REFUSED_REASON);
        if second && self.time_unanswered() >= MIN_REFUSAL_INTERVAL {
            return self.finish_deregistration(cluster, None).await;
        }
        self.wait_for_answer(CREDENTIAL_REFUSED_REASON.into()).await
    }

    /// Forgets the cluster. One that is left behind keeps what is listed.
    async fn finish_deregistration(&mut self, cluster: ClusterId, behind: Option<(Vec<Leftover>, Problem)>) -> Result<(), StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        if let Some((leftovers, problem)) = &behind {
            tracing::info!(cluster.id = %cluster, code = problem.code, "a cluster is left behind, as a person asked");
            tx.record_leftovers(self.claim.operation, leftovers).await?;
        }
        tx.record_audit(self.audit_entry_for(if behind.is_some() { "cluster.left_behind" } else { "cluster.left" }, cluster));
        tx.delete_cluster(cluster).await?;
        self.finish_in_tx(tx, OperationState::Succeeded).await
    }

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

    async fn wait_until_gone(&mut self, reason: String) -> Result<(), StoreError> {
        if self.time_waited() <= self.engine.settings.timeouts.step {
            return self.release_waiting(reason).await;
        }
        let message = format!("Our account is not gone from the cluster: {reason}.");
        let hint = "See what keeps the objects in the namespace meshwright-system, then delete the cluster again with `meshwright cluster delete`.";
        self.fail_deregistration(Problem::new("still_there", message, hint)).await
    }

    /// The cluster is waited for first, also when it may be left behind: one lost answer says nothing.
    async fn handle_lost_cluster(&mut self, cluster: ClusterId, problem: Problem) -> Result<RunEnd, StoreError> {
        let done = if self.time_unanswered() <= self.engine.settings.timeouts.unreachable {
            self.wait_for_answer(problem.message).await
        } else if self.operation.is_forced() {
            match self.engine.clusters.list_left_behind(self.claim.tenant, cluster).await {
                Ok(leftovers) => self.finish_deregistration(cluster, Some((leftovers, problem))).await,
                Err(_) => return Ok(RunEnd::DatabaseUnavailable),
            }
        } else {
            let hint = "Bring the cluster back or renew its credential, then delete it again; or leave it behind with `meshwright cluster delete NAME --force --reason TEXT`.";
            self.fail_deregistration(Problem::new(problem.code, problem.message, hint)).await
        };
        done.map(|()| RunEnd::Released)
    }

    async fn fail_deregistration(&mut self, problem: Problem) -> Result<(), StoreError> {
        self.finish_cluster_operation(OperationState::Failed { problem }).await
    }
}
