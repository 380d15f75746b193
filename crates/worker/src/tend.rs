//! Looks after each cluster from time to time: whether it answers, and whether its credential is to be renewed.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use model::credential::OVERLAP;
use model::ids::{OperationId, TenantId};
use model::operation::OperationKind;
use store::{Cluster, ClusterState, NewOperation, Probe, StoreError, Tx};

use crate::rounds::{Round, guarded};
use crate::run::silent;
use crate::{DATABASE, Engine, vitals};

/// How long nothing is tried after a renewal that failed. A credential that is due is good for weeks.
const BETWEEN_RENEWALS: SignedDuration = SignedDuration::from_hours(1);

/// The care for clusters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tending;

#[async_trait]
impl Round for Tending {
    type Due = Probe;
    const NAME: &'static str = "tend";
    const WIDTH: usize = 16;

    async fn claim(&self, engine: &Engine, without: &[TenantId]) -> Result<Option<(TenantId, Probe)>, StoreError> {
        let probe = engine.store.claim_cluster(engine.held(), without).await?;
        Ok(probe.map(|probe| (probe.tenant, probe)))
    }

    async fn work(&self, engine: &Engine, due: Probe) -> Result<(), StoreError> {
        engine.tend(due).await
    }
}

impl Engine {
    /// Looks after the cluster that is due the longest. Answers false when none is.
    ///
    /// # Errors
    /// The database failed; the cluster is due again later.
    pub async fn tend_due(&self) -> Result<bool, StoreError> {
        let Some(probe) = self.store.claim_cluster(self.held(), &[]).await? else { return Ok(false) };
        self.tend(probe).await.map(|()| true)
    }

    async fn tend(&self, probe: Probe) -> Result<(), StoreError> {
        let begun = self.clock.now();
        let answer = match guarded(self.settings.look, self.worlds.tend(probe.tenant, probe.cluster)).await {
            Ok(Err(problem)) if problem.code == DATABASE => return Ok(()),
            Ok(answer) => answer,
            Err(missed) => {
                vitals::missed(Tending::NAME, missed);
                Err(silent())
            }
        };
        let now = self.clock.now();
        let mut tx = self.store.begin(probe.tenant).await?;
        let cluster = match tx.cluster(probe.cluster).await {
            // Forgotten in between.
            Err(StoreError::NotFound { .. }) => return Ok(()),
            found => found?,
        };
        if cluster.state == ClusterState::Deregistering {
            return Ok(());
        }
        match answer {
            Ok(tended) => {
                let rest = self.rest_after(begun, self.settings.tend);
                tx.cluster_answered(&cluster, &tended, rest, now).await?;
                if cluster.life.is_none_or(|life| life.renews_at() <= now) {
                    self.renew(&mut tx, &probe, &cluster, now).await?;
                }
            }
            Err(problem) => {
                let failures = probe.failures.saturating_add(1);
                tracing::debug!(cluster.id = %probe.cluster, failures, code = problem.code, "a cluster does not answer");
                tx.cluster_silent(&cluster, failures, &problem, now).await?;
            }
        }
        tx.commit().await
    }

    async fn renew(&self, tx: &mut Tx<'_>, probe: &Probe, cluster: &Cluster, now: Timestamp) -> Result<(), StoreError> {
        let tried = tx.last_renewal(probe.cluster).await?;
        if tried.is_some_and(|(at, open)| open || now.duration_since(at) < BETWEEN_RENEWALS) {
            return Ok(());
        }
        tracing::info!(cluster.id = %probe.cluster, "its credential is due for renewal");
        let operation = NewOperation {
            id: OperationId(self.clock.uuid()),
            kind: OperationKind::RenewCredential,
            mesh: None,
            cluster: Some(probe.cluster),
            upgrade: None,
            arguments: cluster.renewal(OVERLAP),
            due_in: std::time::Duration::ZERO,
        };
        tx.create_operation(&operation, now).await
    }
}
