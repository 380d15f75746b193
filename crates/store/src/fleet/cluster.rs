//! Defines a registered cluster, and decodes it from its row.

use jiff::Timestamp;
use meshwright_model::credential::CredentialLifetime;
use meshwright_model::fleet::ClusterStateName;
use meshwright_model::ids::ClusterId;
use meshwright_model::leftover::AccountRemoval;
use meshwright_model::operation::Problem;
use meshwright_model::upgrade::Finding;
use serde_json::Value;
use uuid::Uuid;

use crate::StoreError;
use crate::error::decode_column;
use crate::fleet::labels::UserMetadata;

/// State of a registered cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterState {
    /// The registration is under way.
    Registering,
    /// The cluster answered, and our service account is in it.
    Ready,
    /// Our service account is in the cluster, but the cluster does not answer or refuses our
    /// credential now. The problem says why.
    Unreachable(Problem),
    /// The registration failed or was cancelled, so the cluster cannot be used.
    Refused(Problem),
    /// Our service account is being removed from the cluster.
    Deregistering,
}

impl ClusterState {
    /// Returns the name of the state, without its problem.
    pub fn name(&self) -> ClusterStateName {
        match self {
            Self::Registering => ClusterStateName::Registering,
            Self::Ready => ClusterStateName::Ready,
            Self::Unreachable(_) => ClusterStateName::Unreachable,
            Self::Refused(_) => ClusterStateName::Refused,
            Self::Deregistering => ClusterStateName::Deregistering,
        }
    }
}

/// A cluster to be registered.
#[derive(Debug, Clone)]
pub struct NewCluster {
    /// Identifier of the cluster.
    pub id: ClusterId,
    /// Name of the cluster, unique within the tenant.
    pub name: String,
    /// Address of the cluster's API server.
    pub server: String,
    /// Submitted kubeconfig, reduced to the strict form that we accept. It is a secret.
    pub kubeconfig: Vec<u8>,
    /// Display name and labels that users set.
    pub metadata: UserMetadata,
}

/// A registered cluster as the service knows it.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Identifier of the cluster.
    pub id: ClusterId,
    /// Name of the cluster, unique within the tenant.
    pub name: String,
    /// Display name and labels that users set.
    pub metadata: UserMetadata,
    /// Version of the user metadata: rises by one with every change of it.
    pub generation: i64,
    /// Address of the cluster's API server.
    pub server: String,
    /// State of the cluster; see [`ClusterState`].
    pub state: ClusterState,
    /// UID of the cluster's kube-system namespace, which identifies the cluster; `None` until the
    /// cluster has answered.
    pub uid: Option<String>,
    /// Whether this registration holds the identity of the cluster. False when it is not known yet,
    /// or when an older registration holds the same cluster.
    pub holds_identity: bool,
    /// Lifetime of our own credential in the cluster; `None` until there is one.
    pub credential_lifetime: Option<CredentialLifetime>,
    /// Kubernetes version as the cluster reports it; `None` until the cluster has answered.
    pub kubernetes_version: Option<String>,
    /// Findings of the last cluster check.
    pub findings: Vec<Finding>,
    /// Time when the cluster was registered.
    pub created_at: Timestamp,
    /// Time when the cluster last answered.
    pub observed_at: Option<Timestamp>,
    /// Progress of the removal of our service account from the cluster.
    pub removal: AccountRemoval,
}

/// A stored cluster with its labels, so that one round trip reads a list of clusters.
pub(super) struct ClusterRow {
    pub(super) cluster_id: Uuid,
    pub(super) name: String,
    pub(super) display_name: String,
    pub(super) generation: i64,
    pub(super) server: String,
    pub(super) state: String,
    pub(super) kubernetes_version: Option<String>,
    pub(super) problem: Option<Value>,
    pub(super) created_at: jiff_sqlx::Timestamp,
    pub(super) observed_at: Option<jiff_sqlx::Timestamp>,
    pub(super) uid: Option<String>,
    pub(super) serial: i64,
    pub(super) issued_at: Option<jiff_sqlx::Timestamp>,
    pub(super) expires_at: Option<jiff_sqlx::Timestamp>,
    pub(super) previous_until: Option<jiff_sqlx::Timestamp>,
    pub(super) held: bool,
    pub(super) findings: Value,
    pub(super) leaving: Option<Uuid>,
    pub(super) removal_began_at: Option<jiff_sqlx::Timestamp>,
    pub(super) removal_accepted_at: Option<jiff_sqlx::Timestamp>,
    pub(super) label_keys: Vec<String>,
    pub(super) label_values: Vec<String>,
}

impl ClusterRow {
    pub(super) fn into_cluster(self) -> Result<Cluster, StoreError> {
        let id = ClusterId(self.cluster_id);
        let findings = serde_json::from_value(self.findings.clone());
        Ok(Cluster {
            id,
            generation: self.generation,
            state: self.cluster_state(id)?,
            holds_identity: self.held,
            credential_lifetime: self.credential_lifetime(),
            findings: decode_column(findings, "clusters", "findings", id)?,
            created_at: self.created_at.to_jiff(),
            observed_at: self.observed_at.map(jiff_sqlx::Timestamp::to_jiff),
            removal: self.account_removal(),
            name: self.name,
            metadata: UserMetadata {
                display_name: self.display_name,
                labels: self.label_keys.into_iter().zip(self.label_values).collect(),
            },
            server: self.server,
            uid: self.uid,
            kubernetes_version: self.kubernetes_version,
        })
    }

    fn cluster_state(&self, id: ClusterId) -> Result<ClusterState, StoreError> {
        if self.leaving.is_some() {
            return Ok(ClusterState::Deregistering);
        }
        let problem = self.problem.clone().map(serde_json::from_value::<Problem>);
        let problem = decode_column(problem.transpose(), "clusters", "problem", id)?;
        match (self.state.as_str(), problem) {
            ("registering", _) => Ok(ClusterState::Registering),
            ("ready", None) => Ok(ClusterState::Ready),
            ("ready", Some(problem)) => Ok(ClusterState::Unreachable(problem)),
            ("refused", Some(problem)) => Ok(ClusterState::Refused(problem)),
            _ => Err(StoreError::Corrupt {
                table: "clusters",
                column: "state",
                row: id.to_string(),
            }),
        }
    }

    /// Returns the lifetime of our credential, if the cluster has issued one.
    fn credential_lifetime(&self) -> Option<CredentialLifetime> {
        let issued_at = self.issued_at?.to_jiff();
        let expires_at = self.expires_at?.to_jiff();
        Some(CredentialLifetime {
            serial: self.serial,
            issued_at,
            expires_at,
            previous_until: self.previous_until.map(jiff_sqlx::Timestamp::to_jiff),
        })
    }

    fn account_removal(&self) -> AccountRemoval {
        match (self.removal_began_at, self.removal_accepted_at) {
            (_, Some(_)) => AccountRemoval::Accepted,
            (Some(_), None) => AccountRemoval::Begun,
            (None, None) => AccountRemoval::NotBegun,
        }
    }
}
