//! Runs operations: claims them, executes the steps of their plans and records the results. It also
//! observes meshes, monitors clusters and delivers events to webhooks.
//!
//! A worker claims an operation with a lease and an epoch, calls clusters outside any transaction,
//! and records each result with that epoch. A worker that takes an operation over first fences the
//! targets that its predecessor started to write, so that a predecessor that resumes late can no
//! longer write.

mod attempt;
mod capacity;
mod cluster_monitor;
mod engine;
mod guarded_call;
mod lease;
mod mesh_observer;
mod metrics;
mod observed;
mod planner;
mod rounds;
mod run;
mod webhook_delivery;

pub use engine::{Engine, Settings};
pub use webhook_delivery::WebhookSender;

use async_trait::async_trait;
use meshwright_model::ids::{ClusterId, MeshId, TenantId};
use meshwright_model::leftover::{AccountRemoval, Leftover};
use meshwright_model::operation::Problem;
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::plan::MeshTopology;
use meshwright_rollout::ports::{AccountPresence, MeshClusters};
use meshwright_store::{ClusterHealth, IssuedCredential, StoreError};

/// Code of a problem that our own database causes. The worker gives the claim up and retries the
/// operation.
pub const DATABASE_CODE: ProblemCode = ProblemCode::Database;

/// Code of a problem that a damaged record of ours causes. A retry does not help.
pub const RECORD_DAMAGED_CODE: ProblemCode = ProblemCode::RecordDamaged;

/// Turns an error of the store into a problem for the user. A temporary failure gets the code
/// [`DATABASE_CODE`] and is retried; a missing or damaged record is final.
pub fn problem_from_store_error(error: &StoreError) -> Problem {
    match error {
        StoreError::NotFound { what } => {
            let message = format!("The {what} does not exist any more.");
            Problem::new(
                ProblemCode::NotFound,
                message,
                "Look at what there is, then ask again.",
            )
        }
        StoreError::Corrupt { .. }
        | StoreError::UnsealFailed
        | StoreError::KeysErased
        | StoreError::UnstorableText => Problem::new(
            RECORD_DAMAGED_CODE,
            "A stored record cannot be read.",
            "Tell the operator, who has to restore it or the key that it was sealed with.",
        ),
        _ => Problem::new(
            DATABASE_CODE,
            "The database cannot be read.",
            "Try again; if it lasts, tell the operator.",
        ),
    }
}

/// Gives access to the clusters of a mesh and to single clusters. The crate `server` implements it
/// with real clusters, and the tests with simulated ones.
#[async_trait]
pub trait ClusterProvider: Send + Sync {
    /// Opens the clusters of a mesh and returns them with the topology that plans are built from.
    ///
    /// # Errors
    /// Returns a problem for the user, such as a credential that cannot be opened or a release that
    /// is no longer in the catalogue.
    async fn open_mesh(
        &self,
        tenant: TenantId,
        mesh: MeshId,
    ) -> Result<(std::sync::Arc<dyn MeshClusters>, MeshTopology), Problem>;

    /// Reads the identity of the cluster that a registration leads to. The call uses the submitted
    /// kubeconfig if there is one, and the present credential otherwise. It writes nothing to the
    /// cluster.
    ///
    /// # Errors
    /// Returns a problem that says why the cluster cannot be used.
    async fn identify_cluster(
        &self,
        tenant: TenantId,
        cluster: ClusterId,
    ) -> Result<String, Problem>;

    /// Creates the next credential of our service account in a cluster. The call uses the submitted
    /// kubeconfig if there is one, and the present credential otherwise. It is safe to repeat.
    ///
    /// # Errors
    /// Returns a problem that says why the cluster cannot be used.
    async fn issue_credential(
        &self,
        tenant: TenantId,
        cluster: ClusterId,
    ) -> Result<IssuedCredential, Problem>;

    /// Reads our service account in a cluster, and removes it once its removal has begun. The call
    /// is safe to repeat.
    ///
    /// # Errors
    /// Returns a problem that says why the cluster does not give us access.
    async fn remove_account(
        &self,
        tenant: TenantId,
        cluster: ClusterId,
        removal: AccountRemoval,
    ) -> Result<AccountPresence, Problem>;

    /// Lists the objects that stay in a cluster that is left behind. The call does not contact the
    /// cluster.
    ///
    /// # Errors
    /// Returns an error when the database does not answer.
    async fn list_left_behind(
        &self,
        tenant: TenantId,
        cluster: ClusterId,
    ) -> Result<Vec<Leftover>, Problem>;

    /// Checks that a cluster answers, updates the control planes to its present credential, and
    /// removes older credentials after their overlap has ended. The call is safe to repeat.
    ///
    /// # Errors
    /// Returns a problem that says why the cluster does not answer.
    async fn monitor_cluster(
        &self,
        tenant: TenantId,
        cluster: ClusterId,
    ) -> Result<ClusterHealth, Problem>;
}
