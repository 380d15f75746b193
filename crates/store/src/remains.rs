//! What is left of deleted meshes, and how they are brought back.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use model::ids::{ClusterId, MeshId};

use crate::{StoreError, Tx, require_one_row};

/// What a deleted mesh can be brought back with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedMesh {
    /// The clusters that it had, the config cluster first.
    pub members: Vec<ClusterId>,
    /// Whether its authority is still kept.
    pub has_authority: bool,
}

impl Tx<'_> {
    /// What is left of a deleted mesh.
    ///
    /// # Errors
    /// There is none of that id in this tenant.
    pub async fn get_deleted_mesh(&mut self, id: MeshId) -> Result<DeletedMesh, StoreError> {
        let row = sqlx::query!(
            r#"SELECT former_members, length(authority) > 0 AS "authority!" FROM meshes
               WHERE tenant_id = $1 AND mesh_id = $2 AND state = 'deleted'"#,
            self.tenant.0,
            id.0
        )
        .fetch_optional(&mut *self.inner)
        .await?
        .ok_or(StoreError::NotFound { what: "mesh" })?;
        Ok(DeletedMesh { members: row.former_members.into_iter().map(ClusterId).collect(), has_authority: row.authority })
    }

    /// Brings a deleted mesh back, in state `creating`.
    ///
    /// # Errors
    /// Its name is taken by now (`meshes_name_unique`), or a cluster of its is in another mesh (`memberships_one_mesh`).
    pub async fn undelete_mesh(&mut self, id: MeshId, members: &[ClusterId]) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE meshes SET state = 'creating', deleted_at = NULL, former_members = '{}', leftovers = '[]', generation = generation + 1
             WHERE tenant_id = $1 AND mesh_id = $2 AND state = 'deleted'",
            self.tenant.0,
            id.0
        )
        .execute(&mut *self.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::NotFound { what: "mesh" })?;
        self.add_members(id, members).await
    }

    /// Forgets for good what a mesh could have been brought back with that was deleted before a time.
    pub(crate) async fn purge_deleted_mesh_authorities(&mut self, before: Timestamp) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE meshes SET authority = '' WHERE tenant_id = $1 AND state = 'deleted' AND deleted_at < $2 AND length(authority) > 0",
            self.tenant.0,
            before.to_sqlx() as _
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}
