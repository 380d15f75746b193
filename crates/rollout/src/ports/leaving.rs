//! Interface for the checks of a deletion in the members of a mesh, beyond the targets that it
//! removes.

use std::collections::BTreeSet;

use async_trait::async_trait;
use meshwright_model::Name;
use meshwright_model::injection::Injector;
use meshwright_model::leftover::Leftover;
use meshwright_model::operation::is_cluster_lost_code;

use super::ClusterError;
use crate::plan::ControlPlane;

/// Checks that a deletion makes in the members of a mesh.
#[async_trait]
pub trait TeardownInspection: Send + Sync {
    /// Lists the mesh's own sidecar injectors in a member. The call also shows whether the member
    /// answers and grants access.
    ///
    /// # Errors
    /// Returns an error when the member does not answer or denies the read.
    async fn list_injectors(&self, member: &Name) -> Result<Vec<Injector>, ClusterError>;

    /// Lists the objects of the mesh that are in a member now and that a deletion removes, as text
    /// for people.
    ///
    /// # Errors
    /// Returns the same errors as [`TeardownInspection::list_injectors`].
    async fn list_remaining_objects(&self, member: &Name) -> Result<Vec<String>, ClusterError>;

    /// Lists the objects that stay in a member after the deletion of a mesh with this control
    /// plane. A member that is left behind keeps all objects. The other members keep Istio's custom
    /// resource definitions, because their removal would also remove the users' own resources. The
    /// call does not contact the member, so `known_tags` names the tags that a member which is left
    /// behind was last known to have; it is `None` for a member that answers.
    ///
    /// # Errors
    /// Returns an error when the names of the objects cannot be determined.
    async fn list_leftovers(
        &self,
        member: &Name,
        line: &ControlPlane,
        known_tags: Option<&BTreeSet<String>>,
    ) -> Result<Vec<Leftover>, ClusterError>;
}

impl ClusterError {
    /// Returns true if the cluster is lost to us, as [`is_cluster_lost_code`] defines it.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { code, .. } => is_cluster_lost_code(*code),
            Self::Changed { .. } | Self::Delayed { .. } | Self::Expired => false,
        }
    }
}

/// Result of a check of our service account in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountPresence {
    /// The account exists, and no object was removed. The list holds the objects that will stay in
    /// the cluster.
    Present(Vec<Leftover>),
    /// The cluster has accepted the removal of the account; the text names the objects that still
    /// exist.
    Terminating(String),
    /// The cluster has accepted the removal of the account and refuses its credential. A single
    /// refusal can come from an authenticator that fails for a moment; only a second refusal a few
    /// seconds later is proof.
    CredentialRefused,
}
