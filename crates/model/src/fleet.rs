//! Names the states of tenants, clusters and meshes, and the roles of clusters in a mesh.

use crate::closed_set;

/// State of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantState {
    /// The tenant is in use.
    Active,
    /// The tenant is suspended: no credential of it is accepted.
    Suspended,
    /// The tenant is deleted and its secrets are erased.
    Deleted,
}

closed_set!(TenantState {
    Active = "active",
    Suspended = "suspended",
    Deleted = "deleted",
});

/// Name of a registered cluster's state, without the problem that belongs to some states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterStateName {
    /// The registration is under way.
    Registering,
    /// The cluster answered, and our service account is in it.
    Ready,
    /// The cluster does not answer, or refuses our credential now.
    Unreachable,
    /// The registration failed or was cancelled, so the cluster cannot be used.
    Refused,
    /// Our service account is being removed from the cluster.
    Deregistering,
}

closed_set!(ClusterStateName {
    Registering = "registering",
    Ready = "ready",
    Unreachable = "unreachable",
    Refused = "refused",
    Deregistering = "deregistering",
});

/// Name of a mesh's state, without the problem that belongs to some states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeshStateName {
    /// The mesh is being created.
    Creating,
    /// The mesh is in use.
    Ready,
    /// A creation or a deletion ended early, so parts of the mesh may be missing.
    Failed,
    /// The mesh is being deleted.
    Deleting,
    /// The mesh is gone; its row stays.
    Deleted,
}

closed_set!(MeshStateName {
    Creating = "creating",
    Ready = "ready",
    Failed = "failed",
    Deleting = "deleting",
    Deleted = "deleted",
});

/// Role of a cluster in a mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberRole {
    /// istiod reads Istio resources in this cluster. A mesh has one such cluster.
    Config,
    /// istiod serves this cluster and reads no Istio resources in it.
    Remote,
}

closed_set!(MemberRole {
    Config = "config",
    Remote = "remote",
});
