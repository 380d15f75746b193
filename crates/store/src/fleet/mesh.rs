//! Defines a mesh with its members and its one or two revisions, and decodes it from its row.

use jiff::Timestamp;
use meshwright_model::ClosedSet;
use meshwright_model::edition::Edition;
use meshwright_model::fleet::MeshStateName;
use meshwright_model::ids::{ClusterId, HostingClusterId, MeshId};
use meshwright_model::leftover::Leftover;
use meshwright_model::operation::Problem;
use meshwright_model::switch::Switches;
use meshwright_model::version::{RevisionName, Version};
use uuid::Uuid;

use crate::StoreError;
use crate::error::decode_column;
use crate::fleet::labels::UserMetadata;

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
    /// Returns the name of the state, without its problem.
    pub fn name(&self) -> MeshStateName {
        match self {
            Self::Creating => MeshStateName::Creating,
            Self::Ready => MeshStateName::Ready,
            Self::Failed(_) => MeshStateName::Failed,
            Self::Deleting => MeshStateName::Deleting,
            Self::Deleted => MeshStateName::Deleted,
        }
    }

    /// Returns the stored form of the state.
    pub fn as_str(&self) -> &'static str {
        self.name().as_str()
    }

    /// Reads the stored form. Returns `None` for an unknown state, and for `failed` without a
    /// problem.
    fn from_stored(state: &str, problem: Option<Problem>) -> Option<Self> {
        match MeshStateName::from_name(state)? {
            MeshStateName::Creating => Some(Self::Creating),
            MeshStateName::Ready => Some(Self::Ready),
            MeshStateName::Failed => problem.map(Self::Failed),
            MeshStateName::Deleting => Some(Self::Deleting),
            MeshStateName::Deleted => Some(Self::Deleted),
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

/// A stored mesh with everything that belongs to it, so that one round trip reads a list of meshes.
pub(super) struct MeshRow {
    pub(super) mesh_id: Uuid,
    pub(super) name: String,
    pub(super) display_name: String,
    pub(super) deletion_protection: bool,
    pub(super) generation: i64,
    pub(super) edition: String,
    pub(super) state: String,
    pub(super) problem: Option<serde_json::Value>,
    pub(super) hosting_cluster_id: Uuid,
    pub(super) created_at: jiff_sqlx::Timestamp,
    pub(super) deleted_at: Option<jiff_sqlx::Timestamp>,
    pub(super) leftovers: serde_json::Value,
    pub(super) holder: Option<String>,
    pub(super) current_name: Option<String>,
    pub(super) current_version: Option<String>,
    pub(super) current_switches: Option<serde_json::Value>,
    pub(super) target_name: Option<String>,
    pub(super) target_version: Option<String>,
    pub(super) target_switches: Option<serde_json::Value>,
    pub(super) label_keys: Vec<String>,
    pub(super) label_values: Vec<String>,
    pub(super) member_ids: Vec<Uuid>,
    pub(super) member_names: Vec<String>,
    pub(super) member_versions: Vec<Option<String>>,
}

impl MeshRow {
    pub(super) fn into_mesh(self) -> Result<Mesh, StoreError> {
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

pub(crate) fn edition_text(edition: Edition) -> &'static str {
    match edition {
        Edition::Standard => "standard",
        Edition::Enterprise => "enterprise",
        Edition::Ultimate => "ultimate",
    }
}
