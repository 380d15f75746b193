//! Hosting clusters, releases, clusters and meshes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Finding, Leftover};

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
    /// The day it came out.
    pub released_on: Option<String>,
    /// When its support ends.
    pub supported_until: Option<String>,
    /// The channels that it is offered in: `rapid`, `regular` or `stable`.
    pub channels: Vec<String>,
    /// The lowest edition whose meshes may run it.
    pub minimum_edition: String,
    /// The Kubernetes minors that it was tested on.
    pub kubernetes: String,
    /// Where its images are pulled from.
    pub hub: String,
    /// Tag of its images.
    pub tag: String,
    /// SHA-256 of its charts as they are kept, in hexadecimal; empty for callers who do not operate the service.
    pub charts_digest: String,
    /// What users should know of it.
    pub notes: String,
    /// Known faults that change how the service acts; empty for callers who do not operate it.
    pub quirks: Vec<String>,
}

/// A hosting cluster to add.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddHostingCluster {
    /// Its name: a DNS label.
    #[schema(example = "eu-west-1")]
    pub name: String,
    /// A kubeconfig with everything inline, which may do everything in the meshes' namespaces. It is kept, sealed.
    #[schema(write_only)]
    pub kubeconfig: String,
}

/// A release to import.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportRelease {
    /// Its version.
    #[schema(example = "1.27.9.1")]
    pub version: String,
    /// Its charts: a tar of the folders `base` and `istiod`, with or without gzip, in base64. At most 16 MiB unpacked.
    pub charts: String,
    /// Where its images are pulled from.
    #[serde(default = "default_hub")]
    #[schema(default = "docker.io/istio")]
    pub hub: String,
    /// Tag of its images; the community version by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The day on which its support ends, for example 2027-06-30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supported_until: Option<String>,
    /// The oldest Kubernetes minor that it runs on.
    #[serde(default = "default_kubernetes_min", deserialize_with = "crate::whole::deserialize_u32")]
    #[schema(default = 29, minimum = 1, maximum = 999)]
    pub kubernetes_min: u32,
    /// The newest Kubernetes minor that it was tested on.
    #[serde(default = "default_kubernetes_tested", deserialize_with = "crate::whole::deserialize_u32")]
    #[schema(default = 35, minimum = 1, maximum = 999)]
    pub kubernetes_tested: u32,
    /// Who says so.
    #[serde(default)]
    pub kubernetes_source: String,
    /// Known faults that change how we act.
    #[serde(default)]
    pub quirks: Vec<String>,
    /// The day it came out, for example 2026-05-04.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_on: Option<String>,
    /// The channels that it is offered in.
    #[serde(default)]
    pub channels: Vec<String>,
    /// The lowest edition whose meshes may run it.
    #[serde(default = "default_edition")]
    #[schema(default = "standard")]
    pub minimum_edition: String,
    /// What users should know of it: a sentence, or where its notes are.
    #[serde(default)]
    pub notes: String,
}

pub(crate) fn default_edition() -> String {
    "standard".into()
}

pub(crate) fn default_hub() -> String {
    "docker.io/istio".into()
}

pub(crate) fn default_kubernetes_min() -> u32 {
    29
}

pub(crate) fn default_kubernetes_tested() -> u32 {
    35
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
    /// A name for people.
    #[serde(default)]
    pub display_name: String,
    /// Labels, for selectors.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What to change of a cluster; what is left out stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeCluster {
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// All of its labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// A renewal of the credential that we hold of a cluster.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewCredential {
    /// An administrator's kubeconfig of the same cluster, where the present credential is not good any more. It is discarded
    /// afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub kubeconfig: Option<String>,
    /// For how many seconds the former credential stays good. With 0 control planes may be without a way into the cluster for
    /// two minutes.
    #[serde(default = "crate::keys::default_overlap_seconds", deserialize_with = "crate::whole::deserialize_u32")]
    #[schema(default = 3600, maximum = 86_400)]
    pub overlap_seconds: u32,
}

/// The credential that we hold of a cluster. Renewed after a third of its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldCredential {
    /// Which one it is, from 1.
    pub serial: i64,
    /// `valid`, `expires_soon` or `expired`.
    pub state: String,
    /// When it was issued.
    #[schema(value_type = String, format = DateTime)]
    pub issued_at: Timestamp,
    /// When it ends by itself.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// When it is renewed.
    #[schema(value_type = String, format = DateTime)]
    pub renews_at: Timestamp,
    /// Until when the one before it is good as well.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub previous_until: Option<Timestamp>,
}

/// A registered cluster.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// A name for people.
    pub display_name: String,
    /// Labels, for selectors.
    pub labels: BTreeMap<String, String>,
    /// `registering`, `ready`, `unreachable`, `refused` or `deregistering`.
    pub state: String,
    /// Why it was refused, or why it does not answer now.
    pub problem: Option<Trouble>,
    /// The credential of our own that we hold of it.
    pub credential: Option<HeldCredential>,
    /// What the last look at it noticed: nothing that stands in the way now, and something that its users should know.
    #[serde(default)]
    pub findings: Vec<Finding>,
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
    /// `standard`, `enterprise` or `ultimate`; the highest that the tenant was granted, where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::object::deserialize_non_null")]
    #[schema(value_type = String, required = false)]
    pub edition: Option<String>,
    /// Ids of its member clusters; the first is the config cluster.
    pub clusters: Vec<String>,
    /// A name for people.
    #[serde(default)]
    pub display_name: String,
    /// Labels, for selectors.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether it can be deleted only after this was taken off.
    #[serde(default)]
    pub deletion_protection: bool,
}

/// What to change of a mesh; what is left out stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeMesh {
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// All of its labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Whether it can be deleted only after this was taken off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_protection: Option<bool>,
}

/// A control plane of a mesh.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// Its immutable name.
    #[schema(example = "1-27-9")]
    pub name: String,
    /// The version that runs in it.
    pub version: String,
    /// The values of istiod's environment variables that every upgrade keeps, by the variable's name.
    pub switches: BTreeMap<String, String>,
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
    /// A name for people.
    pub display_name: String,
    /// Labels, for selectors.
    pub labels: BTreeMap<String, String>,
    /// Whether it can be deleted only after this was taken off.
    pub deletion_protection: bool,
    /// Its namespace in every cluster.
    pub namespace: String,
    /// Its edition.
    pub edition: String,
    /// `creating`, `ready`, `failed`, `deleting` or `deleted`.
    pub state: String,
    /// Why it is `failed`; null in every other state.
    pub problem: Option<Trouble>,
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
    /// When it was deleted; it can be brought back for 30 days.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deleted_at: Option<Timestamp>,
    /// Of a deleted mesh: what stays of it in clusters.
    pub leftovers: Vec<Leftover>,
}
