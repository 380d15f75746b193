//! Looks that a deletion takes at the members of a mesh beyond the targets that it removes.

use async_trait::async_trait;
use model::Name;
use model::injection::Injector;
use model::leftover::Leftover;
use model::operation::is_lost;

use super::WorldError;
use crate::plan::Line;

/// The members of a mesh, as a deletion looks at them.
#[async_trait]
pub trait Leaving: Send + Sync {
    /// The mesh's own sidecar injectors in a member. Also tells whether the member answers and lets us in.
    ///
    /// # Errors
    /// The member did not answer or does not let us look.
    async fn injectors(&self, member: &Name) -> Result<Vec<Injector>, WorldError>;

    /// The objects of the mesh that are in a member now and that a deletion removes, in words for people.
    ///
    /// # Errors
    /// As for [`Leaving::injectors`].
    async fn remains(&self, member: &Name) -> Result<Vec<String>, WorldError>;

    /// The objects that stay in a member after the deletion of a mesh with this control plane. A member that is left behind
    /// keeps everything; the others keep Istio's custom resource definitions, because removing those would remove the
    /// users' own resources. The member is not asked.
    ///
    /// # Errors
    /// The names could not be worked out.
    async fn stays(&self, member: &Name, line: &Line, left_behind: bool) -> Result<Vec<Leftover>, WorldError>;
}

impl WorldError {
    /// Whether the cluster is lost to us, see [`is_lost`].
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { code, .. } => is_lost(code),
            Self::Changed { .. } | Self::Expired => false,
        }
    }
}

/// The result of a look at our account in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It is there, and nothing was removed. What will stay in the cluster is known.
    There(Vec<Leftover>),
    /// The cluster has accepted its removal, and what is still there.
    Going(String),
    /// The cluster has accepted its removal and refuses its credential. One such look may be an authenticator that fails
    /// for a moment; only a second one a few seconds later is proof.
    Refused,
}
