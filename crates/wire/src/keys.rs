//! Bodies about events, API keys and the audit log.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{EventKind, Role};

/// Event: something that happened to a mesh, a cluster, an upgrade or an operation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Number of the event in the order of the tenant's events, without gaps.
    pub seq: i64,
    /// Time at which it happened.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Kind of the event, such as `upgrade.state` or `cluster.unreachable`.
    #[schema(inline)]
    pub kind: EventKind,
    /// Id of the mesh that the event is about; null if it is about none.
    pub mesh_id: Option<String>,
    /// Id of the upgrade that the event is about; null if it is about none.
    pub upgrade_id: Option<String>,
    /// Id of the operation that the event is about; null if it is about none.
    pub operation_id: Option<String>,
    /// Details of the event; their fields depend on its kind.
    pub body: serde_json::Value,
}

/// Request to create an API key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({ "name": "pipeline", "role": "operator" }))]
#[serde(deny_unknown_fields)]
pub struct CreateApiKey {
    /// Name of the key: a DNS label of 1 to 63 characters.
    pub name: String,
    /// Role of the key: `owner`, `operator`, `viewer` or `auditor`.
    #[schema(inline)]
    pub role: Role,
    /// Ids of the meshes and clusters that the role holds for; none means the whole tenant. At most
    /// 50 are allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Time at which the key expires, in the future; without a value it never expires.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

/// Request to give an API key a new secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateApiKey {
    /// Seconds that the former secret is still accepted, from 0 (it ends at once) to 604800 (7
    /// days).
    #[serde(
        default = "default_overlap_seconds",
        deserialize_with = "crate::integer::deserialize_u32"
    )]
    #[schema(default = 3600, maximum = 604_800)]
    pub overlap_seconds: u32,
}

pub(crate) fn default_overlap_seconds() -> u32 {
    3600
}

/// API key. Its secret is present only in the answer that created or rotated it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ApiKey {
    /// Id of the key.
    pub id: String,
    /// Name of the key.
    pub name: String,
    /// Role of the key: `owner`, `operator`, `viewer` or `auditor`.
    #[schema(inline)]
    pub role: Role,
    /// Ids of the meshes and clusters that the role holds for; none means the whole tenant.
    pub scopes: Vec<String>,
    /// Time at which the key was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Time at which the key expires; null if it does not.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Time at which the key was revoked; null if it was not.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
    /// Time at which the key was last used, to the minute; null if it was never used.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
    /// Time until which the secret before the last rotation is accepted; null if there is none.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub former_secret_until: Option<Timestamp>,
    /// Secret of the key, shown once: in the answer that created or rotated it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Audit entry: one change by a caller or a worker.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Number of the entry, without gaps.
    pub seq: i64,
    /// Time of the change, to the microsecond.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Actor: the id of an API key, the id of an identity provider with the subject of the token,
    /// or the name of a worker.
    pub actor: String,
    /// Action: the `operationId` of the call, or what a worker did in a cluster.
    pub action: String,
    /// Id or name of the thing that was changed.
    pub target: String,
    /// Id of the request that made the change; null if there was none.
    pub request_id: Option<String>,
    /// SHA-256 of the state before the change, in hexadecimal; null if there was nothing.
    pub before_sha256: Option<String>,
    /// SHA-256 of the state after the change, in hexadecimal; null if nothing was left.
    pub after_sha256: Option<String>,
    /// SHA-256 over the hash of the entry before and this entry, in hexadecimal.
    pub hash: String,
}

/// Page of the audit log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditEntryList {
    /// Entries of this page, oldest first.
    pub items: Vec<AuditEntry>,
    /// Value of `after` that returns the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_after: Option<i64>,
}

/// Newest entry of a tenant's audit log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditHead {
    /// Id of the tenant that the log belongs to.
    pub tenant_id: String,
    /// Number of the newest entry; 0 if the log is empty.
    pub seq: i64,
    /// SHA-256 of the newest entry, in hexadecimal.
    pub hash: String,
    /// Time at which the log was read.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}
