//! Clusters that are being deregistered.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use model::ids::{ClusterId, OperationId};
use model::operation::OperationState;

use crate::{StoreError, Tx, require_one_row};

impl Tx<'_> {
    /// Gives a cluster to the operation that deregisters it. No mesh takes it from then on, and it is not looked after. An
    /// earlier deregistration that is under way is superseded.
    ///
    /// # Errors
    /// A mesh uses it (`memberships_cluster_fk`), or there is no such cluster.
    pub async fn begin_deregistration(
        &mut self,
        id: ClusterId,
        operation: OperationId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if self.mesh_of_cluster(id).await?.is_some() {
            return Err(StoreError::Conflict { constraint: "memberships_cluster_fk".into() });
        }
        let earlier = sqlx::query_scalar!(
            "SELECT leaving FROM clusters WHERE tenant_id = $1 AND cluster_id = $2 FOR UPDATE",
            self.tenant.0,
            id.0
        )
        .fetch_optional(&mut *self.inner)
        .await?
        .ok_or(StoreError::NotFound { what: "cluster" })?;
        if let Some(earlier) = earlier {
            self.supersede_operation(OperationId(earlier), &OperationState::Superseded, now).await?;
        }
        let done = sqlx::query!(
            "UPDATE clusters SET leaving = $3 WHERE tenant_id = $1 AND cluster_id = $2",
            self.tenant.0,
            id.0,
            operation.0
        )
        .execute(&mut *self.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::NotFound { what: "cluster" })?;
        sqlx::query!("DELETE FROM cluster_probes WHERE cluster_id = $1 AND tenant_id = $2", id.0, self.tenant.0)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// Commits to the removal of our account, before the first call that removes anything.
    ///
    /// # Errors
    /// There is no such cluster.
    pub async fn record_removal_intent(&mut self, id: ClusterId, now: Timestamp) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE clusters SET removal_began_at = coalesce(removal_began_at, $3) WHERE tenant_id = $1 AND cluster_id = $2",
            self.tenant.0,
            id.0,
            now.to_sqlx() as _
        )
        .execute(&mut *self.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::NotFound { what: "cluster" })
    }

    /// Keeps that the cluster has accepted the removal of our account.
    ///
    /// # Errors
    /// There is no such cluster, or the removal was not begun (`clusters_removal_check`).
    pub async fn record_removal_accepted(&mut self, id: ClusterId, now: Timestamp) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE clusters SET removal_accepted_at = coalesce(removal_accepted_at, $3) WHERE tenant_id = $1 AND cluster_id = $2",
            self.tenant.0,
            id.0,
            now.to_sqlx() as _
        )
        .execute(&mut *self.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::NotFound { what: "cluster" })
    }

    /// Takes a cluster back from the operation that was to deregister it and has ended; it is looked after again.
    pub(crate) async fn revert_deregistration(&mut self, operation: OperationId) -> Result<(), StoreError> {
        let kept = sqlx::query_scalar!(
            "UPDATE clusters SET leaving = NULL WHERE tenant_id = $1 AND leaving = $2 RETURNING cluster_id",
            self.tenant.0,
            operation.0
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        let Some(cluster) = kept else { return Ok(()) };
        sqlx::query!(
            "INSERT INTO cluster_probes (cluster_id, tenant_id, due_at) VALUES ($1, $2, now())
             ON CONFLICT ON CONSTRAINT cluster_probes_pk DO NOTHING",
            cluster,
            self.tenant.0
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}
