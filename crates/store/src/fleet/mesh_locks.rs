//! Stores mesh locks, which give the right to change a mesh.

use meshwright_model::ids::{MeshId, OperationId};

use crate::StoreError;
use crate::db::query_areas::MeshQueries;

impl MeshQueries<'_, '_> {
    /// Acquires the mesh lock for an upgrade or operation.
    ///
    /// # Errors
    /// Returns [`StoreError::MeshLocked`], which names the holder.
    pub async fn acquire_mesh_lock(
        &mut self,
        mesh: MeshId,
        holder: &str,
    ) -> Result<(), StoreError> {
        let taken = sqlx::query!(
            "INSERT INTO mesh_slots (tenant_id, mesh_id, holder) VALUES ($1, $2, $3) ON CONFLICT (tenant_id, mesh_id) DO NOTHING",
            self.tx.tenant.0,
            mesh.0,
            holder
        )
        .execute(&mut *self.tx.inner)
        .await?;
        if taken.rows_affected() == 1 {
            return Ok(());
        }
        let holder = self
            .mesh_lock_holder(mesh)
            .await?
            .unwrap_or_else(|| "another change that has just ended".into());
        Err(StoreError::MeshLocked { holder })
    }

    /// Acquires the right to change the data plane of a mesh for an operation. This is the mesh
    /// lock if it is free, or a shared right beside an upgrade that changes nothing now, because it
    /// is planned, blocked or holding. One such operation runs at a time, and the upgrade does not
    /// continue before it has ended.
    ///
    /// # Errors
    /// Returns [`StoreError::MeshLocked`], which names the holder.
    pub async fn acquire_data_plane_lock(
        &mut self,
        mesh: MeshId,
        operation: OperationId,
    ) -> Result<(), StoreError> {
        match self.acquire_mesh_lock(mesh, &operation.to_string()).await {
            Err(StoreError::MeshLocked { holder }) => {
                self.share_mesh_lock(mesh, operation, holder).await
            }
            taken => taken,
        }
    }

    /// Shares the mesh lock with the upgrade that holds it, if that changes nothing now.
    async fn share_mesh_lock(
        &mut self,
        mesh: MeshId,
        operation: OperationId,
        holder: String,
    ) -> Result<(), StoreError> {
        // This is a statement of its own, so that the next one sees what the last holder of the
        // lock has committed.
        if let Some(guest) = self.data_plane_holder(mesh).await? {
            return Err(StoreError::MeshLocked { holder: guest });
        }
        let joined = sqlx::query!(
            "UPDATE mesh_slots SET guest = $3 WHERE tenant_id = $1 AND mesh_id = $2 AND guest IS NULL AND EXISTS (
                 SELECT FROM upgrades WHERE upgrades.tenant_id = $1 AND upgrades.mesh_id = $2 AND ended_at IS NULL
                     AND upgrades.state IN ('planned', 'blocked', 'holding'))",
            self.tx.tenant.0,
            mesh.0,
            operation.to_string()
        )
        .execute(&mut *self.tx.inner)
        .await?;
        if joined.rows_affected() == 1 {
            Ok(())
        } else {
            Err(StoreError::MeshLocked { holder })
        }
    }

    /// Reads the operation that shares the mesh lock with an upgrade. The lock's row stays locked
    /// until the transaction ends, so that no other operation can join meanwhile.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn data_plane_holder(&mut self, mesh: MeshId) -> Result<Option<String>, StoreError> {
        let guest = sqlx::query_scalar!(
            "SELECT guest FROM mesh_slots WHERE tenant_id = $1 AND mesh_id = $2 FOR UPDATE",
            self.tx.tenant.0,
            mesh.0
        );
        Ok(guest.fetch_optional(&mut *self.tx.inner).await?.flatten())
    }

    /// Reads the identifier of the upgrade or operation that holds the mesh lock.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn mesh_lock_holder(&mut self, mesh: MeshId) -> Result<Option<String>, StoreError> {
        let holder = sqlx::query_scalar!(
            "SELECT holder FROM mesh_slots WHERE tenant_id = $1 AND mesh_id = $2",
            self.tx.tenant.0,
            mesh.0
        );
        Ok(holder.fetch_optional(&mut *self.tx.inner).await?)
    }

    /// Frees the mesh lock, or the share of it, of this holder and of no other one. An operation
    /// that shares the lock of an upgrade takes the lock over when the upgrade ends.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn free_mesh_lock(&mut self, mesh: MeshId, holder: &str) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE mesh_slots SET holder = CASE WHEN holder = $3 THEN guest ELSE holder END, guest = NULL
             WHERE tenant_id = $1 AND mesh_id = $2 AND guest IS NOT NULL AND (holder = $3 OR guest = $3)",
            self.tx.tenant.0,
            mesh.0,
            holder
        )
        .execute(&mut *self.tx.inner)
        .await?;
        sqlx::query!(
            "DELETE FROM mesh_slots WHERE tenant_id = $1 AND mesh_id = $2 AND holder = $3",
            self.tx.tenant.0,
            mesh.0,
            holder
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }
}
