//! Monitors each cluster at an interval: checks that it answers, and starts the renewal of a
//! credential that is due.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use meshwright_model::credential::DEFAULT_CREDENTIAL_OVERLAP;
use meshwright_model::ids::{OperationId, TenantId};
use meshwright_model::operation::OperationKind;
use meshwright_store::{Cluster, ClusterCheck, ClusterState, NewOperation, StoreError, Tx};

use crate::guarded_call::run_with_timeout;
use crate::metrics;
use crate::rounds::WorkLoop;
use crate::run::cluster_unreachable;
use crate::{DATABASE_CODE, Engine};

/// Minimum time between two renewals of a cluster's credential, so that a failed one is not
/// repeated at once. A credential that is due for renewal stays valid for weeks.
const MIN_RENEWAL_INTERVAL: SignedDuration = SignedDuration::from_hours(1);

/// Work loop that monitors clusters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClusterMonitoring;

#[async_trait]
impl WorkLoop for ClusterMonitoring {
    type Due = ClusterCheck;
    const NAME: &'static str = "tend";
    const MAX_CONCURRENT: usize = 16;

    async fn claim_due(
        &self,
        engine: &Engine,
        without: &[TenantId],
    ) -> Result<Option<(TenantId, ClusterCheck)>, StoreError> {
        let probe = engine
            .store
            .claim_cluster_check(engine.item_claim_duration(), without)
            .await?;
        Ok(probe.map(|probe| (probe.tenant, probe)))
    }

    async fn process_due(&self, engine: &Engine, due: ClusterCheck) -> Result<(), StoreError> {
        engine.check_cluster(due).await
    }
}

impl Engine {
    /// Checks the cluster that has been due longest. Returns false when no cluster is due.
    ///
    /// # Errors
    /// Returns an error when the database does not answer. The cluster is due again later.
    pub async fn monitor_due(&self) -> Result<bool, StoreError> {
        let Some(probe) = self
            .store
            .claim_cluster_check(self.item_claim_duration(), &[])
            .await?
        else {
            return Ok(false);
        };
        self.check_cluster(probe).await.map(|()| true)
    }

    /// Checks a cluster, records whether it answers, and starts the renewal of a credential that is
    /// due.
    async fn check_cluster(&self, probe: ClusterCheck) -> Result<(), StoreError> {
        let begun = self.clock.now();
        let answer = match run_with_timeout(
            self.settings.cluster_timeout,
            self.clusters.monitor_cluster(probe.tenant, probe.cluster),
        )
        .await
        {
            Ok(Err(problem)) if problem.code == DATABASE_CODE => return Ok(()),
            Ok(answer) => answer,
            Err(missed) => {
                metrics::report_given_up_call(ClusterMonitoring::NAME, missed);
                Err(cluster_unreachable())
            }
        };
        let now = self.clock.now();
        let mut tx = self.store.begin(probe.tenant).await?;
        let cluster = match tx.clusters().get_cluster(probe.cluster).await {
            // The cluster was deregistered while the check ran.
            Err(StoreError::NotFound { .. }) => return Ok(()),
            found => found?,
        };
        if cluster.state == ClusterState::Deregistering {
            return Ok(());
        }
        match answer {
            Ok(tended) => {
                let rest = self.next_check_delay(begun, self.settings.cluster_check_interval);
                tx.clusters()
                    .record_cluster_health(&cluster, &tended, rest, now)
                    .await?;
                if cluster
                    .credential_lifetime
                    .is_none_or(|life| life.renews_at() <= now)
                {
                    self.enqueue_renewal(&mut tx, &probe, &cluster, now).await?;
                }
            }
            Err(problem) => {
                let failures = probe.failures.saturating_add(1);
                tracing::debug!(cluster.id = %probe.cluster, failures, code = problem.code.as_str(), "the check of the cluster failed");
                tx.clusters()
                    .record_failed_cluster_check(&cluster, failures, &problem, now)
                    .await?;
            }
        }
        tx.commit().await
    }

    /// Queues the renewal of a cluster's credential, unless one is under way or one was started a
    /// short time ago.
    async fn enqueue_renewal(
        &self,
        tx: &mut Tx<'_>,
        probe: &ClusterCheck,
        cluster: &Cluster,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let tried = tx.clusters().last_renewal(probe.cluster).await?;
        if tried.is_some_and(|(at, open)| open || now.duration_since(at) < MIN_RENEWAL_INTERVAL) {
            return Ok(());
        }
        tracing::info!(cluster.id = %probe.cluster, "the credential of the cluster is due; starting its renewal");
        let operation = NewOperation {
            id: OperationId(self.clock.new_uuid()),
            kind: OperationKind::RenewCredential,
            mesh: None,
            cluster: Some(probe.cluster),
            upgrade: None,
            arguments: cluster.renewal_arguments(DEFAULT_CREDENTIAL_OVERLAP),
            due_in: std::time::Duration::ZERO,
        };
        tx.operations().create_operation(&operation, now).await
    }
}
