//! Stores meshes with their members.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::ids::{ClusterId, MeshId};

use crate::db::query_areas::MeshQueries;
use crate::db::statements::{id_bounds, require_one_row};
use crate::error::to_json;
use crate::fleet::labels::{ListFilter, SelectorColumns, UserMetadata};
use crate::fleet::mesh::{Mesh, MeshRow, MeshState, NewMesh, edition_text};
use crate::{AccessFilter, Page, StoreError};

pub(crate) fn authority_associated_data(id: MeshId) -> String {
    format!("meshes.authority/{id}")
}

impl MeshQueries<'_, '_> {
    /// Adds a mesh in state `creating`.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] with `meshes_name_unique` when the name is taken, with
    /// `memberships_one_mesh` when a cluster is in another mesh, or with `revisions_release_fk`
    /// when the version is not in the catalogue.
    pub async fn create_mesh(&mut self, mesh: &NewMesh, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO meshes (tenant_id, mesh_id, name, edition, state, hosting_cluster_id, authority, created_at, display_name, deletion_protection)
             VALUES ($1, $2, $3, $4, 'creating', $5, $6, $7, $8, $9)",
            self.tx.tenant.0,
            mesh.id.0,
            mesh.name,
            edition_text(mesh.edition),
            mesh.hosting_cluster.0,
            self.tx.seal(&authority_associated_data(mesh.id), &mesh.authority)?,
            now.to_sqlx() as _,
            mesh.metadata.display_name,
            mesh.deletion_protection
        )
        .execute(&mut *self.tx.inner)
        .await?;
        self.tx
            .labels()
            .set_labels(mesh.id.0, &mesh.metadata.labels)
            .await?;
        self.set_current_revision(mesh.id, &mesh.version).await?;
        self.add_members(mesh.id, &mesh.members).await
    }

    /// Adds clusters as the members of a mesh, and schedules the first observation of the mesh.
    pub(crate) async fn add_members(
        &mut self,
        mesh: MeshId,
        members: &[ClusterId],
    ) -> Result<(), StoreError> {
        for (position, cluster) in (0i32..).zip(members) {
            sqlx::query!(
                "INSERT INTO memberships (tenant_id, mesh_id, cluster_id, position) VALUES ($1, $2, $3, $4)",
                self.tx.tenant.0,
                mesh.0,
                cluster.0,
                position
            )
            .execute(&mut *self.tx.inner)
            .await?;
        }
        sqlx::query!(
            "INSERT INTO probes (mesh_id, tenant_id, due_at) VALUES ($1, $2, now())",
            mesh.0,
            self.tx.tenant.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }

    /// Lists the meshes that the caller may see and that match the filter, oldest first.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when a row does not fit [`Mesh`].
    pub async fn list_meshes(
        &mut self,
        access: &AccessFilter,
        filter: &ListFilter,
        page: Page,
    ) -> Result<Vec<Mesh>, StoreError> {
        self.read_meshes(None, access, filter, page).await
    }

    /// Reads one mesh, deleted or not.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such mesh.
    pub async fn get_mesh(&mut self, id: MeshId) -> Result<Mesh, StoreError> {
        let filter = ListFilter {
            include_deleted: true,
            ..ListFilter::default()
        };
        let found = self
            .read_meshes(Some(id), &AccessFilter::ALL, &filter, Page::ALL)
            .await?
            .pop();
        found.ok_or(StoreError::NotFound { what: "mesh" })
    }

    async fn read_meshes(
        &mut self,
        only: Option<MeshId>,
        access: &AccessFilter,
        filter: &ListFilter,
        page: Page,
    ) -> Result<Vec<Mesh>, StoreError> {
        let columns = SelectorColumns::from(&filter.labels);
        let (from, to) = id_bounds(only.map(|id| id.0));
        let rows = sqlx::query_as!(
            MeshRow,
            r#"SELECT m.mesh_id, m.name, display_name, deletion_protection, generation, edition, state, problem, hosting_cluster_id, created_at, deleted_at, leftovers,
                   holder AS "holder?", current.name AS "current_name?", current.version AS "current_version?",
                   current.switches AS "current_switches?", target.name AS "target_name?", target.version AS "target_version?",
                   target.switches AS "target_switches?",
                   array(SELECT l.key FROM labels l WHERE l.tenant_id = $1 AND l.object_id = m.mesh_id ORDER BY l.key) AS "label_keys!",
                   array(SELECT l.value FROM labels l WHERE l.tenant_id = $1 AND l.object_id = m.mesh_id ORDER BY l.key) AS "label_values!",
                   array(SELECT cluster_id FROM memberships a
                       WHERE a.tenant_id = $1 AND a.mesh_id = m.mesh_id ORDER BY a.position) AS "member_ids!",
                   array(SELECT c.name FROM memberships a JOIN clusters c USING (tenant_id, cluster_id)
                       WHERE a.tenant_id = $1 AND a.mesh_id = m.mesh_id ORDER BY a.position) AS "member_names!",
                   array(SELECT c.kubernetes_version FROM memberships a JOIN clusters c USING (tenant_id, cluster_id)
                       WHERE a.tenant_id = $1 AND a.mesh_id = m.mesh_id ORDER BY a.position) AS "member_versions!: Vec<Option<String>>"
               FROM meshes m LEFT JOIN mesh_slots USING (tenant_id, mesh_id)
                   LEFT JOIN revisions current ON current.tenant_id = $1 AND current.mesh_id = m.mesh_id AND current.part = 'current'
                   LEFT JOIN revisions target ON target.tenant_id = $1 AND target.mesh_id = m.mesh_id AND target.part = 'target'
               WHERE m.tenant_id = $1 AND m.mesh_id BETWEEN $11 AND $12
                   AND ($10 OR state <> 'deleted') AND ($2::uuid[] IS NULL OR m.mesh_id = ANY($2))
                   AND ($3::text IS NULL OR m.name = $3) AND ($4::uuid IS NULL OR m.mesh_id > $4)
                   AND NOT EXISTS (SELECT FROM unnest($6::text[], $7::text[]) AS wanted (key, value) WHERE NOT EXISTS (
                       SELECT FROM labels l WHERE l.tenant_id = $1 AND l.object_id = m.mesh_id AND l.key = wanted.key
                           AND (wanted.value IS NULL OR l.value = wanted.value)))
                   AND NOT EXISTS (SELECT FROM unnest($8::text[], $9::text[]) AS unwanted (key, value)
                       JOIN labels l ON l.tenant_id = $1 AND l.object_id = m.mesh_id AND l.key = unwanted.key
                           AND (unwanted.value IS NULL OR l.value = unwanted.value))
               ORDER BY m.mesh_id LIMIT $5"#,
            self.tx.tenant.0,
            access.meshes.as_deref(),
            filter.name,
            page.after,
            page.limit,
            &columns.with.0,
            &columns.with.1 as _,
            &columns.without.0,
            &columns.without.1 as _,
            filter.include_deleted,
            from,
            to
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        rows.into_iter().map(MeshRow::into_mesh).collect()
    }

    /// Moves a mesh to another state. The state `deleted` also removes its members, so that other
    /// meshes can take them, and the target revision that an abandoned upgrade left.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such mesh.
    pub async fn set_mesh_state(
        &mut self,
        id: MeshId,
        state: &MeshState,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let problem = if let MeshState::Failed(problem) = state {
            Some(to_json(problem))
        } else {
            None
        };
        let done = sqlx::query!(
            "UPDATE meshes SET state = $3, problem = CASE WHEN $3 = 'deleting' THEN problem ELSE $4::jsonb END
             WHERE tenant_id = $1 AND mesh_id = $2",
            self.tx.tenant.0,
            id.0,
            state.as_str(),
            problem
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::NotFound { what: "mesh" })?;
        if *state == MeshState::Deleted {
            sqlx::query!(
                "UPDATE meshes SET deleted_at = $3, former_members = array(
                     SELECT cluster_id FROM memberships WHERE tenant_id = $1 AND mesh_id = $2 ORDER BY position)
                 WHERE tenant_id = $1 AND mesh_id = $2",
                self.tx.tenant.0,
                id.0,
                now.to_sqlx() as _
            )
            .execute(&mut *self.tx.inner)
            .await?;
            sqlx::query!(
                "DELETE FROM probes WHERE mesh_id = $1 AND tenant_id = $2",
                id.0,
                self.tx.tenant.0
            )
            .execute(&mut *self.tx.inner)
            .await?;
            sqlx::query!(
                "DELETE FROM memberships WHERE tenant_id = $1 AND mesh_id = $2",
                self.tx.tenant.0,
                id.0
            )
            .execute(&mut *self.tx.inner)
            .await?;
            self.resolve_target_revision(id, false).await?;
        }
        Ok(())
    }

    /// Replaces the user metadata of a mesh, if its generation is still the one that the caller
    /// saw.
    ///
    /// # Errors
    /// Returns [`StoreError::StaleVersion`] when the generation has changed since.
    pub async fn update_mesh_metadata(
        &mut self,
        seen: &Mesh,
        metadata: &UserMetadata,
        deletion_protection: bool,
    ) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE meshes SET display_name = $4, deletion_protection = $5, generation = generation + 1
             WHERE tenant_id = $1 AND mesh_id = $2 AND generation = $3",
            self.tx.tenant.0,
            seen.id.0,
            seen.generation,
            metadata.display_name,
            deletion_protection
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::StaleVersion)?;
        self.tx
            .labels()
            .set_labels(seen.id.0, &metadata.labels)
            .await
    }

    /// Reads and unseals the key and certificates of the mesh CA.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such mesh, and
    /// [`StoreError::UnsealFailed`] when they do not open.
    pub async fn mesh_authority(&mut self, id: MeshId) -> Result<Vec<u8>, StoreError> {
        let sealed = sqlx::query_scalar!(
            "SELECT authority FROM meshes WHERE tenant_id = $1 AND mesh_id = $2",
            self.tx.tenant.0,
            id.0
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?
        .ok_or(StoreError::NotFound { what: "mesh" })?;
        self.tx.open(&authority_associated_data(id), &sealed).await
    }
}
