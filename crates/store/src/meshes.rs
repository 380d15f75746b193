//! Meshes, their members, their one or two revisions, and who may change them.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use model::ids::{ClusterId, HostingClusterId, MeshId};
use model::label::Labels;
use model::leftover::Leftover;
use model::operation::Problem;
use model::rules::Edition;
use model::switch::Switches;
use model::version::{RevisionName, Version};
use uuid::Uuid;

use crate::error::{decode_column, to_json};
use crate::labels::{SelectorColumns, ListFilter};
use crate::{Page, AccessFilter, StoreError, Tx, id_bounds, require_one_row};

/// A mesh to be made.
#[derive(Debug, Clone)]
pub struct NewMesh {
    /// Its id.
    pub id: MeshId,
    /// Its name; also its namespace in every cluster.
    pub name: String,
    /// Its edition.
    pub edition: Edition,
    /// Where its control planes run.
    pub hosting_cluster: HostingClusterId,
    /// Its certificate authority.
    pub authority: Vec<u8>,
    /// The version that it starts on.
    pub version: Version,
    /// Its members; the first is the config cluster.
    pub members: Vec<ClusterId>,
    /// What its users call it.
    pub metadata: UserMetadata,
    /// Whether it can be deleted only after this was taken off.
    pub deletion_protection: bool,
}

/// What users write on their things for themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserMetadata {
    /// A name for people.
    pub display_name: String,
    /// Labels.
    pub labels: Labels,
}

/// Where a mesh stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MeshState {
    /// Being brought up.
    Creating,
    /// In use.
    Ready,
    /// A creation or a deletion ended early, so parts of the mesh may be missing. Both can be asked for again.
    Failed(Problem),
    /// Being taken down.
    Deleting,
    /// Gone.
    Deleted,
}

impl MeshState {
    /// The stored form.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Failed(_) => "failed",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
        }
    }

    /// Reads the stored form; `None` when state and problem do not belong together.
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

/// A control plane of a mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Its immutable name.
    pub name: RevisionName,
    /// The version that it runs.
    pub version: Version,
    /// The values of istiod's switches that it runs with.
    pub switches: Switches,
}

/// A member cluster of a mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub name: String,
    /// Kubernetes' version as the cluster says it.
    pub kubernetes_version: Option<String>,
}

/// A mesh as the service knows it.
#[derive(Debug, Clone)]
pub struct Mesh {
    /// Its id.
    pub id: MeshId,
    /// Its name.
    pub name: String,
    /// What its users call it.
    pub metadata: UserMetadata,
    /// Whether it can be deleted only after this was taken off.
    pub deletion_protection: bool,
    /// Rises with every change of what users may write.
    pub generation: i64,
    /// Its edition.
    pub edition: Edition,
    /// Where it stands.
    pub state: MeshState,
    /// Where its control planes run.
    pub hosting_cluster: HostingClusterId,
    /// What `stable` and `default` point to.
    pub current: Revision,
    /// The other one, during an upgrade.
    pub target: Option<Revision>,
    /// Its members; the first is the config cluster.
    pub members: Vec<Member>,
    /// Who changes it right now.
    pub lock_holder: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
    /// Of a deleted mesh: what stays of it in clusters.
    pub leftovers: Vec<Leftover>,
}

/// A mesh as it is stored, with all that belongs to it: one round trip reads a list of them.
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
        let problem = self.problem.map(serde_json::from_value::<Problem>).transpose();
        let state = MeshState::from_stored(&self.state, decode_column(problem, "meshes", "problem", id)?);
        let current = decode_revision(id, self.current_name, self.current_version, self.current_switches)?;
        let members = self.member_ids.into_iter().zip(self.member_names).zip(self.member_versions);
        Ok(Mesh {
            id,
            name: self.name,
            metadata: UserMetadata {
                display_name: self.display_name,
                labels: self.label_keys.into_iter().zip(self.label_values).collect(),
            },
            deletion_protection: self.deletion_protection,
            generation: self.generation,
            edition: decode_column(serde_json::from_value(self.edition.into()), "meshes", "edition", id)?,
            state: decode_column(state.ok_or(()), "meshes", "state", id)?,
            hosting_cluster: HostingClusterId(self.hosting_cluster_id),
            current: decode_column(current.ok_or(()), "revisions", "part", id)?,
            target: decode_revision(id, self.target_name, self.target_version, self.target_switches)?,
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
            leftovers: decode_column(serde_json::from_value(self.leftovers), "meshes", "leftovers", id)?,
        })
    }
}

fn decode_revision(
    mesh: MeshId,
    name: Option<String>,
    version: Option<String>,
    switches: Option<serde_json::Value>,
) -> Result<Option<Revision>, StoreError> {
    let Some(((name, version), switches)) = name.zip(version).zip(switches) else { return Ok(None) };
    Ok(Some(Revision {
        name: decode_column(name.parse(), "revisions", "name", mesh)?,
        version: decode_column(version.parse(), "revisions", "version", mesh)?,
        switches: decode_column(serde_json::from_value(switches), "revisions", "switches", mesh)?,
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
    /// The name is taken (`meshes_name_unique`), a cluster is in another mesh (`memberships_one_mesh`), or the version is
    /// not in the catalogue (`revisions_release_fk`).
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

    /// Makes clusters the members of a mesh, and has it observed.
    pub(crate) async fn add_members(&mut self, mesh: MeshId, members: &[ClusterId]) -> Result<(), StoreError> {
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
        sqlx::query!("INSERT INTO probes (mesh_id, tenant_id, due_at) VALUES ($1, $2, now())", mesh.0, self.tenant.0)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// Meshes within reach, oldest first.
    ///
    /// # Errors
    /// The database failed, or a row does not fit.
    pub async fn list_meshes(&mut self, access: &AccessFilter, filter: &ListFilter, page: Page) -> Result<Vec<Mesh>, StoreError> {
        self.read_meshes(None, access, filter, page).await
    }

    /// One mesh, deleted or not.
    ///
    /// # Errors
    /// There is none of that id in this tenant.
    pub async fn get_mesh(&mut self, id: MeshId) -> Result<Mesh, StoreError> {
        let filter = ListFilter { include_deleted: true, ..ListFilter::default() };
        let found = self.read_meshes(Some(id), &AccessFilter::ALL, &filter, Page::ALL).await?.pop();
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

    /// Moves a mesh to another state. A deleted one gives its members free.
    ///
    /// # Errors
    /// There is no such mesh.
    pub async fn set_mesh_state(&mut self, id: MeshId, state: &MeshState, now: Timestamp) -> Result<(), StoreError> {
        let problem = if let MeshState::Failed(problem) = state { Some(to_json(problem)) } else { None };
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
            sqlx::query!("DELETE FROM probes WHERE mesh_id = $1 AND tenant_id = $2", id.0, self.tenant.0)
                .execute(&mut *self.inner)
                .await?;
            sqlx::query!("DELETE FROM memberships WHERE tenant_id = $1 AND mesh_id = $2", self.tenant.0, id.0)
                .execute(&mut *self.inner)
                .await?;
        }
        Ok(())
    }

    /// Changes what users write on a mesh, for somebody who looked at this generation of it.
    ///
    /// # Errors
    /// It has moved on since.
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

    /// The key and certificates of a mesh's authority, opened.
    ///
    /// # Errors
    /// There is no such mesh, or they do not open.
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
    /// The mesh's namespace in every cluster: its name, and enough of its id that two tenants' meshes never meet.
    pub fn namespace(&self) -> String {
        const ID_SUFFIX_LEN: usize = 8;
        const MAX_NAME_LEN: usize = 63 - 1 - ID_SUFFIX_LEN;
        let id = self.id.to_string();
        let name: String = self.name.chars().take(MAX_NAME_LEN).collect();
        format!("{name}-{}", &id[id.len() - ID_SUFFIX_LEN..])
    }
}
