//! Deregistrations: our account is removed from a cluster, and a look shows that it is gone. Only then is the cluster
//! forgotten.

use jiff::SignedDuration;
use model::audit::Entry;
use model::ids::ClusterId;
use model::leftover::{Leftover, Removal};
use model::operation::{OperationState, Problem, is_lost};
use rollout::ports::Presence;
use store::{Record, StoreError};

use super::connect::gone;
use super::{Run, RunEnd, silent};
use crate::DATABASE;

/// What a deregistration waits for between two refusals of its credential.
const REFUSED: &str = "the cluster refuses our credential; looking once more before the account counts as gone";
/// Time between two refusals that prove together that our account is gone.
const BETWEEN_REFUSALS: SignedDuration = SignedDuration::from_secs(5);

impl Run<'_> {
    /// A cluster that cannot be left is an answer, not a pause.
    pub(super) async fn leave(&mut self) -> Result<RunEnd, StoreError> {
        let cluster = self.operation.cluster.ok_or(StoreError::NotFound { what: "cluster" })?;
        let held = match self.engine.store.begin(self.claim.tenant).await?.cluster(cluster).await {
            Err(StoreError::NotFound { .. }) => return self.stays(gone()).await.map(|()| RunEnd::LetGo),
            held => held?,
        };
        let mut seen = self.look_at_account(cluster, held.removal).await;
        if let Ok(Presence::There(leftovers)) = &seen {
            self.begin_removal(cluster, leftovers).await?;
            seen = self.look_at_account(cluster, Removal::Begun).await;
        }
        let done = match seen {
            Ok(Presence::Refused) => self.refused_credential(cluster).await,
            Ok(Presence::Going(reason)) => {
                if held.removal != Removal::Accepted {
                    self.accept_removal(cluster).await?;
                }
                self.wait_until_gone(reason).await
            }
            Ok(Presence::There(_)) => self.wait_until_gone("our account is still there".into()).await,
            Err(problem) if problem.code == DATABASE => return Ok(RunEnd::Unreadable),
            Err(problem) if is_lost(&problem.code) => return self.lost(cluster, problem).await,
            Err(problem) => self.stays(problem).await,
        };
        done.map(|()| RunEnd::LetGo)
    }

    /// One look, which removes the account once that has begun; a cluster that takes too long for it is silent.
    async fn look_at_account(&self, cluster: ClusterId, removal: Removal) -> Result<Presence, Problem> {
        let look = self.engine.worlds.leave(self.claim.tenant, cluster, removal);
        let seen = tokio::time::timeout(self.engine.settings.look, look).await.unwrap_or_else(|_| Err(silent()));
        self.lease.progressed();
        seen
    }

    async fn begin_removal(&mut self, cluster: ClusterId, leftovers: &[Leftover]) -> Result<(), StoreError> {
        let now = self.now();
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let running = Record { state: Some(OperationState::Running), ..Record::default() };
        let locked = self.record(&mut tx, &running).await?;
        tx.begin_removal(cluster, now).await?;
        tx.keep_leftovers(self.claim.operation, leftovers).await?;
        tx.note(self.left_entry("cluster.account.removal", cluster));
        locked.commit(tx).await?;
        self.operation.state = OperationState::Running;
        Ok(())
    }

    async fn accept_removal(&mut self, cluster: ClusterId) -> Result<(), StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        let locked = self.record(&mut tx, &Record::default()).await?;
        tx.accept_removal(cluster, self.now()).await?;
        locked.commit(tx).await?;
        Ok(())
    }

    /// The account is gone when its credential is refused in two looks with some seconds in between.
    async fn refused_credential(&mut self, cluster: ClusterId) -> Result<(), StoreError> {
        let second = matches!(&self.operation.state, OperationState::Waiting { reason, .. } if reason == REFUSED);
        if second && self.silent() >= BETWEEN_REFUSALS {
            return self.left(cluster, None).await;
        }
        self.wait_for_an_answer(REFUSED.into()).await
    }

    /// Forgets the cluster. One that is left behind keeps what is listed.
    async fn left(&mut self, cluster: ClusterId, behind: Option<(Vec<Leftover>, Problem)>) -> Result<(), StoreError> {
        let mut tx = self.engine.store.begin(self.claim.tenant).await?;
        if let Some((leftovers, problem)) = &behind {
            tracing::info!(cluster.id = %cluster, code = problem.code, "a cluster is left behind, as a person asked");
            tx.keep_leftovers(self.claim.operation, leftovers).await?;
        }
        tx.note(self.left_entry(if behind.is_some() { "cluster.left_behind" } else { "cluster.left" }, cluster));
        tx.delete_cluster(cluster).await?;
        self.ended(tx, OperationState::Succeeded).await
    }

    fn left_entry(&self, action: &str, cluster: ClusterId) -> Entry {
        Entry {
            at: self.now(),
            actor: self.engine.settings.owner.clone(),
            action: action.into(),
            target: cluster.to_string(),
            request_id: Some(self.claim.operation.to_string()),
            before: None,
            after: None,
        }
    }

    async fn wait_until_gone(&mut self, reason: String) -> Result<(), StoreError> {
        if self.waited() <= self.engine.settings.patience.step {
            return self.wait(reason).await;
        }
        let message = format!("Our account is not gone from the cluster: {reason}.");
        let hint = "See what keeps the objects in the namespace meshwright-system, then delete the cluster again with `meshwright cluster delete`.";
        self.stays(Problem::new("still_there", message, hint)).await
    }

    /// The cluster is waited for first, also when it may be left behind: one lost answer says nothing.
    async fn lost(&mut self, cluster: ClusterId, problem: Problem) -> Result<RunEnd, StoreError> {
        let done = if self.silent() <= self.engine.settings.patience.unreachable {
            self.wait_for_an_answer(problem.message).await
        } else if self.operation.forced() {
            match self.engine.worlds.left_behind(self.claim.tenant, cluster).await {
                Ok(leftovers) => self.left(cluster, Some((leftovers, problem))).await,
                Err(_) => return Ok(RunEnd::Unreadable),
            }
        } else {
            let hint = "Bring the cluster back or renew its credential, then delete it again; or leave it behind with `meshwright cluster delete NAME --force --reason TEXT`.";
            self.stays(Problem::new(problem.code, problem.message, hint)).await
        };
        done.map(|()| RunEnd::LetGo)
    }

    async fn stays(&mut self, problem: Problem) -> Result<(), StoreError> {
        self.finish(OperationState::Failed { problem }).await
    }
}
