//! Bodies about the data plane of a mesh: its last observation, and changes of injection labels.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{InjectionConflict, MeshTag, RestartBlocker, RestartReason};

/// Request to set or remove the injection label of a namespace.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetInjection {
    /// Name of the member cluster that holds the namespace.
    pub cluster: String,
    /// Name of the namespace whose label is set.
    pub namespace: String,
    /// Label to set: `istio-injection=enabled` or `istio.io/rev=<revision or tag>`. Without a
    /// value, the injection label is removed and injection is off.
    pub label: Option<String>,
}

/// Data plane of a mesh as a worker last observed it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DataPlane {
    /// Time of the last observation; null while the mesh was not observed yet.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub observed_at: Option<Timestamp>,
    /// Namespaces of all member clusters, except the namespaces of Kubernetes itself and of the
    /// mesh.
    pub namespaces: Vec<NamespaceView>,
    /// Workloads of these namespaces that own pods, and those of the mesh's own namespace that are
    /// in the mesh, such as gateways.
    pub workloads: Vec<WorkloadView>,
    /// Proxies that are connected to a control plane of the mesh.
    pub proxies: Vec<ProxyView>,
    /// Tags of the mesh that were removed from a member cluster. Pods that ask for such a tag start
    /// without a sidecar. A restart of the workloads that are behind restores the tags.
    #[serde(default)]
    pub missing_tags: Vec<MissingTag>,
}

/// Revision tag that every mesh has and that a member cluster lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MissingTag {
    /// Name of the member cluster that lacks the tag.
    pub cluster: String,
    /// Missing tag: `stable`, `default` or `canary`.
    #[schema(inline)]
    pub tag: MeshTag,
}

/// Namespace of a member cluster, with its injection label and what follows from it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NamespaceView {
    /// Name of the member cluster that holds the namespace.
    pub cluster: String,
    /// Name of the namespace.
    pub name: String,
    /// Injection label as `key=value`, of `istio.io/rev` if both are set, else of
    /// `istio-injection`; null without a label.
    pub label: Option<String>,
    /// Revision that injects the pods of the namespace; null if none does, or if several would.
    pub injected_by: Option<String>,
    /// Reason why no single revision injects: `both_labels`, `several_webhooks` or
    /// `no_such_revision`; null if there is no conflict.
    #[schema(inline)]
    pub conflict: Option<InjectionConflict>,
}

/// Workload of a member cluster, with what its live pods carry.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WorkloadView {
    /// Name of the member cluster that runs the workload.
    pub cluster: String,
    /// Identity of the workload, as `namespace/kind/name`.
    pub name: String,
    /// Number of live pods; finished pods do not count.
    pub pods: usize,
    /// Revisions that injected the live pods; `none` stands for pods without a sidecar.
    pub revisions: Vec<String>,
    /// Revision that injects new pods of the workload; null if none does, or if several would.
    pub wanted: Option<String>,
    /// True if a live pod does not carry what the wanted revision injects now.
    pub restart_needed: bool,
    /// Reason for the restart: `no_sidecar` (a pod has no sidecar), `revision` (another revision
    /// injected a pod) or `image` (the wanted revision injected a pod, with another proxy image
    /// than it injects now); null if no restart is needed.
    #[serde(default)]
    #[schema(inline)]
    pub restart_reason: Option<RestartReason>,
    /// Proxy images of the live pods.
    #[serde(default)]
    pub images: Vec<String>,
    /// Reason why a restart by Meshwright does not reach the pods: `paused` (the Deployment is
    /// paused), `on_delete` (its update strategy is `OnDelete`), `partition` (a partition of the
    /// `StatefulSet` keeps some of its pods), `self_rolling` (the Gateway API controller owns it
    /// and restarts it when its tag moves) or `owned` (another controller owns it and would revert
    /// the change); null if a restart works.
    #[schema(inline)]
    pub stuck: Option<RestartBlocker>,
}

/// Proxy that is connected to a control plane, as istiod reports it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProxyView {
    /// Pod of the proxy, as `pod.namespace`.
    pub proxy: String,
    /// Member cluster that the proxy claims to run in.
    pub cluster: String,
    /// Revision whose istiod the proxy is connected to.
    pub revision: String,
    /// Istio version that the proxy claims to run.
    pub version: String,
    /// True if the proxy acknowledged all configuration that istiod sent, and reported no error.
    pub synced: bool,
    /// Error with which the proxy last rejected its configuration; null if it rejected none.
    pub error: Option<String>,
    /// True if no such pod exists in the member cluster. The proxy blocks the retirement of its
    /// revision all the same.
    pub ghost: bool,
}
