//! Events, keys and the audit log.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its place in the tenant's order, without gaps.
    pub seq: i64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What kind.
    pub kind: String,
    /// About which mesh.
    pub mesh_id: Option<String>,
    /// About which upgrade.
    pub upgrade_id: Option<String>,
    /// About which operation.
    pub operation_id: Option<String>,
    /// The rest.
    pub body: serde_json::Value,
}

/// A key to make.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({ "name": "pipeline", "role": "operator" }))]
#[serde(deny_unknown_fields)]
pub struct CreateApiKey {
    /// Its name.
    pub name: String,
    /// `owner`, `operator`, `viewer` or `auditor`.
    pub role: String,
    /// Ids of the meshes and clusters that the role holds for; none means the whole tenant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// When it ends.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

/// How a key is rotated.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateApiKey {
    /// For how many seconds the former secret is accepted; 0 ends it at once.
    #[serde(default = "default_overlap_seconds", deserialize_with = "crate::whole::deserialize_u32")]
    #[schema(default = 3600, maximum = 604_800)]
    pub overlap_seconds: u32,
}

pub(crate) fn default_overlap_seconds() -> u32 {
    3600
}

/// A key without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ApiKey {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: String,
    /// With which meshes and clusters; none means the whole tenant.
    pub scopes: Vec<String>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it ends.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
    /// Until when the secret before the last rotation is accepted.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub former_secret_until: Option<Timestamp>,
    /// The secret; shown once, when it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Something that was done.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Its number, without gaps.
    pub seq: i64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who: the id of a key, or the name of a worker.
    pub actor: String,
    /// What: the `operationId` of the call, or what a worker did in a cluster.
    pub action: String,
    /// To what.
    pub target: String,
    /// As part of which request.
    pub request_id: Option<String>,
    /// Digest of what was there before.
    pub before_sha256: Option<String>,
    /// Digest of what was there afterwards.
    pub after_sha256: Option<String>,
    /// Digest over the entry before it and this one.
    pub hash: String,
}

/// A part of the audit log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditEntryList {
    /// The entries.
    pub items: Vec<AuditEntry>,
    /// Give it back as `after` for more; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_after: Option<i64>,
}

/// Where the audit log ends.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditHead {
    /// Whose log.
    pub tenant_id: String,
    /// The last entry's number.
    pub seq: i64,
    /// Its digest.
    pub hash: String,
    /// When this was read.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}
