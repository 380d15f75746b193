//! Request and response bodies and problem codes, shared by the api and the cli.
//!
//! Enums grow: clients must tolerate values that they do not know. Times are RFC 3339 in UTC.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong, as RFC 9457 describes it (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Address of a page about this code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// Stable identifier, for programs.
    #[schema(example = "mesh_busy")]
    pub code: String,
    /// What happened here.
    pub detail: String,
    /// What helps.
    pub hint: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Single fields that are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// Where it is in the body.
    pub pointer: String,
    /// What is wrong with it.
    pub message: String,
}

macro_rules! lists {
    ($($(#[$doc:meta])* $name:ident of $item:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
        pub struct $name {
            /// The items of this page.
            pub items: Vec<$item>,
            /// Give it back as `page_token` for the next page; absent on the last one.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub next_page_token: Option<String>,
        }
    )*};
}

lists! {
    /// Hosting clusters.
    HostingClusterList of HostingCluster;
    /// Releases.
    ReleaseList of Release;
    /// Clusters.
    ClusterList of Cluster;
    /// Meshes.
    MeshList of Mesh;
    /// Upgrades.
    UpgradeList of Upgrade;
    /// Operations.
    OperationList of Operation;
    /// Upgrade options.
    UpgradeOptionList of UpgradeOption;
    /// API keys.
    ApiKeyList of ApiKey;
    /// Events.
    EventList of Event;
}

/// A Kubernetes cluster of the provider, where control planes run.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HostingCluster {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// A release of the catalogue.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Release {
    /// Its version.
    #[schema(example = "1.27.9.1")]
    pub version: String,
    /// `available`, `deprecated` or `withdrawn`.
    pub state: String,
    /// When its support ends.
    pub supported_until: Option<String>,
    /// The Kubernetes minors that it was tested on.
    pub kubernetes: String,
    /// Known faults that change how we act.
    pub quirks: Vec<String>,
}

/// A cluster to register.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterCluster {
    /// Its name: a DNS label.
    #[schema(example = "payments-eu")]
    pub name: String,
    /// An administrator's kubeconfig with everything inline. It is discarded when an account of ours has been made.
    #[schema(write_only)]
    pub kubeconfig: String,
}

/// A registered cluster.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `registering`, `ready` or `refused`.
    pub state: String,
    /// Why it was refused.
    pub problem: Option<Trouble>,
    /// Its API server.
    pub server: String,
    /// Kubernetes' version.
    pub kubernetes_version: Option<String>,
    /// When it was registered.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it last answered.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub observed_at: Option<Timestamp>,
}

/// Why something stands still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Trouble {
    /// Stable identifier.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What helps.
    pub hint: String,
}

/// A mesh to create.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateMesh {
    /// Its name: a DNS label.
    #[schema(example = "payments")]
    pub name: String,
    /// The version to start on.
    #[schema(example = "1.25.1.1")]
    pub version: String,
    /// `standard`, `enterprise` or `ultimate`.
    #[serde(default = "enterprise")]
    pub edition: String,
    /// Ids of its member clusters; the first is the config cluster.
    pub clusters: Vec<String>,
}

fn enterprise() -> String {
    "enterprise".into()
}

/// A control plane of a mesh.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// Its immutable name.
    #[schema(example = "1-27-9")]
    pub name: String,
    /// The version that runs in it.
    pub version: String,
}

/// A member of a mesh.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// The cluster.
    pub cluster_id: String,
    /// Its name.
    pub name: String,
    /// `config` or `remote`.
    pub role: String,
}

/// A mesh.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Mesh {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its namespace in every cluster.
    pub namespace: String,
    /// Its edition.
    pub edition: String,
    /// `creating`, `ready`, `deleting` or `deleted`.
    pub state: String,
    /// What `stable` and `default` point to.
    pub current: Revision,
    /// The other one, during an upgrade.
    pub target: Option<Revision>,
    /// Its members.
    pub members: Vec<Member>,
    /// The upgrade or operation that changes it right now.
    pub busy_with: Option<String>,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Where a mesh can go.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UpgradeOption {
    /// The version.
    pub version: String,
    /// Each way there, allowed or refused.
    pub strategies: Vec<StrategyOption>,
    /// The stops of the shortest way, where one hop is not enough.
    pub path: Vec<String>,
}

/// One way to a version.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StrategyOption {
    /// `in_place` or `canary`.
    pub strategy: String,
    /// Whether nothing blocks.
    pub allowed: bool,
    /// Everything that blocks or warns.
    pub reasons: Vec<Reason>,
}

/// Why a version is refused or warned of.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    /// Stable identifier.
    pub code: String,
    /// `block` or `warn`.
    pub severity: String,
    /// What it means here.
    pub message: String,
}

/// An upgrade to plan.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUpgrade {
    /// The version to go to.
    #[schema(example = "1.27.9.1")]
    pub version: String,
    /// `in_place` or `canary`.
    pub strategy: String,
    /// Promote without a person.
    #[serde(default)]
    pub auto: bool,
    /// How long the old revision is kept after the roll-out.
    #[serde(default = "day")]
    pub hold_seconds: u32,
    /// Warnings of the precheck do not stop it.
    #[serde(default)]
    pub accept_warnings: bool,
}

fn day() -> u32 {
    24 * 3600
}

/// An upgrade.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Upgrade {
    /// Its id.
    pub id: String,
    /// Of which mesh.
    pub mesh_id: String,
    /// From which version.
    pub from_version: String,
    /// To which version.
    pub to_version: String,
    /// `in_place` or `canary`.
    pub strategy: String,
    /// Where it stands.
    pub state: String,
    /// What a person may ask of it now.
    pub allowed_verbs: Vec<String>,
    /// What the precheck found.
    pub findings: Vec<Finding>,
    /// Why it stands still.
    pub problem: Option<Trouble>,
    /// When the old revision goes by itself, while it is held.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub holding_until: Option<Timestamp>,
    /// The stage under way, or the last one.
    pub operation_id: Option<String>,
    /// True at an end.
    pub done: bool,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
}

/// What a precheck found.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// Stable identifier.
    pub code: String,
    /// `block` or `warn`.
    pub severity: String,
    /// What it is about.
    pub object: String,
    /// What is wrong.
    pub message: String,
    /// What helps.
    pub hint: String,
}

/// Namespaces to move to the canary.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveNamespaces {
    /// Which.
    pub namespaces: Vec<NamespaceRef>,
}

/// A namespace of a member.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamespaceRef {
    /// The member cluster's name.
    pub cluster: String,
    /// The namespace.
    pub namespace: String,
}

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

/// One machine action.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Its id.
    pub id: String,
    /// What it does.
    pub kind: String,
    /// Where it stands.
    pub state: String,
    /// Why it stands still or failed.
    pub problem: Option<Trouble>,
    /// True at an end.
    pub done: bool,
    /// In which mesh.
    pub mesh_id: Option<String>,
    /// With which cluster.
    pub cluster_id: Option<String>,
    /// As a stage of which upgrade.
    pub upgrade_id: Option<String>,
    /// Steps done, and how many there are.
    pub progress: Progress,
    /// What it waits for right now.
    pub waiting_for: Option<String>,
    /// Its plan, once a worker has built it. Lists leave it out.
    pub waves: Vec<Wave>,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
}

/// How far something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Steps done.
    pub completed: usize,
    /// Steps there are.
    pub total: usize,
}

/// Steps that run side by side.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Wave {
    /// What it is for.
    pub title: String,
    /// Its steps.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// Its number within the plan.
    pub number: i32,
    /// What it does.
    pub title: String,
    /// `pending`, `started`, `done` or `failed`.
    pub state: String,
    /// Why it failed.
    pub problem: Option<Trouble>,
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
    /// Whether some live pod does not.
    pub restart_needed: bool,
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
#[serde(deny_unknown_fields)]
pub struct CreateApiKey {
    /// Its name.
    pub name: String,
    /// `owner`, `operator`, `viewer` or `auditor`.
    pub role: String,
    /// When it ends.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
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
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it ends.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
    /// The secret; shown once, when it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}
