//! Names the workloads whose pods a plan replaces.

use serde::{Deserialize, Serialize};

use crate::closed_set;

/// Workload that owns pods and replaces them when its template changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkloadRef {
    /// Namespace of the workload.
    pub namespace: String,
    /// Kind of the workload: `deployment`, `stateful_set` or `daemon_set`.
    pub kind: WorkloadKind,
    /// Name of the workload.
    pub name: String,
}

/// Kinds of workloads that replace their pods when their template changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadKind {
    /// Deployment of the API `apps/v1`.
    Deployment,
    /// `StatefulSet` of the API `apps/v1`.
    StatefulSet,
    /// `DaemonSet` of the API `apps/v1`.
    DaemonSet,
}

closed_set!(WorkloadKind {
    Deployment = "deployment",
    StatefulSet = "stateful_set",
    DaemonSet = "daemon_set",
});
