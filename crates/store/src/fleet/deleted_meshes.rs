//! Stores the parts of deleted meshes with which they can be restored.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::ids::{ClusterId, MeshId};

use crate::StoreError;
use crate::db::query_areas::MeshQueries;
use crate::db::statements::require_one_row;

/// The stored parts with which a deleted mesh can be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedMesh {
    /// Former member clusters; the first one is the config cluster.
    pub members: Vec<ClusterId>,
    /// Whether the key and certificates of its mesh CA are still stored.
    pub has_authority: bool,
}

impl MeshQueries<'_, '_> {
    /// Reads the stored parts of a deleted mesh.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such mesh or the mesh is not
    /// deleted.
    pub async fn get_deleted_mesh(&mut self, id: MeshId) -> Result<DeletedMesh, StoreError> {
        let row = sqlx::query!(
            r#"SELECT former_members, length(authority) > 0 AS "authority!" FROM meshes
               WHERE tenant_id = $1 AND mesh_id = $2 AND state = 'deleted'"#,
            self.tx.tenant.0,
            id.0
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?
        .ok_or(StoreError::NotFound { what: "mesh" })?;
        Ok(DeletedMesh {
            members: row.former_members.into_iter().map(ClusterId).collect(),
            has_authority: row.authority,
        })
    }

    /// Restores a deleted mesh, in state `creating`. Its leftovers stay recorded until a creation or
    /// a deletion has succeeded, because until then they may still be in their clusters.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such deleted mesh, and
    /// [`StoreError::Conflict`] with `meshes_name_unique` when its name is taken by now, or with
    /// `memberships_one_mesh` when one of its clusters is in another mesh.
    pub async fn undelete_mesh(
        &mut self,
        id: MeshId,
        members: &[ClusterId],
    ) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE meshes SET state = 'creating', deleted_at = NULL, former_members = '{}', generation = generation + 1
             WHERE tenant_id = $1 AND mesh_id = $2 AND state = 'deleted'",
            self.tx.tenant.0,
            id.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::NotFound { what: "mesh" })?;
        // Meshes that an earlier release deleted may still have the target of an abandoned upgrade.
        self.resolve_target_revision(id, false).await?;
        self.add_members(id, members).await
    }

    /// Erases the authorities of meshes that were deleted before a time. Those meshes cannot be
    /// restored afterwards.
    pub(crate) async fn purge_deleted_mesh_authorities(
        &mut self,
        before: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE meshes SET authority = '' WHERE tenant_id = $1 AND state = 'deleted' AND deleted_at < $2 AND length(authority) > 0",
            self.tx.tenant.0,
            before.to_sqlx() as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }
}
