//! Bodies about deletion: the force that leaves an unreachable cluster behind, and the leftovers in
//! clusters.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::LeftoverKind;

/// Options of a deletion for clusters that do not answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = Leave)]
pub struct DeleteOptions {
    /// Leave behind a cluster that does not answer, or that no longer accepts Meshwright's
    /// credential. A cluster that answers is never left behind.
    pub force: bool,
    /// Reason for the force, 1 to 500 characters in one line. It is required with `force` and is
    /// written to the audit log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Object, or all objects of one name, that stays in a cluster after a deletion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Leftover {
    /// Name of the cluster that holds the object.
    pub cluster: String,
    /// Kubernetes kind of the object.
    #[schema(inline)]
    pub kind: LeftoverKind,
    /// Namespace of the object: null for a kind without namespaces, `*` for every namespace.
    pub namespace: Option<String>,
    /// Name of the object.
    pub name: String,
    /// Command that removes the object, for a kubectl that points to the cluster.
    pub command: String,
}
