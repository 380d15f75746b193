//! What was last observed of a mesh, and what may be set in it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A namespace's injection, to be set.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetInjection {
    /// The member cluster's name.
    pub cluster: String,
    /// The namespace.
    pub namespace: String,
    /// `istio-injection=enabled`, `istio.io/rev=<revision or tag>`, or nothing to switch injection off.
    pub label: Option<String>,
}

/// A mesh's data plane as it was last observed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DataPlane {
    /// When.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub observed_at: Option<Timestamp>,
    /// The namespaces of every member.
    pub namespaces: Vec<NamespaceView>,
    /// The workloads of labelled namespaces.
    pub workloads: Vec<WorkloadView>,
    /// The proxies that are connected to some control plane.
    pub proxies: Vec<ProxyView>,
    /// Tags of the mesh that were removed from a member: pods that ask for them start without a sidecar. Restarting what is
    /// behind puts them back.
    #[serde(default)]
    pub missing_tags: Vec<MissingTag>,
}

/// A tag that every mesh has and that a member lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MissingTag {
    /// The member cluster's name.
    pub cluster: String,
    /// `stable`, `default` or `canary`.
    pub tag: String,
}

/// A namespace.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NamespaceView {
    /// The member cluster's name.
    pub cluster: String,
    /// Its name.
    pub name: String,
    /// Its injection label.
    pub label: Option<String>,
    /// Which revision injects its pods.
    pub injected_by: Option<String>,
    /// What is wrong with it.
    pub conflict: Option<String>,
}

/// A workload.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WorkloadView {
    /// The member cluster's name.
    pub cluster: String,
    /// `namespace/kind/name`.
    pub name: String,
    /// Live pods.
    pub pods: usize,
    /// The revisions that its live pods carry.
    pub revisions: Vec<String>,
    /// The revision that it is to carry.
    pub wanted: Option<String>,
    /// Whether some live pod does not carry what that revision injects now.
    pub restart_needed: bool,
    /// Why a restart is needed: `no_sidecar`, `revision` (another one injected a pod) or `image` (the right revision did, with
    /// another proxy image than it injects now).
    #[serde(default)]
    pub restart_reason: Option<String>,
    /// The proxy images of its live pods.
    #[serde(default)]
    pub images: Vec<String>,
    /// Why no restart of ours would reach it.
    pub stuck: Option<String>,
}

/// A connected proxy.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProxyView {
    /// `pod.namespace`.
    pub proxy: String,
    /// The member that it claims to be in.
    pub cluster: String,
    /// The revision that it is connected to.
    pub revision: String,
    /// The Istio version that it claims.
    pub version: String,
    /// Whether it acknowledged everything.
    pub synced: bool,
    /// What it last rejected.
    pub error: Option<String>,
    /// True when no such pod exists.
    pub ghost: bool,
}
