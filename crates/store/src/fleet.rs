//! Stores what the service manages: the release catalogue, clusters with their credentials, and
//! meshes with their revisions.

pub(crate) mod catalogue;
pub(crate) mod cluster;
pub(crate) mod cluster_checks;
pub(crate) mod cluster_credentials;
pub(crate) mod clusters;
pub(crate) mod deleted_meshes;
pub(crate) mod deregistration;
pub(crate) mod labels;
pub(crate) mod leftovers;
pub(crate) mod mesh;
pub(crate) mod mesh_locks;
pub(crate) mod meshes;
pub(crate) mod observations;
pub(crate) mod revisions;
