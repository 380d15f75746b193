//! Holds the dependencies that the server gives to the API.

use std::sync::Arc;

use meshwright_model::Clock;
use meshwright_model::problem::ProblemCode;
use meshwright_store::Store;

use crate::middleware::rate_limit::RequestLimiter;
use crate::oidc::IssuerKeys;

/// Function that reads a submitted kubeconfig. It returns the address of the API server and the
/// kubeconfig in the form that is stored, or the problem code and the reason of a refusal.
pub type ReadKubeconfig =
    Arc<dyn Fn(&str) -> Result<(String, Vec<u8>), (ProblemCode, String)> + Send + Sync>;

/// Function that creates the CA of a new mesh, with the mesh's name and the current time. It
/// returns the CA in the form that is stored, or the cause of the failure.
pub type NewAuthority = fn(&str, jiff::Timestamp) -> Result<Vec<u8>, String>;

/// Function that reads the charts of a release that a client sent. It returns the archive that is
/// stored and its digest, or the reason of a refusal.
pub type ReadCharts = fn(&[u8]) -> Result<(Vec<u8>, String), String>;

/// Dependencies of the API, from which the state of the handlers is made. Clones share them.
#[derive(Clone)]
pub struct App {
    /// Access to the database.
    pub store: Store,
    /// Source of the current time and of new ids.
    pub clock: Arc<dyn Clock>,
    /// Reader of submitted kubeconfigs, which accepts a strict subset only.
    pub read_kubeconfig: ReadKubeconfig,
    /// Function that creates the CA of a new mesh.
    pub new_authority: NewAuthority,
    /// Reader of submitted charts, which accepts a strict form only.
    pub read_charts: ReadCharts,
    /// Rate limits, and the requests that were counted against them.
    pub limits: Arc<RequestLimiter>,
    /// Signature keys of identity providers, fetched and cached.
    pub issuers: Arc<IssuerKeys>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").finish_non_exhaustive()
    }
}
