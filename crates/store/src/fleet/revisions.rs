//! Stores the one or two revisions of a mesh.

use meshwright_model::ids::MeshId;
use meshwright_model::switch;
use meshwright_model::version::{RevisionName, Version};

use crate::StoreError;
use crate::db::query_areas::MeshQueries;
use crate::db::statements::require_one_row;
use crate::error::{decode_column, to_json};

impl MeshQueries<'_, '_> {
    /// Adds the revision that a new mesh starts with. Its switches are the defaults of its release.
    pub(crate) async fn set_current_revision(
        &mut self,
        mesh: MeshId,
        version: &Version,
    ) -> Result<(), StoreError> {
        let defaults = sqlx::query_scalar!(
            r#"SELECT coalesce(body -> 'switches', '{}') AS "switches!" FROM releases WHERE version = $1"#,
            version.to_string()
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?
        .unwrap_or_else(|| serde_json::json!({}));
        let name = version.revision_name();
        let defaults = decode_column(
            serde_json::from_value(defaults),
            "releases",
            "body.switches",
            version,
        )?;
        sqlx::query!(
            "INSERT INTO revisions (tenant_id, mesh_id, part, name, version, switches) VALUES ($1, $2, 'current', $3, $4, $5)",
            self.tx.tenant.0,
            mesh.0,
            name.as_str(),
            version.to_string(),
            to_json(&switch::initial_switches(&defaults))
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }

    /// Adds the revision that an upgrade leads to. It starts with the switches of the current
    /// revision.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] with `revisions_release_fk` when the version is not in the
    /// catalogue, and [`StoreError::NotFound`] when this tenant has no such mesh.
    pub async fn set_target_revision(
        &mut self,
        mesh: MeshId,
        name: &RevisionName,
        version: &Version,
    ) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "INSERT INTO revisions (tenant_id, mesh_id, part, name, version, switches)
             SELECT tenant_id, mesh_id, 'target', $3, $4, switches FROM revisions
             WHERE tenant_id = $1 AND mesh_id = $2 AND part = 'current'
             ON CONFLICT (tenant_id, mesh_id, part)
             DO UPDATE SET name = excluded.name, version = excluded.version, switches = excluded.switches",
            self.tx.tenant.0,
            mesh.0,
            name.as_str(),
            version.to_string()
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::NotFound { what: "mesh" })
    }

    /// Resolves the target revision at the end of an upgrade: it becomes the current one, or it is
    /// deleted.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn resolve_target_revision(
        &mut self,
        mesh: MeshId,
        becomes_current: bool,
    ) -> Result<(), StoreError> {
        if becomes_current {
            sqlx::query!(
                "UPDATE revisions AS current SET name = target.name, version = target.version, switches = target.switches
                 FROM revisions AS target
                 WHERE current.tenant_id = $1 AND current.mesh_id = $2 AND current.part = 'current'
                   AND target.tenant_id = $1 AND target.mesh_id = $2 AND target.part = 'target'",
                self.tx.tenant.0,
                mesh.0
            )
            .execute(&mut *self.tx.inner)
            .await?;
        }
        sqlx::query!(
            "DELETE FROM revisions WHERE tenant_id = $1 AND mesh_id = $2 AND part = 'target'",
            self.tx.tenant.0,
            mesh.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }
}
