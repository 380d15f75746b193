//! Schedules the cluster checks and records their results.

use std::time::Duration;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::backoff::retry_delay;
use meshwright_model::credential::{
    CredentialLifetime, CredentialStatus, UNREACHABLE_AFTER_FAILURES,
};
use meshwright_model::ids::{ClusterId, TenantId};
use meshwright_model::operation::Problem;
use meshwright_model::upgrade::Finding;
use meshwright_model::webhook::EventKind;

use crate::db::query_areas::ClusterQueries;
use crate::db::statements::{retry_on_conflict, to_uuids};
use crate::error::to_json;
use crate::{Cluster, ClusterState, Store, StoreError};

/// Results of a cluster check that got an answer.
#[derive(Debug, Clone)]
pub struct ClusterHealth {
    /// Kubernetes version as the cluster reports it.
    pub kubernetes_version: String,
    /// True when no older credential of ours is left, neither in the cluster nor in use.
    pub old_credentials_revoked: bool,
    /// Findings that the cluster's users should know of.
    pub findings: Vec<Finding>,
}

/// A cluster that is due for a cluster check.
#[derive(Debug, Clone, Copy)]
pub struct ClusterCheck {
    /// Tenant that the cluster belongs to.
    pub tenant: TenantId,
    /// Cluster to be checked.
    pub cluster: ClusterId,
    /// Number of checks in a row that the cluster did not answer.
    pub failures: i32,
}

impl Store {
    /// Claims the cluster whose check has been due the longest. The caller finishes the check
    /// within `held`, and no other check of this cluster starts before that. Clusters of the
    /// tenants in `excluded` are left out.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn claim_cluster_check(
        &self,
        held: Duration,
        excluded: &[TenantId],
    ) -> Result<Option<ClusterCheck>, StoreError> {
        let excluded = to_uuids(excluded, |id| id.0);
        let take = || async {
            let row = sqlx::query!(
                "UPDATE cluster_probes SET due_at = now() + make_interval(secs => $1)
                 WHERE cluster_id = (SELECT cluster_id FROM cluster_probes WHERE due_at <= now() AND tenant_id <> ALL($2)
                     ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
                 RETURNING cluster_id, tenant_id, failures",
                held.as_secs_f64(),
                &excluded
            )
            .fetch_optional(&self.pool)
            .await?;
            Ok(row.map(|row| ClusterCheck {
                tenant: TenantId(row.tenant_id),
                cluster: ClusterId(row.cluster_id),
                failures: row.failures,
            }))
        };
        retry_on_conflict(take).await
    }
}

impl ClusterQueries<'_, '_> {
    /// Records that a cluster answered, and schedules its next check after `rest`. When the
    /// credential expires soon, this pushes one warning event for it.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn record_cluster_health(
        &mut self,
        cluster: &Cluster,
        health: &ClusterHealth,
        rest: Duration,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE clusters SET problem = NULL, kubernetes_version = $3, observed_at = $4, findings = $7,
                 former = CASE WHEN $5 AND serial = $6 AND previous_until <= $4 THEN NULL ELSE former END,
                 previous_until = CASE WHEN $5 AND serial = $6 AND previous_until <= $4 THEN NULL ELSE previous_until END
             WHERE tenant_id = $1 AND cluster_id = $2 AND state = 'ready'",
            self.tx.tenant.0,
            cluster.id.0,
            health.kubernetes_version,
            now.to_sqlx() as _,
            health.old_credentials_revoked,
            cluster.credential_lifetime.map_or(0, |life| life.serial),
            to_json(&health.findings)
        )
        .execute(&mut *self.tx.inner)
        .await?;
        self.reschedule_cluster_check(cluster.id, rest, 0).await?;
        if matches!(cluster.state, ClusterState::Unreachable(_)) {
            self.push_cluster_event(
                EventKind::ClusterReachable,
                cluster.id,
                serde_json::json!({}),
                now,
            );
        }
        match cluster.credential_lifetime {
            Some(life) if life.status_at(now) == CredentialStatus::ExpiresSoon => {
                self.warn_of_expiry(cluster.id, &life, now).await
            }
            _ => Ok(()),
        }
    }

    async fn warn_of_expiry(
        &mut self,
        id: ClusterId,
        life: &CredentialLifetime,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let first = sqlx::query!(
            "UPDATE clusters SET warned_serial = $3 WHERE tenant_id = $1 AND cluster_id = $2 AND warned_serial < $3",
            self.tx.tenant.0,
            id.0,
            life.serial
        )
        .execute(&mut *self.tx.inner)
        .await?;
        if first.rows_affected() == 1 {
            let body = serde_json::json!({ "serial": life.serial, "expires_at": life.expires_at.to_string() });
            self.push_cluster_event(EventKind::ClusterCredentialExpiresSoon, id, body, now);
        }
        Ok(())
    }

    /// Records that a cluster did not answer, and schedules its next check after a delay that grows
    /// with `failures`. One lost answer does not make the cluster unreachable yet.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn record_failed_cluster_check(
        &mut self,
        cluster: &Cluster,
        failures: i32,
        problem: &Problem,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.reschedule_cluster_check(cluster.id, retry_delay(failures), failures)
            .await?;
        let known = matches!(&cluster.state, ClusterState::Unreachable(known) if known.code == problem.code);
        if known || (failures < UNREACHABLE_AFTER_FAILURES && problem.is_unreachable()) {
            return Ok(());
        }
        sqlx::query!(
            "UPDATE clusters SET problem = $3 WHERE tenant_id = $1 AND cluster_id = $2 AND state = 'ready'",
            self.tx.tenant.0,
            cluster.id.0,
            to_json(problem)
        )
        .execute(&mut *self.tx.inner)
        .await?;
        self.push_cluster_event(
            EventKind::ClusterUnreachable,
            cluster.id,
            to_json(problem),
            now,
        );
        Ok(())
    }

    /// Schedules the next check of a cluster. A renewal may have made the cluster due during the
    /// check; then it stays due.
    async fn reschedule_cluster_check(
        &mut self,
        id: ClusterId,
        rest: Duration,
        failures: i32,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE cluster_probes SET failures = $3, due_at = CASE WHEN due_at > now() THEN now() + make_interval(secs => $4) ELSE due_at END
             WHERE cluster_id = $1 AND tenant_id = $2",
            id.0,
            self.tx.tenant.0,
            failures,
            rest.as_secs_f64()
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }
}
