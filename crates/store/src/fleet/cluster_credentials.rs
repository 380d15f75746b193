//! Stores the credentials that we hold in clusters.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx;
use meshwright_model::ids::ClusterId;
use meshwright_model::operation::{OperationKind, Problem};
use meshwright_model::webhook::EventKind;

use crate::db::query_areas::ClusterQueries;
use crate::db::statements::require_one_row;
use crate::error::to_json;
use crate::fleet::clusters::kubeconfig_associated_data;
use crate::{Cluster, StoreError};

/// A credential of our own service account, as a cluster issued it.
#[derive(Debug, Clone)]
pub struct IssuedCredential {
    /// UID of the cluster's kube-system namespace, which identifies the cluster.
    pub uid: String,
    /// Kubernetes version as the cluster reports it.
    pub kubernetes_version: String,
    /// Address of the API server that accepted the new credential.
    pub server: String,
    /// Kubeconfig with the credential, in the strict form that we accept. It is a secret.
    pub kubeconfig: Vec<u8>,
    /// Serial number of the credential, from 1. It is one more than the highest number that is
    /// stored here or was found in the cluster.
    pub serial: i64,
    /// Time when the cluster issued the credential.
    pub issued_at: Timestamp,
    /// Time when the credential expires.
    pub expires_at: Timestamp,
}

pub(crate) fn submitted_associated_data(id: ClusterId) -> String {
    format!("clusters.submitted/{id}")
}

pub(crate) fn former_associated_data(id: ClusterId) -> String {
    format!("clusters.former/{id}")
}

/// Unique constraint that a second registration of the same cluster violates, in whichever tenant
/// it is.
pub const CLUSTER_IDENTITY_CONSTRAINT: &str = "clusters_identity_unique";

impl Cluster {
    /// Returns the arguments of the operation that renews this cluster's credential. They hold the
    /// next serial number and the overlap in seconds.
    pub fn renewal_arguments(&self, overlap: Duration) -> serde_json::Value {
        let serial = self.credential_lifetime.map_or(0, |life| life.serial) + 1;
        serde_json::json!({ "serial": serial, "overlap_seconds": overlap.as_secs() })
    }
}

impl ClusterQueries<'_, '_> {
    /// Stores a submitted kubeconfig beside the credential in use, for the renewal that follows.
    /// `None` deletes it.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such cluster.
    pub async fn submit_kubeconfig(
        &mut self,
        id: ClusterId,
        kubeconfig: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let sealed = kubeconfig
            .map(|kubeconfig| self.tx.seal(&submitted_associated_data(id), kubeconfig))
            .transpose()?;
        let done = sqlx::query!(
            "UPDATE clusters SET submitted = $3 WHERE tenant_id = $1 AND cluster_id = $2",
            self.tx.tenant.0,
            id.0,
            sealed
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(
            done.rows_affected(),
            StoreError::NotFound { what: "cluster" },
        )
    }

    /// Reads and unseals the kubeconfig that a user submitted, for the registration or for a
    /// renewal. Returns `None` when the only kubeconfig is that of our own credential.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such cluster, and
    /// [`StoreError::UnsealFailed`] when the kubeconfig does not open.
    pub async fn submitted_kubeconfig(
        &mut self,
        id: ClusterId,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let row = sqlx::query!(
            "SELECT kubeconfig, submitted, serial FROM clusters WHERE tenant_id = $1 AND cluster_id = $2",
            self.tx.tenant.0,
            id.0
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?
        .ok_or(StoreError::NotFound { what: "cluster" })?;
        match (row.submitted, row.serial) {
            // Until the registration has issued a credential of ours (serial 0), the column holds
            // the submitted kubeconfig.
            (Some(sealed), _) => self
                .tx
                .open(&submitted_associated_data(id), &sealed)
                .await
                .map(Some),
            (None, 0) => self
                .tx
                .open(&kubeconfig_associated_data(id), &row.kubeconfig)
                .await
                .map(Some),
            (None, _) => Ok(None),
        }
    }

    /// Reserves the identity of a cluster for a registration, before anything is written into the
    /// cluster.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] with [`CLUSTER_IDENTITY_CONSTRAINT`] when another
    /// registration holds the cluster, and [`StoreError::NotFound`] when the registration is gone.
    pub async fn reserve_cluster_identity(
        &mut self,
        id: ClusterId,
        uid: &str,
    ) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE clusters SET identity = $3 WHERE tenant_id = $1 AND cluster_id = $2",
            self.tx.tenant.0,
            id.0,
            uid
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(
            done.rows_affected(),
            StoreError::NotFound { what: "cluster" },
        )
    }

    /// Reads and unseals our previous credential. It is stored until a check has seen that the
    /// cluster refuses it.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such cluster, and
    /// [`StoreError::UnsealFailed`] when the credential does not open.
    pub async fn former_kubeconfig(
        &mut self,
        id: ClusterId,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let sealed = sqlx::query_scalar!(
            "SELECT former FROM clusters WHERE tenant_id = $1 AND cluster_id = $2",
            self.tx.tenant.0,
            id.0
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?
        .ok_or(StoreError::NotFound { what: "cluster" })?;
        match sealed {
            Some(sealed) => self
                .tx
                .open(&former_associated_data(id), &sealed)
                .await
                .map(Some),
            None => Ok(None),
        }
    }

    /// Replaces the stored credential by a new one of our own. The previous credential is removed
    /// from the cluster after `overlap`.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such cluster, and
    /// [`StoreError::Conflict`] with [`CLUSTER_IDENTITY_CONSTRAINT`] when another registration
    /// holds the cluster.
    pub async fn store_renewed_credential(
        &mut self,
        id: ClusterId,
        issued: &IssuedCredential,
        overlap: Duration,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let until = now + SignedDuration::try_from(overlap).unwrap_or(SignedDuration::ZERO);
        let sealed = self
            .tx
            .seal(&kubeconfig_associated_data(id), &issued.kubeconfig)?;
        let present = self.cluster_kubeconfig(id).await?;
        let present = self.tx.seal(&former_associated_data(id), &present)?;
        let done = sqlx::query!(
            "UPDATE clusters SET state = 'ready', problem = NULL, uid = $3, identity = $3, kubernetes_version = $4, kubeconfig = $5,
                 submitted = NULL, serial = $10, issued_at = $6, expires_at = $7, server = $11,
                 former = CASE WHEN serial > 0 THEN $12::bytea END,
                 previous_until = CASE WHEN serial > 0 THEN $8::timestamptz END, observed_at = $9,
                 -- The account is there again, so a removal that was once begun is over.
                 removal_began_at = NULL, removal_accepted_at = NULL
             WHERE tenant_id = $1 AND cluster_id = $2",
            self.tx.tenant.0,
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
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(
            done.rows_affected(),
            StoreError::NotFound { what: "cluster" },
        )?;
        sqlx::query!(
            "INSERT INTO cluster_probes (cluster_id, tenant_id, due_at) VALUES ($1, $2, now())
             ON CONFLICT ON CONSTRAINT cluster_probes_pk DO UPDATE SET due_at = now(), failures = 0",
            id.0,
            self.tx.tenant.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        let body = serde_json::json!({ "serial": issued.serial, "expires_at": issued.expires_at.to_string() });
        self.push_cluster_event(EventKind::ClusterCredentialRenewed, id, body, now);
        Ok(())
    }

    /// Records why a registration or renewal failed, and deletes the submitted kubeconfig. A
    /// cluster that was never ready becomes `refused` and gives up the identity that it held; a
    /// cluster that was ready keeps its state.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such cluster.
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
            self.tx.tenant.0,
            id.0,
            to_json(problem),
            now.to_sqlx() as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(
            done.rows_affected(),
            StoreError::NotFound { what: "cluster" },
        )
    }

    /// Reads when the last renewal of a cluster's credential was requested, and whether it is still
    /// under way.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn last_renewal(
        &mut self,
        id: ClusterId,
    ) -> Result<Option<(Timestamp, bool)>, StoreError> {
        let row = sqlx::query!(
            "SELECT created_at, ended_at IS NULL AS \"open!\" FROM operations
             WHERE tenant_id = $1 AND cluster_id = $2 AND kind = $3 ORDER BY operation_id DESC LIMIT 1",
            self.tx.tenant.0,
            id.0,
            OperationKind::RenewCredential.as_str()
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?;
        Ok(row.map(|row| (row.created_at.to_jiff(), row.open)))
    }
}
