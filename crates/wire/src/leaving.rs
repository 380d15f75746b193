//! Leaving clusters: with force where one is dead, and what stays.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a deletion treats a cluster that does not answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Leave {
    /// Leave a cluster behind that does not answer, or that does not accept our credential any more. One that answers is
    /// never left behind.
    pub force: bool,
    /// Why, 1 to 500 characters; needed with `force`, and written into the audit log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An object, or all objects of one name, that stays in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Leftover {
    /// Name of the cluster that holds it.
    pub cluster: String,
    /// The Kubernetes kind.
    pub kind: String,
    /// The namespace: null for a kind without, `*` for every namespace.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The command that removes it, for a kubectl that points to the cluster.
    pub command: String,
}
