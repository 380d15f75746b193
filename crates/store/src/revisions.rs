//! The one or two control planes of a mesh.

use model::ids::MeshId;
use model::version::{RevisionName, Version};

use crate::{StoreError, Tx};

impl Tx<'_> {
    pub(crate) async fn put_revision(
        &mut self,
        mesh: MeshId,
        part: &str,
        name: &RevisionName,
        version: &Version,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO revisions (tenant_id, mesh_id, part, name, version) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (tenant_id, mesh_id, part) DO UPDATE SET name = excluded.name, version = excluded.version",
            self.tenant.0,
            mesh.0,
            part,
            name.as_str(),
            version.to_string()
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Names the revision that an upgrade leads to.
    ///
    /// # Errors
    /// The version is not in the catalogue.
    pub async fn set_target(&mut self, mesh: MeshId, name: &RevisionName, version: &Version) -> Result<(), StoreError> {
        self.put_revision(mesh, "target", name, version).await
    }

    /// An upgrade is over: its target becomes current, or is forgotten.
    ///
    /// # Errors
    /// The database failed.
    pub async fn settle_target(&mut self, mesh: MeshId, becomes_current: bool) -> Result<(), StoreError> {
        if becomes_current {
            sqlx::query!(
                "UPDATE revisions AS current SET name = target.name, version = target.version FROM revisions AS target
                 WHERE current.tenant_id = $1 AND current.mesh_id = $2 AND current.part = 'current'
                   AND target.tenant_id = $1 AND target.mesh_id = $2 AND target.part = 'target'",
                self.tenant.0,
                mesh.0
            )
            .execute(&mut *self.inner)
            .await?;
        }
        sqlx::query!(
            "DELETE FROM revisions WHERE tenant_id = $1 AND mesh_id = $2 AND part = 'target'",
            self.tenant.0,
            mesh.0
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}
