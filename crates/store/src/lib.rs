//! Stores everything in Postgres; this is the only crate that uses sqlx.
//!
//! Two independent walls separate tenants, and each is sufficient alone: every query of a tenant's
//! rows takes the tenant from a [`Tx`], and the `Tx` also sets the tenant for row-level security.
//! Events are buffered and get their numbers in the last statement of the transaction.

mod access;
mod db;
mod error;
mod events;
mod fleet;
mod operations;
mod sealing;

pub use access::api_key_token::ApiKeyToken;
pub use access::api_keys::{ApiKey, NewApiKey};
pub use access::identity_providers::{Binding, Provider, Subject};
pub use access::tenants::{NewTenant, Tenant};
pub use db::connection_quota::{TenantPermits, TxMode};
pub use db::embedded_postgres;
pub use db::idempotency::{IdempotencyLookup, RequestKey, StoredResponse};
pub use db::lists::{AccessFilter, Page};
pub use db::query_areas::{
    ApiKeyQueries, AuditQueries, CatalogueQueries, ClusterQueries, DeliveryQueries, EventQueries,
    IdempotencyQueries, IdentityQueries, LabelQueries, MeshQueries, OperationQueries,
    SealingQueries, TenantQueries, UpgradeQueries, WebhookQueries,
};
pub use db::session::Session;
pub use db::store::{CREATE_ROLES_SQL, Store};
pub use db::tx::Tx;
pub use error::StoreError;
pub use events::deliveries::{Delivery, DeliveryAttempt, DeliveryBatch};
pub use events::event_log::{CursorStatus, EVENT_RETENTION, Event, NewEvent};
pub use events::webhooks::{NewWebhook, Webhook};
pub use fleet::catalogue::{HostingCluster, StoredRelease};
pub use fleet::cluster::{Cluster, ClusterState, NewCluster};
pub use fleet::cluster_checks::{ClusterCheck, ClusterHealth};
pub use fleet::cluster_credentials::{CLUSTER_IDENTITY_CONSTRAINT, IssuedCredential};
pub use fleet::deleted_meshes::DeletedMesh;
pub use fleet::labels::{ListFilter, UserMetadata};
pub use fleet::leftovers::force_arguments;
pub use fleet::mesh::{Member, Mesh, MeshState, NewMesh, Revision};
pub use fleet::observations::DueObservation;
pub use operations::fencing::UnfencedOperation;
pub use operations::notifications::WorkNotifications;
pub use operations::operation::{NewOperation, Operation, StepCounts};
pub use operations::plans::{PlannedStep, WaveSummary};
pub use operations::queue::{Claim, ClaimFilter};
pub use operations::renewals::OpenRenewal;
pub use operations::rollouts::{
    Rollout, RolloutItem, RolloutItemFilter, RolloutItems, RolloutStateCount,
};
pub use operations::updates::{NewStep, OperationUpdate, PendingSignals};
pub use operations::upgrades::{NewUpgrade, Upgrade};
pub use sealing::aead::{hmac_sha256, random_hex, random_key, sha256, sha256_hex};
pub use sealing::sealer::Sealer;
pub use sealing::tenant_keys;
