//! The credentials that we hold of clusters, and who looks after which cluster when.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx;
use model::backoff::retry_delay;
use model::credential::{CredentialStatus, CredentialLifetime, UNREACHABLE_AFTER_FAILURES};
use model::ids::{ClusterId, MeshId, TenantId};
use model::operation::{OperationKind, Problem};
use model::upgrade::Finding;

use crate::clusters::kubeconfig_associated_data;
use crate::error::to_json;
use crate::queue::to_uuids;
use crate::{Cluster, ClusterState, NewEvent, Store, StoreError, Tx, require_one_row, retry_on_conflict};

/// A credential of our own, as a cluster gave it.
#[derive(Debug, Clone)]
pub struct IssuedCredential {
    /// The cluster's identity.
    pub uid: String,
    /// Kubernetes' version as the cluster says it.
    pub kubernetes_version: String,
    /// The address of its API server that the credential was proved at.
    pub server: String,
    /// The credential, in our own strict form. Secret.
    pub kubeconfig: Vec<u8>,
    /// Its serial number, from 1: one more than the highest that is known here or was found in the cluster.
    pub serial: i64,
    /// When the cluster issued it.
    pub issued_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

/// What looking after a cluster showed.
#[derive(Debug, Clone)]
pub struct ClusterHealth {
    /// Kubernetes' version as the cluster says it.
    pub kubernetes_version: String,
    /// True when nothing of an older credential is left anywhere.
    pub old_credentials_revoked: bool,
    /// What its users should know of it.
    pub findings: Vec<Finding>,
}

/// A cluster to be looked after.
#[derive(Debug, Clone, Copy)]
pub struct ClusterCheck {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which.
    pub cluster: ClusterId,
    /// How often in a row it did not answer.
    pub failures: i32,
}

pub(crate) fn submitted_associated_data(id: ClusterId) -> String {
    format!("clusters.submitted/{id}")
}

pub(crate) fn former_associated_data(id: ClusterId) -> String {
    format!("clusters.former/{id}")
}

/// The constraint that two registrations of one cluster run into, in whichever tenants they are.
pub const CLUSTER_IDENTITY_CONSTRAINT: &str = "clusters_identity_unique";

impl Cluster {
    /// The arguments of the operation that renews the credential which this shows.
    pub fn renewal_arguments(&self, overlap: Duration) -> serde_json::Value {
        let serial = self.credential_lifetime.map_or(0, |life| life.serial) + 1;
        serde_json::json!({ "serial": serial, "overlap_seconds": overlap.as_secs() })
    }
}

impl Store {
    /// Takes the cluster that has been waiting the longest to be looked after for one look, which ends within `held`: no other
    /// look at it begins before. Clusters of the tenants in `without` are left out.
    ///
    /// # Errors
    /// The database failed.
    pub async fn claim_cluster_check(&self, held: Duration, excluded: &[TenantId]) -> Result<Option<ClusterCheck>, StoreError> {
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

impl Tx<'_> {
    /// Puts what was submitted beside the credential that is in use, for the renewal that comes next; `None` forgets it.
    ///
    /// # Errors
    /// There is no such cluster.
    pub async fn submit_kubeconfig(&mut self, id: ClusterId, kubeconfig: Option<&[u8]>) -> Result<(), StoreError> {
        let sealed = kubeconfig.map(|kubeconfig| self.seal(&submitted_associated_data(id), kubeconfig)).transpose()?;
        let done = sqlx::query!(
            "UPDATE clusters SET submitted = $3 WHERE tenant_id = $1 AND cluster_id = $2",
            self.tenant.0,
            id.0,
            sealed
        )
        .execute(&mut *self.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::NotFound { what: "cluster" })
    }

    /// What was submitted and is not ours: for the registration, or for a renewal.
    ///
    /// # Errors
    /// There is no such cluster, or it does not open.
    pub async fn submitted_kubeconfig(&mut self, id: ClusterId) -> Result<Option<Vec<u8>>, StoreError> {
        let row = sqlx::query!(
            "SELECT kubeconfig, submitted, serial FROM clusters WHERE tenant_id = $1 AND cluster_id = $2",
            self.tenant.0,
            id.0
        )
        .fetch_optional(&mut *self.inner)
        .await?
        .ok_or(StoreError::NotFound { what: "cluster" })?;
        match (row.submitted, row.serial) {
            (Some(sealed), _) => self.open(&submitted_associated_data(id), &sealed).await.map(Some),
            (None, 0) => self.open(&kubeconfig_associated_data(id), &row.kubeconfig).await.map(Some),
            (None, _) => Ok(None),
        }
    }

    /// Holds a cluster for a registration, before anything is written into it.
    ///
    /// # Errors
    /// Another registration holds it ([`ONE_REGISTRATION`]), or there is no such registration any more.
    pub async fn reserve_cluster_identity(&mut self, id: ClusterId, uid: &str) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE clusters SET identity = $3 WHERE tenant_id = $1 AND cluster_id = $2",
            self.tenant.0,
            id.0,
            uid
        )
        .execute(&mut *self.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::NotFound { what: "cluster" })
    }

    /// The credential of ours before the present one, until it was seen to be refused.
    ///
    /// # Errors
    /// There is no such cluster, or it does not open.
    pub async fn former_kubeconfig(&mut self, id: ClusterId) -> Result<Option<Vec<u8>>, StoreError> {
        let sealed = sqlx::query_scalar!(
            "SELECT former FROM clusters WHERE tenant_id = $1 AND cluster_id = $2",
            self.tenant.0,
            id.0
        )
        .fetch_optional(&mut *self.inner)
        .await?
        .ok_or(StoreError::NotFound { what: "cluster" })?;
        match sealed {
            Some(sealed) => self.open(&former_associated_data(id), &sealed).await.map(Some),
            None => Ok(None),
        }
    }

    /// Puts a new credential of our own in the place of what was there. The one before it is taken away after the overlap.
    ///
    /// # Errors
    /// There is no such cluster, or another registration holds it ([`ONE_REGISTRATION`]).
    pub async fn store_renewed_credential(
        &mut self,
        id: ClusterId,
        issued: &IssuedCredential,
        overlap: Duration,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let until = now + SignedDuration::try_from(overlap).unwrap_or(SignedDuration::ZERO);
        let sealed = self.seal(&kubeconfig_associated_data(id), &issued.kubeconfig)?;
        let present = self.cluster_kubeconfig(id).await?;
        let present = self.seal(&former_associated_data(id), &present)?;
        let done = sqlx::query!(
            "UPDATE clusters SET state = 'ready', problem = NULL, uid = $3, identity = $3, kubernetes_version = $4, kubeconfig = $5,
                 submitted = NULL, serial = $10, issued_at = $6, expires_at = $7, server = $11,
                 former = CASE WHEN serial > 0 THEN $12::bytea END,
                 previous_until = CASE WHEN serial > 0 THEN $8::timestamptz END, observed_at = $9,
                 -- The account is there again, so a removal that was once begun is over.
                 removal_began_at = NULL, removal_accepted_at = NULL
             WHERE tenant_id = $1 AND cluster_id = $2",
            self.tenant.0,
            id.0,
            issued.uid,
            issued.kubernetes_version,
            sealed,
            issued.issued_at.to_sqlx() as _,
            issued.expires_at.to_sqlx() as _,
            until.to_sqlx() as _,
            now.to_sqlx() as _,
            issued.serial,
            issued.server,
            present
        )
        .execute(&mut *self.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::NotFound { what: "cluster" })?;
        sqlx::query!(
            "INSERT INTO cluster_probes (cluster_id, tenant_id, due_at) VALUES ($1, $2, now())
             ON CONFLICT ON CONSTRAINT cluster_probes_pk DO UPDATE SET due_at = now(), failures = 0",
            id.0,
            self.tenant.0
        )
        .execute(&mut *self.inner)
        .await?;
        let body = serde_json::json!({ "serial": issued.serial, "expires_at": issued.expires_at.to_string() });
        self.push_cluster_event("cluster.credential_renewed", id, body, now);
        Ok(())
    }

    /// Keeps why a registration failed, and lets the cluster go that it held. A cluster that was ready before stays what it
    /// was; what was submitted is forgotten.
    ///
    /// # Errors
    /// There is no such cluster.
    pub(crate) async fn record_credential_failure(
        &mut self,
        id: ClusterId,
        problem: &Problem,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE clusters SET submitted = NULL, state = CASE WHEN serial = 0 THEN 'refused' ELSE state END,
                 problem = CASE WHEN serial = 0 THEN $3 ELSE problem END,
                 identity = CASE WHEN serial > 0 THEN identity END,
                 observed_at = CASE WHEN serial = 0 THEN $4 ELSE observed_at END
             WHERE tenant_id = $1 AND cluster_id = $2",
            self.tenant.0,
            id.0,
            to_json(problem),
            now.to_sqlx() as _
        )
        .execute(&mut *self.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::NotFound { what: "cluster" })
    }

    /// Records that a cluster answered, that it is looked after again in `rest`, and warns its owners once when its credential
    /// ends soon.
    ///
    /// # Errors
    /// The database failed.
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
            self.tenant.0,
            cluster.id.0,
            health.kubernetes_version,
            now.to_sqlx() as _,
            health.old_credentials_revoked,
            cluster.credential_lifetime.map_or(0, |life| life.serial),
            to_json(&health.findings)
        )
        .execute(&mut *self.inner)
        .await?;
        self.reschedule_cluster_check(cluster.id, rest, 0).await?;
        if matches!(cluster.state, ClusterState::Unreachable(_)) {
            self.push_cluster_event("cluster.reachable", cluster.id, serde_json::json!({}), now);
        }
        match cluster.credential_lifetime {
            Some(life) if life.status_at(now) == CredentialStatus::ExpiresSoon => self.warn_of_expiry(cluster.id, &life, now).await,
            _ => Ok(()),
        }
    }

    async fn warn_of_expiry(&mut self, id: ClusterId, life: &CredentialLifetime, now: Timestamp) -> Result<(), StoreError> {
        let first = sqlx::query!(
            "UPDATE clusters SET warned_serial = $3 WHERE tenant_id = $1 AND cluster_id = $2 AND warned_serial < $3",
            self.tenant.0,
            id.0,
            life.serial
        )
        .execute(&mut *self.inner)
        .await?;
        if first.rows_affected() == 1 {
            let body = serde_json::json!({ "serial": life.serial, "expires_at": life.expires_at.to_string() });
            self.push_cluster_event("cluster.credential_expires_soon", id, body, now);
        }
        Ok(())
    }

    /// Records that a cluster did not answer, and when it is asked again: ever later. A lost answer alone says nothing yet.
    ///
    /// # Errors
    /// The database failed.
    pub async fn record_failed_cluster_check(
        &mut self,
        cluster: &Cluster,
        failures: i32,
        problem: &Problem,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.reschedule_cluster_check(cluster.id, retry_delay(failures), failures).await?;
        let known = matches!(&cluster.state, ClusterState::Unreachable(known) if known.code == problem.code);
        if known || (failures < UNREACHABLE_AFTER_FAILURES && problem.is_unreachable()) {
            return Ok(());
        }
        sqlx::query!(
            "UPDATE clusters SET problem = $3 WHERE tenant_id = $1 AND cluster_id = $2 AND state = 'ready'",
            self.tenant.0,
            cluster.id.0,
            to_json(problem)
        )
        .execute(&mut *self.inner)
        .await?;
        self.push_cluster_event("cluster.unreachable", cluster.id, to_json(problem), now);
        Ok(())
    }

    /// A cluster that was made due during the look, by a renewal, stays due.
    async fn reschedule_cluster_check(&mut self, id: ClusterId, rest: Duration, failures: i32) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE cluster_probes SET failures = $3, due_at = CASE WHEN due_at > now() THEN now() + make_interval(secs => $4) ELSE due_at END
             WHERE cluster_id = $1 AND tenant_id = $2",
            id.0,
            self.tenant.0,
            failures,
            rest.as_secs_f64()
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// When the last renewal of a cluster's credential was asked for, and whether it is still under way.
    ///
    /// # Errors
    /// The database failed.
    pub async fn last_renewal(&mut self, id: ClusterId) -> Result<Option<(Timestamp, bool)>, StoreError> {
        let row = sqlx::query!(
            "SELECT created_at, ended_at IS NULL AS \"open!\" FROM operations
             WHERE tenant_id = $1 AND cluster_id = $2 AND kind = $3 ORDER BY operation_id DESC LIMIT 1",
            self.tenant.0,
            id.0,
            OperationKind::RenewCredential.as_str()
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        Ok(row.map(|row| (row.created_at.to_jiff(), row.open)))
    }

    /// The mesh that a cluster belongs to.
    ///
    /// # Errors
    /// The database failed.
    pub async fn mesh_of_cluster(&mut self, id: ClusterId) -> Result<Option<MeshId>, StoreError> {
        let found = sqlx::query_scalar!(
            "SELECT mesh_id FROM memberships WHERE tenant_id = $1 AND cluster_id = $2",
            self.tenant.0,
            id.0
        );
        Ok(found.fetch_optional(&mut *self.inner).await?.map(MeshId))
    }

    fn push_cluster_event(&mut self, kind: &'static str, id: ClusterId, body: serde_json::Value, at: Timestamp) {
        let mut body = body;
        body["cluster_id"] = id.to_string().into();
        self.push_event(NewEvent { at, kind, mesh: None, upgrade: None, operation: None, body });
    }
}
