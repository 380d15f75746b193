//! Looks that a deletion takes at the members of a mesh beyond the targets that it removes.

use async_trait::async_trait;
use model::Name;
use model::injection::Injector;
use model::leftover::Leftover;
use model::operation::is_cluster_lost_code;

use super::ClusterError;
use crate::plan::ControlPlane;

/// The members of a mesh, as a deletion looks at them.
#[async_trait]
pub trait TeardownInspection: Send + Sync {
    /// The mesh's own sidecar injectors in a member. Also tells whether the member answers and lets us in.
    ///
    /// # Errors
    /// The member did not answer or does not let us look.
    async fn list_injectors(&self, member: &Name) -> Result<Vec<Injector>, ClusterError>;

    /// The objects of the mesh that are in a member now and that a deletion removes, in words for people.
    ///
    /// # Errors
    /// As for [`Leaving::injectors`].
    async fn list_remaining_objects(&self, member: &Name) -> Result<Vec<String>, ClusterError>;

    /// The objects that stay in a member after the deletion of a mesh with this control plane. A member that is left behind
    /// keeps everything; the others keep Istio's custom resource definitions, because removing those would remove the
    /// users' own resources. The member is not asked.
    ///
    /// # Errors
    /// The names could not be worked out.
    async fn list_leftovers(&self, member: &Name, line: &ControlPlane, left_behind: bool) -> Result<Vec<Leftover>, ClusterError>;
}

impl ClusterError {
    /// Whether the cluster is lost to us, see [`is_lost`].
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { code, .. } => is_cluster_lost_code(code),
            Self::Changed { .. } | Self::Expired => false,
        }
    }
}

/// The result of a look at our account in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountPresence {
    /// It is there, and nothing was removed. What will stay in the cluster is known.
    Present(Vec<Leftover>),
    /// The cluster has accepted its removal, and what is still there.
    Terminating(String),
    /// The cluster has accepted its removal and refuses its credential. One such look may be an authenticator that fails
    /// for a moment; only a second one a few seconds later is proof.
    CredentialRefused,
}
