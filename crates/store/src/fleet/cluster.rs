//! Defines a registered cluster.

use jiff::Timestamp;
use meshwright_model::credential::CredentialLifetime;
use meshwright_model::ids::ClusterId;
use meshwright_model::leftover::AccountRemoval;
use meshwright_model::operation::Problem;
use meshwright_model::upgrade::Finding;

use crate::fleet::labels::UserMetadata;

/// State of a registered cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterState {
    /// The registration is under way.
    Registering,
    /// The cluster answered, and our service account is in it.
    Ready,
    /// Our service account is in the cluster, but the cluster does not answer or refuses our
    /// credential now. The problem says why.
    Unreachable(Problem),
    /// The registration failed or was cancelled, so the cluster cannot be used.
    Refused(Problem),
    /// Our service account is being removed from the cluster.
    Deregistering,
}

/// A cluster to be registered.
#[derive(Debug, Clone)]
pub struct NewCluster {
    /// Identifier of the cluster.
    pub id: ClusterId,
    /// Name of the cluster, unique within the tenant.
    pub name: String,
    /// Address of the cluster's API server.
    pub server: String,
    /// Submitted kubeconfig, reduced to the strict form that we accept. It is a secret.
    pub kubeconfig: Vec<u8>,
    /// Display name and labels that users set.
    pub metadata: UserMetadata,
}

/// A registered cluster as the service knows it.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Identifier of the cluster.
    pub id: ClusterId,
    /// Name of the cluster, unique within the tenant.
    pub name: String,
    /// Display name and labels that users set.
    pub metadata: UserMetadata,
    /// Version of the user metadata: rises by one with every change of it.
    pub generation: i64,
    /// Address of the cluster's API server.
    pub server: String,
    /// State of the cluster; see [`ClusterState`].
    pub state: ClusterState,
    /// UID of the cluster's kube-system namespace, which identifies the cluster; `None` until the
    /// cluster has answered.
    pub uid: Option<String>,
    /// Whether this registration holds the identity of the cluster. False when it is not known yet,
    /// or when an older registration holds the same cluster.
    pub holds_identity: bool,
    /// Lifetime of our own credential in the cluster; `None` until there is one.
    pub credential_lifetime: Option<CredentialLifetime>,
    /// Kubernetes version as the cluster reports it; `None` until the cluster has answered.
    pub kubernetes_version: Option<String>,
    /// Findings of the last cluster check.
    pub findings: Vec<Finding>,
    /// Time when the cluster was registered.
    pub created_at: Timestamp,
    /// Time when the cluster last answered.
    pub observed_at: Option<Timestamp>,
    /// Progress of the removal of our service account from the cluster.
    pub removal: AccountRemoval,
}
