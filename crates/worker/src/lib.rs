//! The engine and the observer: claims operations, runs their steps, records what came of them.
//!
//! An operation is claimed with a lease and an epoch, worked on outside any transaction, and recorded with that epoch.
//! Whoever takes over first fences what was started, so a predecessor that wakes up late can no longer write.

mod engine;
mod observe;
mod planner;
mod run;

pub use engine::{Engine, Settings};

use async_trait::async_trait;
use model::ids::{ClusterId, MeshId, TenantId};
use model::operation::Problem;
use rollout::plan::Layout;
use rollout::ports::World;

/// The code of a problem that is our own database's: the operation is let go and tried again.
pub const DATABASE: &str = "database";

/// Opens the clusters of a mesh. The `server` wires it to real ones, the tests to imagined ones.
#[async_trait]
pub trait Worlds: Send + Sync {
    /// The clusters of a mesh with what its plans are built from.
    ///
    /// # Errors
    /// A problem for the user: a credential that does not open, a release that is gone.
    async fn open(&self, tenant: TenantId, mesh: MeshId) -> Result<(std::sync::Arc<dyn World>, Layout), Problem>;

    /// Connects to a cluster for the first time, checks it, and makes our accounts in it. Safe to repeat.
    ///
    /// # Errors
    /// Why the cluster cannot be used.
    async fn register(&self, tenant: TenantId, cluster: ClusterId) -> Result<Registered, Problem>;
}

/// What a registration found.
#[derive(Debug, Clone)]
pub struct Registered {
    /// Kubernetes' version as the cluster says it.
    pub kubernetes_version: String,
    /// A credential of our own, which replaces the submitted one.
    pub kubeconfig: Vec<u8>,
}
