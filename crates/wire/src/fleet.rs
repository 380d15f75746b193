//! Bodies about hosting clusters, releases, registered clusters and meshes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use meshwright_model::edition;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Channel, ClusterState, CredentialState, Edition, Finding, Leftover, MemberRole, MeshState,
    Quirk, ReleaseState,
};

/// Kubernetes cluster of the operator in which control planes run.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HostingCluster {
    /// Id of the hosting cluster.
    pub id: String,
    /// Name of the hosting cluster.
    pub name: String,
}

/// Release of Istio in the catalogue.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Release {
    /// Version of the release: the community version and a build number.
    #[schema(example = "1.27.9.1")]
    pub version: String,
    /// State of the release: `available`, `deprecated` (usable, but no longer recommended) or
    /// `withdrawn` (no mesh can move to it).
    #[schema(inline)]
    pub state: ReleaseState,
    /// Day on which the release came out, as YYYY-MM-DD; null if it is not known.
    pub released_on: Option<String>,
    /// Day on which support for the release ends, as YYYY-MM-DD; null if it is not known.
    pub supported_until: Option<String>,
    /// Channels that offer the release: `rapid`, `regular` or `stable`.
    #[schema(inline)]
    pub channels: Vec<Channel>,
    /// Lowest edition whose meshes can run the release: `standard`, `enterprise` or `ultimate`.
    #[schema(inline)]
    pub minimum_edition: Edition,
    /// Kubernetes minors from the oldest that the release runs on to the newest that it was tested
    /// on, with the source in parentheses.
    pub kubernetes: String,
    /// Registry and path that the images are pulled from.
    pub hub: String,
    /// Tag of the images of the release.
    pub tag: String,
    /// SHA-256 of the charts as they are stored, in hexadecimal; empty for callers who do not
    /// operate the service.
    pub charts_digest: String,
    /// Notes for users: a sentence, or the address of the release notes.
    pub notes: String,
    /// Known faults that change how the service acts, such as `remote-secret-deadlock`; empty for
    /// callers who do not operate the service.
    #[schema(inline)]
    pub quirks: Vec<Quirk>,
}

/// Request to add a hosting cluster.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddHostingCluster {
    /// Name of the hosting cluster: a DNS label of 1 to 63 characters.
    #[schema(example = "eu-west-1")]
    pub name: String,
    /// Kubeconfig with all certificates and tokens inline. Its user must have all permissions in
    /// the namespaces of the meshes. The service keeps it, encrypted.
    #[schema(write_only)]
    pub kubeconfig: String,
}

/// Request to import a release into the catalogue.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportRelease {
    /// Version of the release: the community version and a build number.
    #[schema(example = "1.27.9.1")]
    pub version: String,
    /// Charts of the release: a tar archive of the folders `base` and `istiod`, with or without
    /// gzip, encoded in base64. At most 16 MiB unpacked.
    pub charts: String,
    /// Registry and path that the images are pulled from, 1 to 255 bytes.
    #[serde(default = "default_hub")]
    #[schema(default = "docker.io/istio")]
    pub hub: String,
    /// Tag of the images, 1 to 255 bytes; the community version by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Day on which support for the release ends, as YYYY-MM-DD, for example 2027-06-30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supported_until: Option<String>,
    /// Oldest minor of Kubernetes 1 that the release runs on, from 1 to 999.
    #[serde(
        default = "default_kubernetes_min",
        deserialize_with = "crate::integer::deserialize_u32"
    )]
    #[schema(default = 29, minimum = 1, maximum = 999)]
    pub kubernetes_min: u32,
    /// Newest minor of Kubernetes 1 that the release was tested on, from 1 to 999.
    #[serde(
        default = "default_kubernetes_tested",
        deserialize_with = "crate::integer::deserialize_u32"
    )]
    #[schema(default = 35, minimum = 1, maximum = 999)]
    pub kubernetes_tested: u32,
    /// Source of the two Kubernetes minors, at most 255 bytes.
    #[serde(default)]
    pub kubernetes_source: String,
    /// Known faults of the release that change how the service acts: `remote-secret-deadlock`.
    #[serde(default)]
    #[schema(inline)]
    pub quirks: Vec<Quirk>,
    /// Day on which the release came out, as YYYY-MM-DD, for example 2026-05-04.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_on: Option<String>,
    /// Channels that offer the release: `rapid`, `regular` or `stable`.
    #[serde(default)]
    #[schema(inline)]
    pub channels: Vec<Channel>,
    /// Lowest edition whose meshes can run the release: `standard`, `enterprise` or `ultimate`.
    #[serde(default = "default_edition")]
    #[schema(default = "standard", inline)]
    pub minimum_edition: Edition,
    /// Notes for users, at most 255 bytes: a sentence, or the address of the release notes.
    #[serde(default)]
    pub notes: String,
}

pub(crate) fn default_edition() -> Edition {
    edition::Edition::Standard.into()
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

/// Request to register a cluster.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterCluster {
    /// Name of the cluster: a DNS label of 1 to 63 characters.
    #[schema(example = "payments-eu")]
    pub name: String,
    /// Kubeconfig of an administrator, with all certificates and tokens inline. It is discarded
    /// once Meshwright has a service account of its own in the cluster.
    #[schema(write_only)]
    pub kubeconfig: String,
    /// Name that people see, at most 128 visible characters.
    #[serde(default)]
    pub display_name: String,
    /// Labels that selectors match, at most 32; keys and values have at most 63 characters.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Changes to a registered cluster. Fields that are left out stay as they are.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeCluster {
    /// New name that people see, at most 128 visible characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// New labels, at most 32, which replace all former labels of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// Request to renew the credential that Meshwright holds of a cluster.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewCredential {
    /// Kubeconfig of an administrator of the same cluster, for a cluster whose present credential
    /// is no longer valid. It is discarded after the renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub kubeconfig: Option<String>,
    /// Seconds that the former credential stays valid, from 0 to 86400. With 0, control planes can
    /// be without access to the cluster for two minutes.
    #[serde(
        default = "crate::keys::default_overlap_seconds",
        deserialize_with = "crate::integer::deserialize_u32"
    )]
    #[schema(default = 3600, maximum = 86_400)]
    pub overlap_seconds: u32,
}

/// Credential of Meshwright's own service account in a cluster. It is renewed after a third of its
/// lifetime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldCredential {
    /// Serial number of the credential, from 1; it rises by one with each renewal.
    pub serial: i64,
    /// State of the credential: `valid`, `expires_soon` (it is in the last third of its lifetime)
    /// or `expired`.
    #[schema(inline)]
    pub state: CredentialState,
    /// Time at which the cluster issued the credential.
    #[schema(value_type = String, format = DateTime)]
    pub issued_at: Timestamp,
    /// Time at which the credential expires.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// Time from which the credential is due for renewal.
    #[schema(value_type = String, format = DateTime)]
    pub renews_at: Timestamp,
    /// Time until which the previous credential is valid as well; null once that credential is
    /// gone.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub previous_until: Option<Timestamp>,
}

/// Kubernetes cluster that a tenant has registered.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// Id of the cluster.
    pub id: String,
    /// Name of the cluster.
    pub name: String,
    /// Name that people see.
    pub display_name: String,
    /// Labels that selectors match.
    pub labels: BTreeMap<String, String>,
    /// State of the cluster: `registering` (its registration runs), `ready`, `unreachable` (it does
    /// not answer, or does not accept Meshwright's credential), `refused` (it cannot be used) or
    /// `deregistering` (Meshwright's service account is being removed).
    #[schema(inline)]
    pub state: ClusterState,
    /// Reason why the cluster is `refused` or `unreachable`; null in every other state.
    pub problem: Option<OperationProblem>,
    /// Credential of Meshwright's own service account in the cluster; null before there is one.
    pub credential: Option<HeldCredential>,
    /// Findings of the last cluster check. They do not stand in the way of anything now, but users
    /// of the cluster should know them.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// Address of the Kubernetes API server.
    pub server: String,
    /// Version of Kubernetes; null while the cluster has not answered yet.
    pub kubernetes_version: Option<String>,
    /// Time at which the registration was requested.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Time of the cluster's last answer; null while it has not answered yet.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub observed_at: Option<Timestamp>,
}

/// Problem that stops a cluster, mesh, upgrade, operation or step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Trouble)]
pub struct OperationProblem {
    /// Stable identifier of the problem, for programs.
    pub code: String,
    /// Sentence that says what happened.
    pub message: String,
    /// Sentence that says what the user can do.
    pub hint: String,
}

/// Request to create a mesh.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateMesh {
    /// Name of the mesh: a DNS label of 1 to 63 characters.
    #[schema(example = "payments")]
    pub name: String,
    /// Version of the release that the mesh starts on.
    #[schema(example = "1.25.1.1")]
    pub version: String,
    /// Edition of the mesh: `standard`, `enterprise` or `ultimate`; by default the highest edition
    /// that the operator granted to the tenant.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::object::deserialize_non_null"
    )]
    #[schema(value_type = Edition, required = false, inline)]
    pub edition: Option<Edition>,
    /// Ids of the member clusters, 1 to 100, each of them once. The first is the config cluster.
    pub clusters: Vec<String>,
    /// Name that people see, at most 128 visible characters.
    #[serde(default)]
    pub display_name: String,
    /// Labels that selectors match, at most 32; keys and values have at most 63 characters.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// True if the mesh cannot be deleted until this field is set to false.
    #[serde(default)]
    pub deletion_protection: bool,
}

/// Changes to a mesh. Fields that are left out stay as they are.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeMesh {
    /// New name that people see, at most 128 visible characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// New labels, at most 32, which replace all former labels of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// True if the mesh cannot be deleted until this field is set to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_protection: Option<bool>,
}

/// Revision of a mesh: the name and version of one control plane.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// Name of the revision, which never changes.
    #[schema(example = "1-27-9")]
    pub name: String,
    /// Version of the release that the revision runs.
    pub version: String,
    /// Values of the environment variables of istiod that every upgrade keeps, by the name of the
    /// variable.
    pub switches: BTreeMap<String, String>,
}

/// Cluster that is a member of a mesh.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Id of the member cluster.
    pub cluster_id: String,
    /// Name of the member cluster.
    pub name: String,
    /// Role of the cluster in the mesh: `config` (istiod reads Istio resources there) or `remote`.
    #[schema(inline)]
    pub role: MemberRole,
}

/// Mesh with its revisions and member clusters.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Mesh {
    /// Id of the mesh.
    pub id: String,
    /// Name of the mesh.
    pub name: String,
    /// Name that people see.
    pub display_name: String,
    /// Labels that selectors match.
    pub labels: BTreeMap<String, String>,
    /// True if the mesh cannot be deleted until this field is set to false.
    pub deletion_protection: bool,
    /// Namespace of the mesh in every cluster.
    pub namespace: String,
    /// Edition of the mesh: `standard`, `enterprise` or `ultimate`.
    #[schema(inline)]
    pub edition: Edition,
    /// State of the mesh: `creating`, `ready`, `failed` (a creation or deletion ended early and
    /// parts may be missing; both can be requested again), `deleting` or `deleted`.
    #[schema(inline)]
    pub state: MeshState,
    /// Reason why the mesh is `failed`; null in every other state.
    pub problem: Option<OperationProblem>,
    /// Revision that the tags `stable` and `default` point to.
    pub current: Revision,
    /// Other revision of the mesh during an upgrade; null at other times.
    pub target: Option<Revision>,
    /// Member clusters of the mesh; the first is the config cluster.
    pub members: Vec<Member>,
    /// Id of the upgrade or operation that changes the mesh now; null if the mesh is free.
    pub busy_with: Option<String>,
    /// Time at which the mesh was requested.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Time at which the mesh was deleted; null if it is not. A deleted mesh can be restored for 30
    /// days.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deleted_at: Option<Timestamp>,
    /// Objects that a deleted mesh left in clusters.
    pub leftovers: Vec<Leftover>,
}
