//! The engine and the observer: claims operations, runs their steps, records what came of them.
//!
//! An operation is claimed with a lease and an epoch, worked on outside any transaction, and recorded with that epoch.
//! Whoever takes over first fences what was started, so a predecessor that wakes up late can no longer write.

mod attempt;
mod deliver;
mod engine;
mod lease;
mod observe;
mod observed;
mod places;
mod planner;
mod rounds;
mod run;
mod tend;
mod vitals;

pub use deliver::WebhookSender;
pub use engine::{Engine, Settings};

use async_trait::async_trait;
use model::ids::{ClusterId, MeshId, TenantId};
use model::leftover::{Leftover, AccountRemoval};
use model::operation::Problem;
use rollout::plan::MeshTopology;
use rollout::ports::{AccountPresence, MeshClusters};
use store::{IssuedCredential, StoreError, ClusterHealth};

/// The code of a problem that is our own database's: the operation is let go and tried again.
pub const DATABASE_CODE: &str = "database";

/// The code of a problem that a record of ours is: trying again does not help.
pub const RECORD_DAMAGED_CODE: &str = "record_damaged";

/// A store's error in words for people: one that passes is tried again, and one that does not is an answer.
pub fn problem_from_store_error(error: &StoreError) -> Problem {
    match error {
        StoreError::NotFound { what } => {
            let message = format!("The {what} does not exist any more.");
            Problem::new("not_found", message, "Look at what there is, then ask again.")
        }
        StoreError::Corrupt { .. } | StoreError::UnsealFailed | StoreError::KeysErased | StoreError::UnstorableText => Problem::new(
            RECORD_DAMAGED_CODE,
            "A stored record cannot be read.",
            "Tell the operator, who has to restore it or the key that it was sealed with.",
        ),
        _ => Problem::new(DATABASE_CODE, "The database cannot be read.", "Try again; if it lasts, tell the operator."),
    }
}

/// Opens the clusters of a mesh. The `server` wires it to real ones, the tests to imagined ones.
#[async_trait]
pub trait ClusterProvider: Send + Sync {
    /// The clusters of a mesh with what its plans are built from.
    ///
    /// # Errors
    /// A problem for the user: a credential that does not open, a release that is gone.
    async fn open_mesh(&self, tenant: TenantId, mesh: MeshId) -> Result<(std::sync::Arc<dyn MeshClusters>, MeshTopology), Problem>;

    /// The identity of the cluster that a registration leads to: by what was submitted, else by the present credential.
    /// Nothing is written there.
    ///
    /// # Errors
    /// Why the cluster cannot be used.
    async fn identify_cluster(&self, tenant: TenantId, cluster: ClusterId) -> Result<String, Problem>;

    /// Makes the next credential of our account in a cluster: by what was submitted, else by the present one. Safe to repeat.
    ///
    /// # Errors
    /// Why the cluster cannot be used.
    async fn issue_credential(&self, tenant: TenantId, cluster: ClusterId) -> Result<IssuedCredential, Problem>;

    /// Looks at our account in a cluster; once its removal has begun, also removes it. Safe to repeat.
    ///
    /// # Errors
    /// Why the cluster does not let us.
    async fn remove_account(&self, tenant: TenantId, cluster: ClusterId, removal: AccountRemoval) -> Result<AccountPresence, Problem>;

    /// Objects that stay in a cluster that is left behind without being asked.
    ///
    /// # Errors
    /// The database failed.
    async fn list_left_behind(&self, tenant: TenantId, cluster: ClusterId) -> Result<Vec<Leftover>, Problem>;

    /// Looks after a cluster: it answers, the control planes' own tokens belong to its present credential, and what is older
    /// is taken away once its time is over. Safe to repeat.
    ///
    /// # Errors
    /// Why it does not answer.
    async fn monitor_cluster(&self, tenant: TenantId, cluster: ClusterId) -> Result<ClusterHealth, Problem>;
}
