//! Stores the progress of clusters that are being deregistered.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::ids::{ClusterId, OperationId};
use meshwright_model::operation::OperationState;

use crate::StoreError;
use crate::db::query_areas::ClusterQueries;
use crate::db::statements::require_one_row;

impl ClusterQueries<'_, '_> {
    /// Assigns a cluster to the operation that deregisters it. From then on no mesh can take the
    /// cluster, and cluster checks stop. A deregistration that is already under way is superseded.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] with `memberships_cluster_fk` when a mesh uses the cluster,
    /// and [`StoreError::NotFound`] when this tenant has no such cluster.
    pub async fn begin_deregistration(
        &mut self,
        id: ClusterId,
        operation: OperationId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if self.mesh_of_cluster(id).await?.is_some() {
            return Err(StoreError::Conflict {
                constraint: "memberships_cluster_fk".into(),
            });
        }
        let earlier = sqlx::query_scalar!(
            "SELECT leaving FROM clusters WHERE tenant_id = $1 AND cluster_id = $2 FOR UPDATE",
            self.tx.tenant.0,
            id.0
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?
        .ok_or(StoreError::NotFound { what: "cluster" })?;
        if let Some(earlier) = earlier {
            self.tx
                .operations()
                .supersede_operation(OperationId(earlier), &OperationState::Superseded, now)
                .await?;
        }
        let done = sqlx::query!(
            "UPDATE clusters SET leaving = $3 WHERE tenant_id = $1 AND cluster_id = $2",
            self.tx.tenant.0,
            id.0,
            operation.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(
            done.rows_affected(),
            StoreError::NotFound { what: "cluster" },
        )?;
        sqlx::query!(
            "DELETE FROM cluster_probes WHERE cluster_id = $1 AND tenant_id = $2",
            id.0,
            self.tx.tenant.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }

    /// Records that the removal of our service account may begin. The caller commits this before
    /// the first call that removes anything.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such cluster.
    pub async fn record_removal_intent(
        &mut self,
        id: ClusterId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE clusters SET removal_began_at = coalesce(removal_began_at, $3) WHERE tenant_id = $1 AND cluster_id = $2",
            self.tx.tenant.0,
            id.0,
            now.to_sqlx() as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(
            done.rows_affected(),
            StoreError::NotFound { what: "cluster" },
        )
    }

    /// Records that the cluster has accepted the removal of our service account.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such cluster, and
    /// [`StoreError::Conflict`] with `clusters_removal_check` when the removal was not begun.
    pub async fn record_removal_accepted(
        &mut self,
        id: ClusterId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE clusters SET removal_accepted_at = coalesce(removal_accepted_at, $3) WHERE tenant_id = $1 AND cluster_id = $2",
            self.tx.tenant.0,
            id.0,
            now.to_sqlx() as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(
            done.rows_affected(),
            StoreError::NotFound { what: "cluster" },
        )
    }

    /// Takes a cluster back from a deregistration that has ended, and resumes its cluster checks.
    pub(crate) async fn revert_deregistration(
        &mut self,
        operation: OperationId,
    ) -> Result<(), StoreError> {
        let kept = sqlx::query_scalar!(
            "UPDATE clusters SET leaving = NULL WHERE tenant_id = $1 AND leaving = $2 RETURNING cluster_id",
            self.tx.tenant.0,
            operation.0
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?;
        let Some(cluster) = kept else { return Ok(()) };
        sqlx::query!(
            "INSERT INTO cluster_probes (cluster_id, tenant_id, due_at) VALUES ($1, $2, now())
             ON CONFLICT ON CONSTRAINT cluster_probes_pk DO NOTHING",
            cluster,
            self.tx.tenant.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }
}
