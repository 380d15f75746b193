//! Meshes, their members, their one or two revisions, and who may change them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use model::ids::{ClusterId, HostingClusterId, MeshId};
use model::label::Labels;
use model::operation::Problem;
use model::rules::Edition;
use model::version::{RevisionName, Version};
use uuid::Uuid;

use crate::error::{fits, json};
use crate::labels::{Columns, Narrow};
use crate::{Page, Reach, StoreError, Tx, exactly_one};

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
    pub hosting: HostingClusterId,
    /// Its certificate authority.
    pub authority: Vec<u8>,
    /// The version that it starts on.
    pub version: Version,
    /// Its members; the first is the config cluster.
    pub members: Vec<ClusterId>,
    /// What its users call it.
    pub written: Written,
    /// Whether it can be deleted only after this was taken off.
    pub deletion_protection: bool,
}

/// What users write on their things for themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
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
    fn read(state: &str, problem: Option<Problem>) -> Option<Self> {
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
    pub written: Written,
    /// Whether it can be deleted only after this was taken off.
    pub deletion_protection: bool,
    /// Rises with every change of what users may write.
    pub generation: i64,
    /// Its edition.
    pub edition: Edition,
    /// Where it stands.
    pub state: MeshState,
    /// Where its control planes run.
    pub hosting: HostingClusterId,
    /// What `stable` and `default` point to.
    pub current: Revision,
    /// The other one, during an upgrade.
    pub target: Option<Revision>,
    /// Its members; the first is the config cluster.
    pub members: Vec<Member>,
    /// Who changes it right now.
    pub busy_with: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
}

pub(crate) fn place(id: MeshId) -> String {
    format!("meshes.authority/{id}")
}

fn edition_text(edition: Edition) -> &'static str {
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
            mesh.hosting.0,
            self.seal(&place(mesh.id), &mesh.authority)?,
            now.to_sqlx() as _,
            mesh.written.display_name,
            mesh.deletion_protection
        )
        .execute(&mut *self.inner)
        .await?;
        self.set_labels(mesh.id.0, &mesh.written.labels).await?;
        self.put_revision(mesh.id, "current", &mesh.version.revision_name(), &mesh.version).await?;
        self.enlist(mesh.id, &mesh.members).await
    }

    /// Makes clusters the members of a mesh, and has it observed.
    pub(crate) async fn enlist(&mut self, mesh: MeshId, members: &[ClusterId]) -> Result<(), StoreError> {
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
    pub async fn meshes(&mut self, reach: &Reach, narrow: &Narrow, page: Page) -> Result<Vec<Mesh>, StoreError> {
        let columns = Columns::from(&narrow.labels);
        let ids = sqlx::query_scalar!(
            "SELECT mesh_id FROM meshes WHERE tenant_id = $1 AND ($10 OR state <> 'deleted') AND ($2::uuid[] IS NULL OR mesh_id = ANY($2))
                 AND ($3::text IS NULL OR name = $3) AND ($4::uuid IS NULL OR mesh_id > $4)
                 AND NOT EXISTS (SELECT FROM unnest($6::text[], $7::text[]) AS wanted (key, value) WHERE NOT EXISTS (
                     SELECT FROM labels l WHERE l.tenant_id = $1 AND l.object_id = mesh_id AND l.key = wanted.key
                         AND (wanted.value IS NULL OR l.value = wanted.value)))
                 AND NOT EXISTS (SELECT FROM unnest($8::text[], $9::text[]) AS unwanted (key, value)
                     JOIN labels l ON l.tenant_id = $1 AND l.object_id = mesh_id AND l.key = unwanted.key
                         AND (unwanted.value IS NULL OR l.value = unwanted.value))
             ORDER BY mesh_id LIMIT $5",
            self.tenant.0,
            reach.meshes.as_deref(),
            narrow.name,
            page.after,
            page.limit,
            &columns.with.0,
            &columns.with.1 as _,
            &columns.without.0,
            &columns.without.1 as _,
            narrow.deleted
        )
        .fetch_all(&mut *self.inner)
        .await?;
        self.read_meshes(&ids).await
    }

    /// One mesh, deleted or not.
    ///
    /// # Errors
    /// There is none of that id in this tenant.
    pub async fn mesh(&mut self, id: MeshId) -> Result<Mesh, StoreError> {
        self.read_meshes(&[id.0]).await?.pop().ok_or(StoreError::NotFound { what: "mesh" })
    }

    async fn read_meshes(&mut self, ids: &[Uuid]) -> Result<Vec<Mesh>, StoreError> {
        let (mut revisions, mut members) = (self.revisions(ids).await?, self.members(ids).await?);
        let mut labels = self.labels(ids).await?;
        let rows = sqlx::query!(
            r#"SELECT mesh_id, name, display_name, deletion_protection, generation, edition, state, problem, hosting_cluster_id, created_at, deleted_at,
                   holder AS "holder?"
               FROM meshes LEFT JOIN mesh_slots USING (tenant_id, mesh_id)
               WHERE tenant_id = $1 AND mesh_id = ANY($2) ORDER BY mesh_id"#,
            self.tenant.0,
            ids
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let read = rows.into_iter().map(|row| {
            let id = MeshId(row.mesh_id);
            let problem = row.problem.map(serde_json::from_value::<Problem>).transpose();
            let state = MeshState::read(&row.state, fits(problem, "meshes", "problem", id)?);
            Ok(Mesh {
                id,
                name: row.name,
                written: Written { display_name: row.display_name, labels: labels.remove(&id.0).unwrap_or_default() },
                deletion_protection: row.deletion_protection,
                generation: row.generation,
                edition: fits(serde_json::from_value(row.edition.into()), "meshes", "edition", id)?,
                state: fits(state.ok_or(()), "meshes", "state", id)?,
                hosting: HostingClusterId(row.hosting_cluster_id),
                current: fits(revisions.remove(&(id, true)).ok_or(()), "revisions", "part", id)?,
                target: revisions.remove(&(id, false)),
                members: members.remove(&id).unwrap_or_default(),
                busy_with: row.holder,
                created_at: row.created_at.to_jiff(),
                deleted_at: row.deleted_at.map(jiff_sqlx::Timestamp::to_jiff),
            })
        });
        read.collect()
    }

    async fn members(&mut self, meshes: &[Uuid]) -> Result<BTreeMap<MeshId, Vec<Member>>, StoreError> {
        let rows = sqlx::query!(
            "SELECT m.mesh_id, c.cluster_id, c.name, c.kubernetes_version FROM memberships m JOIN clusters c USING (tenant_id, cluster_id)
             WHERE m.tenant_id = $1 AND m.mesh_id = ANY($2) ORDER BY m.position",
            self.tenant.0,
            meshes
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let mut members: BTreeMap<MeshId, Vec<Member>> = BTreeMap::new();
        for row in rows {
            members.entry(MeshId(row.mesh_id)).or_default().push(Member {
                cluster: ClusterId(row.cluster_id),
                name: row.name,
                kubernetes_version: row.kubernetes_version,
            });
        }
        Ok(members)
    }

    /// Moves a mesh to another state. A deleted one gives its members free.
    ///
    /// # Errors
    /// There is no such mesh.
    pub async fn set_mesh_state(&mut self, id: MeshId, state: &MeshState, now: Timestamp) -> Result<(), StoreError> {
        let problem = if let MeshState::Failed(problem) = state { Some(json(problem)) } else { None };
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
        exactly_one(done.rows_affected(), StoreError::NotFound { what: "mesh" })?;
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
    pub async fn write_mesh(
        &mut self,
        seen: &Mesh,
        written: &Written,
        deletion_protection: bool,
    ) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE meshes SET display_name = $4, deletion_protection = $5, generation = generation + 1
             WHERE tenant_id = $1 AND mesh_id = $2 AND generation = $3",
            self.tenant.0,
            seen.id.0,
            seen.generation,
            written.display_name,
            deletion_protection
        )
        .execute(&mut *self.inner)
        .await?;
        exactly_one(done.rows_affected(), StoreError::Moved)?;
        self.set_labels(seen.id.0, &written.labels).await
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
        self.open(&place(id), &sealed).await
    }
}

impl Mesh {
    /// The mesh's namespace in every cluster: its name, and enough of its id that two tenants' meshes never meet.
    pub fn namespace(&self) -> String {
        const DISTINCT: usize = 8;
        const LONGEST: usize = 63 - 1 - DISTINCT;
        let id = self.id.to_string();
        let name: String = self.name.chars().take(LONGEST).collect();
        format!("{name}-{}", &id[id.len() - DISTINCT..])
    }
}
