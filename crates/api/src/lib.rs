//! HTTP: the only crate that names axum. It writes intent and reads what workers observed; it never calls a cluster.
//!
//! A request: [`router`] → one file for each resource → `store`.

use std::sync::Arc;

use model::Clock;
use store::Store;

mod again;
mod audit;
mod auth;
mod catalogue;
mod change;
mod clusters;
mod deprecation;
mod envelope;
mod events;
mod fields;
mod identity;
mod keys;
mod leave;
mod limits;
mod meshes;
mod oidc;
mod operations;
mod paging;
mod places;
mod problem;
mod promises;
mod release;
mod router;
mod serve;
mod tenants;
mod unread;
mod upgrades;
mod views;
mod vitals;
mod webhooks;
mod write_limit;

pub use limits::{RequestLimiter, Rate, Rates};
pub use oidc::{Fetch, FetchError, IssuerKeys};
pub use release::parse_import_release;
pub use router::{openapi, router};
pub use serve::{ConnectionLimits, serve};
pub use vitals::{MetricsServer, metrics_router};

/// Reads a submitted kubeconfig: the server's address and the form that is stored, or the problem's code and why it is
/// refused.
pub type ReadKubeconfig = Arc<dyn Fn(&str) -> Result<(String, Vec<u8>), (&'static str, String)> + Send + Sync>;

/// Makes a new mesh's authority, in the form that is stored.
pub type NewAuthority = fn(&str, jiff::Timestamp) -> Result<Vec<u8>, String>;

/// Reads the charts of a release that somebody sent: the archive that is stored, with its digest, or why they are refused.
pub type ReadCharts = fn(&[u8]) -> Result<(Vec<u8>, String), String>;

/// What every handler needs. Clones share it.
#[derive(Clone)]
pub struct App {
    /// The database.
    pub store: Store,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The strict reader of kubeconfigs.
    pub read_kubeconfig: ReadKubeconfig,
    /// The maker of authorities.
    pub new_authority: NewAuthority,
    /// The strict reader of charts.
    pub read_charts: ReadCharts,
    /// Who has asked how often.
    pub limits: Arc<RequestLimiter>,
    /// The keys of identity providers.
    pub issuers: Arc<IssuerKeys>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").finish_non_exhaustive()
    }
}
