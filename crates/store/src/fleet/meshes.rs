//! Stores meshes with their members and their one or two revisions.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::edition::Edition;
use meshwright_model::ids::{ClusterId, HostingClusterId, MeshId};
use meshwright_model::label::Labels;
use meshwright_model::leftover::Leftover;
use meshwright_model::operation::Problem;
use meshwright_model::switch::Switches;
use meshwright_model::version::{RevisionName, Version};
use uuid::Uuid;

use crate::db::statements::{id_bounds, require_one_row};
use crate::error::{decode_column, to_json};
use crate::fleet::labels::{ListFilter, SelectorColumns};
use crate::{AccessFilter, Page, StoreError, Tx};

/// A mesh to be created.
#[derive(Debug, Clone)]
pub struct NewMesh {
    /// Identifier of the mesh.
    pub id: MeshId,
    /// Name of the mesh, unique within the tenant. Its namespace in every cluster begins with it.
    pub name: String,
    /// Edition of the mesh: `standard`, `enterprise` or `ultimate`.
    pub edition: Edition,
    /// Hosting cluster that runs the control planes.
    pub hosting_cluster: HostingClusterId,
    /// Key and certificates of the mesh CA. They are a secret.
    pub authority: Vec<u8>,
    /// Version of the first revision.
    pub version: Version,
    /// Member clusters; the first one is the config cluster.
    pub members: Vec<ClusterId>,
    /// Display name and labels that users set.
    pub metadata: UserMetadata,
    /// Whether a deletion of the mesh is refused until this is switched off.
    pub deletion_protection: bool,
}

/// Metadata that users set on their meshes and clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserMetadata {
    /// Display name for people; it may be empty.
    pub display_name: String,
    /// Labels of the mesh or cluster, by key.
    pub labels: Labels,
}

/// State of a mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MeshState {
    /// The mesh is being created.
    Creating,
    /// The mesh is in use.
    Ready,
    /// A creation or a deletion ended early, so parts of the mesh may be missing. Both can be
    /// requested again.
    Failed(Problem),
    /// The mesh is being deleted.
    Deleting,
    /// The mesh is gone; its row stays.
    Deleted,
}

impl MeshState {
    /// Returns the stored form of the state.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Failed(_) => "failed",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
        }
    }

    /// Reads the stored form. Returns `None` for an unknown state, and for `failed` without a
    /// problem.
    fn from_stored(state: &str, problem: Option<Problem>) -> Option<Self> {
        match (state, problem) {
            ("creating", _) => Some(Self::Creating),
            ("ready", _) => Some(Self::Ready),
            ("failed", Some(problem)) => Some(Self::Failed(problem)),
            ("deleting", _) => Some(Self::Deleting),
            ("deleted", _) => Some(Self::Deleted),
            _ => None,
        }
    }
}

/// One control plane of a mesh under one revision name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Name of the revision, which never changes.
    pub name: RevisionName,
    /// Version that the control plane runs.
    pub version: Version,
    /// Values of istiod's switches that the control plane runs with.
    pub switches: Switches,
}

/// A member cluster of a mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Identifier of the cluster.
    pub cluster: ClusterId,
    /// Name of the cluster, unique within the tenant.
    pub name: String,
    /// Kubernetes version as the cluster reports it; `None` until the cluster has answered.
    pub kubernetes_version: Option<String>,
}

/// A mesh as the service knows it.
#[derive(Debug, Clone)]
pub struct Mesh {
    /// Identifier of the mesh.
    pub id: MeshId,
    /// Name of the mesh, unique among the tenant's meshes that are not deleted.
    pub name: String,
    /// Display name and labels that users set.
    pub metadata: UserMetadata,
    /// Whether a deletion of the mesh is refused until this is switched off.
    pub deletion_protection: bool,
    /// Version of the user metadata: rises by one with every change of it.
    pub generation: i64,
    /// Edition of the mesh: `standard`, `enterprise` or `ultimate`.
    pub edition: Edition,
    /// State of the mesh: `creating`, `ready`, `failed`, `deleting` or `deleted`.
    pub state: MeshState,
    /// Hosting cluster that runs the control planes.
    pub hosting_cluster: HostingClusterId,
    /// Revision that the tags `stable` and `default` point to.
    pub current: Revision,
    /// Second revision during an upgrade; `None` otherwise.
    pub target: Option<Revision>,
    /// Member clusters; the first one is the config cluster.
    pub members: Vec<Member>,
    /// Identifier of the upgrade or operation that holds the mesh lock; `None` when the mesh is
    /// free.
    pub lock_holder: Option<String>,
    /// Time when the creation was requested.
    pub created_at: Timestamp,
    /// Time when the mesh was deleted, if it was.
    pub deleted_at: Option<Timestamp>,
    /// Objects of a deleted mesh that stay in clusters; empty for other meshes.
    pub leftovers: Vec<Leftover>,
}

/// A stored mesh with everything that belongs to it, so that one round trip reads a list of meshes.
struct MeshRow {
    mesh_id: Uuid,
    name: String,
    display_name: String,
    deletion_protection: bool,
    generation: i64,
    edition: String,
    state: String,
    problem: Option<serde_json::Value>,
    hosting_cluster_id: Uuid,
    created_at: jiff_sqlx::Timestamp,
    deleted_at: Option<jiff_sqlx::Timestamp>,
    leftovers: serde_json::Value,
    holder: Option<String>,
    current_name: Option<String>,
    current_version: Option<String>,
    current_switches: Option<serde_json::Value>,
    target_name: Option<String>,
    target_version: Option<String>,
    target_switches: Option<serde_json::Value>,
    label_keys: Vec<String>,
    label_values: Vec<String>,
    member_ids: Vec<Uuid>,
    member_names: Vec<String>,
    member_versions: Vec<Option<String>>,
}

impl MeshRow {
    fn into_mesh(self) -> Result<Mesh, StoreError> {
        let id = MeshId(self.mesh_id);
        let problem = self
            .problem
            .map(serde_json::from_value::<Problem>)
            .transpose();
        let state = MeshState::from_stored(
            &self.state,
            decode_column(problem, "meshes", "problem", id)?,
        );
        let current = decode_revision(
            id,
            self.current_name,
            self.current_version,
            self.current_switches,
        )?;
        let members = self
            .member_ids
            .into_iter()
            .zip(self.member_names)
            .zip(self.member_versions);
        Ok(Mesh {
            id,
            name: self.name,
            metadata: UserMetadata {
                display_name: self.display_name,
                labels: self.label_keys.into_iter().zip(self.label_values).collect(),
            },
            deletion_protection: self.deletion_protection,
            generation: self.generation,
            edition: decode_column(
                serde_json::from_value(self.edition.into()),
                "meshes",
                "edition",
                id,
            )?,
            state: decode_column(state.ok_or(()), "meshes", "state", id)?,
            hosting_cluster: HostingClusterId(self.hosting_cluster_id),
            current: decode_column(current.ok_or(()), "revisions", "part", id)?,
            target: decode_revision(
                id,
                self.target_name,
                self.target_version,
                self.target_switches,
            )?,
            members: members
                .map(|((cluster, name), kubernetes_version)| Member {
                    cluster: ClusterId(cluster),
                    name,
                    kubernetes_version,
                })
                .collect(),
            lock_holder: self.holder,
            created_at: self.created_at.to_jiff(),
            deleted_at: self.deleted_at.map(jiff_sqlx::Timestamp::to_jiff),
            leftovers: decode_column(
                serde_json::from_value(self.leftovers),
                "meshes",
                "leftovers",
                id,
            )?,
        })
    }
}

fn decode_revision(
    mesh: MeshId,
    name: Option<String>,
    version: Option<String>,
    switches: Option<serde_json::Value>,
) -> Result<Option<Revision>, StoreError> {
    let Some(((name, version), switches)) = name.zip(version).zip(switches) else {
        return Ok(None);
    };
    Ok(Some(Revision {
        name: decode_column(name.parse(), "revisions", "name", mesh)?,
        version: decode_column(version.parse(), "revisions", "version", mesh)?,
        switches: decode_column(
            serde_json::from_value(switches),
            "revisions",
            "switches",
            mesh,
        )?,
    }))
}

pub(crate) fn authority_associated_data(id: MeshId) -> String {
    format!("meshes.authority/{id}")
}

pub(crate) fn edition_text(edition: Edition) -> &'static str {
    match edition {
        Edition::Standard => "standard",
        Edition::Enterprise => "enterprise",
        Edition::Ultimate => "ultimate",
    }
}

impl Tx<'_> {
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
            self.tenant.0,
            mesh.id.0,
            mesh.name,
            edition_text(mesh.edition),
            mesh.hosting_cluster.0,
            self.seal(&authority_associated_data(mesh.id), &mesh.authority)?,
            now.to_sqlx() as _,
            mesh.metadata.display_name,
            mesh.deletion_protection
        )
        .execute(&mut *self.inner)
        .await?;
        self.set_labels(mesh.id.0, &mesh.metadata.labels).await?;
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
                self.tenant.0,
                mesh.0,
                cluster.0,
                position
            )
            .execute(&mut *self.inner)
            .await?;
        }
        sqlx::query!(
            "INSERT INTO probes (mesh_id, tenant_id, due_at) VALUES ($1, $2, now())",
            mesh.0,
            self.tenant.0
        )
        .execute(&mut *self.inner)
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
            self.tenant.0,
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
        .fetch_all(&mut *self.inner)
        .await?;
        rows.into_iter().map(MeshRow::into_mesh).collect()
    }

    /// Moves a mesh to another state. The state `deleted` also removes its members, so that other
    /// meshes can take them.
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
            self.tenant.0,
            id.0,
            state.as_str(),
            problem
        )
        .execute(&mut *self.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::NotFound { what: "mesh" })?;
        if *state == MeshState::Deleted {
            sqlx::query!(
                "UPDATE meshes SET deleted_at = $3, former_members = array(
                     SELECT cluster_id FROM memberships WHERE tenant_id = $1 AND mesh_id = $2 ORDER BY position)
                 WHERE tenant_id = $1 AND mesh_id = $2",
                self.tenant.0,
                id.0,
                now.to_sqlx() as _
            )
            .execute(&mut *self.inner)
            .await?;
            sqlx::query!(
                "DELETE FROM probes WHERE mesh_id = $1 AND tenant_id = $2",
                id.0,
                self.tenant.0
            )
            .execute(&mut *self.inner)
            .await?;
            sqlx::query!(
                "DELETE FROM memberships WHERE tenant_id = $1 AND mesh_id = $2",
                self.tenant.0,
                id.0
            )
            .execute(&mut *self.inner)
            .await?;
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
            self.tenant.0,
            seen.id.0,
            seen.generation,
            metadata.display_name,
            deletion_protection
        )
        .execute(&mut *self.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::StaleVersion)?;
        self.set_labels(seen.id.0, &metadata.labels).await
    }

    /// Reads and unseals the key and certificates of the mesh CA.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such mesh, and
    /// [`StoreError::UnsealFailed`] when they do not open.
    pub async fn mesh_authority(&mut self, id: MeshId) -> Result<Vec<u8>, StoreError> {
        let sealed = sqlx::query_scalar!(
            "SELECT authority FROM meshes WHERE tenant_id = $1 AND mesh_id = $2",
            self.tenant.0,
            id.0
        )
        .fetch_optional(&mut *self.inner)
        .await?
        .ok_or(StoreError::NotFound { what: "mesh" })?;
        self.open(&authority_associated_data(id), &sealed).await
    }
}

impl Mesh {
    /// Returns the mesh's namespace in every cluster: its name, and enough of its identifier that
    /// meshes of two tenants never share a namespace. It has at most 63 characters.
    pub fn namespace(&self) -> String {
        const ID_SUFFIX_LEN: usize = 8;
        const MAX_NAME_LEN: usize = 63 - 1 - ID_SUFFIX_LEN;
        let id = self.id.to_string();
        let name: String = self.name.chars().take(MAX_NAME_LEN).collect();
        format!("{name}-{}", &id[id.len() - ID_SUFFIX_LEN..])
    }
}
