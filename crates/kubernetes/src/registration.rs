//! Registers clusters and renews our credentials in them. At registration the cluster must answer,
//! be new enough, have no other Istio and grant the permissions that we need; then an account of
//! our own replaces the submitted credential. Later this module issues that account's next
//! credentials.

use std::time::Duration;

use jiff::Timestamp;
use meshwright_model::operation::Problem;
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::ClusterError;
use serde_json::json;

use crate::address_policy::AddressPolicy;
use crate::client::ClusterClient;
use crate::credential::{ClientIdentity, Credential};
use crate::foreign;
use crate::probe::accepts_probe_pod;
use crate::problems::{hint_for_code, problem_from_error};
use crate::service_account::{Account, MESHWRIGHT_NAMESPACE};

/// Oldest minor version of Kubernetes 1 on which any release in the catalogue runs.
const MIN_KUBERNETES_MINOR: u32 = 29;

/// Maximum length of a version's text that we keep and show, in bytes.
const MAX_VERSION_BYTES: usize = 64;
/// Maximum length of a cluster's uid, in characters. Real ones are UUIDs of 36 characters.
const MAX_CLUSTER_UID_CHARS: usize = 64;

/// Cluster that can be used, with the credential that was issued for it.
#[derive(Debug)]
pub struct RegisteredCluster {
    /// Version of Kubernetes as the cluster reports it.
    pub kubernetes_version: String,
    /// Uid of the cluster's namespace kube-system, which no other cluster has.
    pub uid: String,
    /// Credential of our own service account.
    pub credential: Credential,
    /// Serial number of the credential: one more than the highest that was known or found.
    pub serial: i64,
    /// Time when the credential was issued.
    pub issued_at: Timestamp,
    /// Time when the credential expires.
    pub expires_at: Timestamp,
}

/// Facts about a cluster that are known before it is called.
#[derive(Debug, Clone)]
pub struct RegistrationRequest<'a> {
    /// Name of the cluster, for messages.
    pub name: &'a str,
    /// Service account of this registration.
    pub account: Account,
    /// Serial number of the credential that we hold, or 0 for none.
    pub serial: i64,
    /// Lifetime that is requested for the next credential; the cluster may allow less.
    pub token_lifetime: Duration,
    /// Uid of the cluster, if it was registered before.
    pub uid: Option<&'a str>,
    /// Current time, which becomes the time of issue.
    pub now: Timestamp,
}

/// Permissions that the submitted credential needs so that our account can be created: verb, API
/// group, resource.
const REQUIRED_PERMISSIONS: [(&str, &str, &str); 6] = [
    ("create", "", "namespaces"),
    ("create", "", "serviceaccounts"),
    ("create", "", "serviceaccounts/token"),
    ("create", "", "secrets"),
    ("create", "rbac.authorization.k8s.io", "clusterroles"),
    ("create", "rbac.authorization.k8s.io", "clusterrolebindings"),
];

/// Returns the uid of the cluster that a credential leads to. It writes nothing to the cluster.
///
/// # Errors
/// Returns a problem that tells why the cluster cannot be used, and what to do.
pub async fn read_cluster_uid(
    wanted: &RegistrationRequest<'_>,
    credential: &Credential,
    policy: &AddressPolicy,
) -> Result<String, Problem> {
    let client = ClusterClient::open(wanted.name, credential, policy)
        .map_err(|error| problem_from_error(&error))?;
    verify_cluster_uid(&client, wanted).await
}

/// Registers a cluster by the credential that a user submitted, and creates our account in it. Safe
/// to repeat, because all objects are applied.
///
/// # Errors
/// Returns a problem that tells why the cluster cannot be used, and what to do.
pub async fn register_cluster(
    wanted: &RegistrationRequest<'_>,
    submitted: &Credential,
    policy: &AddressPolicy,
) -> Result<RegisteredCluster, Problem> {
    let client = ClusterClient::open(wanted.name, submitted, policy)
        .map_err(|error| problem_from_error(&error))?;
    let kubernetes_version = read_kubernetes_version(&client).await?;
    let uid = verify_cluster_uid(&client, wanted).await?;
    // A cluster that was registered before must get its next credential even if another Istio came
    // into it since. That Istio is found before a mesh is created, and before every upgrade.
    if wanted.uid.is_none() {
        foreign::require_no_istio(&client).await?;
    }
    check_permissions(&client).await?;
    let connected = issue_credential(
        &client,
        wanted,
        submitted,
        policy,
        (kubernetes_version, uid),
    )
    .await?;
    let ours = ClusterClient::open(wanted.name, &connected.credential, policy)
        .map_err(|error| problem_from_error(&error))?;
    require_dry_run_pods(&ours, &wanted.account).await?;
    Ok(connected)
}

/// Removes what a refused registration has created, by the credential that was submitted for it: an
/// account whose credential is not kept could not remove itself. Safe to repeat, also if nothing
/// was created.
///
/// # Errors
/// Returns an error if the cluster does not answer, or if the credential may not remove what it has
/// created.
pub async fn withdraw_registration(
    wanted: &RegistrationRequest<'_>,
    submitted: &Credential,
    policy: &AddressPolicy,
) -> Result<(), ClusterError> {
    let client = ClusterClient::open(wanted.name, submitted, policy)?;
    wanted.account.remove_from(&client).await
}

/// Tries the pod that dry runs use. A policy that refuses it would stop every upgrade in the
/// middle.
async fn require_dry_run_pods(client: &ClusterClient, account: &Account) -> Result<(), Problem> {
    if accepts_probe_pod(client, MESHWRIGHT_NAMESPACE, account.name())
        .await
        .map_err(|error| problem_from_error(&error))?
    {
        return Ok(());
    }
    let message = format!(
        "{} refuses the pod that dry runs are made with.",
        client.cluster_name()
    );
    let hint = "Exempt pods with the label meshwright.dev/probe=true from the policy that refuses them, then register the cluster again; nothing is ever created.";
    Err(Problem::new(ProblemCode::ProbeRefused, message, hint))
}

/// Issues the account's next credential by its current one. Safe to repeat.
///
/// # Errors
/// Returns a problem that tells why no credential was issued, and what to do.
pub async fn renew_credential(
    wanted: &RegistrationRequest<'_>,
    present: &Credential,
    policy: &AddressPolicy,
) -> Result<RegisteredCluster, Problem> {
    let client = ClusterClient::open(wanted.name, present, policy)
        .map_err(|error| problem_from_error(&error))?;
    let kubernetes_version = read_kubernetes_version(&client).await?;
    let uid = verify_cluster_uid(&client, wanted).await?;
    issue_credential(&client, wanted, present, policy, (kubernetes_version, uid)).await
}

/// Returns the version of Kubernetes that a cluster reports, which also proves that the credential
/// is accepted.
///
/// # Errors
/// Returns a problem if the cluster does not answer, refuses the credential, or is too old.
pub async fn read_kubernetes_version(client: &ClusterClient) -> Result<String, Problem> {
    let version = client
        .get("/version")
        .await
        .map_err(|error| problem_from_error(&error))?
        .unwrap_or_default();
    let part = |key: &str| {
        version[key]
            .as_str()
            .and_then(|text| text.trim_end_matches('+').parse::<u32>().ok())
            .unwrap_or(0)
    };
    let plain = |letter: &char| letter.is_ascii_alphanumeric() || ".+-".contains(*letter);
    let text: String = version["gitVersion"]
        .as_str()
        .unwrap_or_default()
        .chars()
        .filter(plain)
        .take(MAX_VERSION_BYTES)
        .collect();
    if part("major") != 1 || part("minor") < MIN_KUBERNETES_MINOR {
        let message = format!(
            "{} runs Kubernetes {text}; 1.{MIN_KUBERNETES_MINOR} or newer is needed.",
            client.cluster_name()
        );
        return Err(Problem::new(
            ProblemCode::KubernetesTooOld,
            message,
            "Upgrade the cluster, then register it again.",
        ));
    }
    Ok(text)
}

/// Issues a credential with the next serial number, and tries it before it is returned.
async fn issue_credential(
    client: &ClusterClient,
    wanted: &RegistrationRequest<'_>,
    by: &Credential,
    policy: &AddressPolicy,
    (kubernetes_version, uid): (String, String),
) -> Result<RegisteredCluster, Problem> {
    let (account, anchors) = (&wanted.account, wanted.account.bound_secrets());
    let minted = async {
        account.apply_to(client).await?;
        // After a restore from a backup, the database may know fewer credentials than the cluster
        // has.
        let serial = anchors.newest_serial(client).await?.max(wanted.serial) + 1;
        anchors.apply_secret(client, serial).await?;
        anchors
            .request_token(client, account.name(), wanted.token_lifetime, None)
            .await
    };
    let (serial, minted) = minted.await.map_err(|error| problem_from_error(&error))?;
    let credential = Credential::new(
        &by.server,
        by.authority.clone(),
        ClientIdentity::Token(minted.token.into()),
    );
    let credential = credential.map_err(|refused| {
        Problem::new(
            ProblemCode::CredentialRefused,
            refused.to_string(),
            "Submit the kubeconfig again.",
        )
    })?;
    let (issued_at, expires_at) = (wanted.now, minted.expires_at);
    let issued = RegisteredCluster {
        kubernetes_version,
        uid,
        credential,
        serial,
        issued_at,
        expires_at,
    };
    // The new credential must work before it replaces the one that works.
    let proved = ClusterClient::open(wanted.name, &issued.credential, policy)
        .map_err(|error| problem_from_error(&error))?;
    verify_cluster_uid(&proved, wanted).await?;
    Ok(issued)
}

/// Returns the cluster's uid. If another one is known for this cluster, that is an error.
async fn verify_cluster_uid(
    client: &ClusterClient,
    wanted: &RegistrationRequest<'_>,
) -> Result<String, Problem> {
    let found = client
        .get("/api/v1/namespaces/kube-system")
        .await
        .map_err(|error| problem_from_error(&error))?;
    let found = found
        .as_ref()
        .and_then(|namespace| namespace.pointer("/metadata/uid")?.as_str())
        .unwrap_or_default();
    if !is_cluster_uid(found) {
        let message = format!(
            "{} does not say which cluster it is: its namespace kube-system has no uid.",
            wanted.name
        );
        return Err(Problem::new(
            ProblemCode::ClusterRefused,
            message,
            "Make sure that the address is a Kubernetes API server.",
        ));
    }
    if wanted.uid.is_some_and(|known| known != found) {
        let message = format!(
            "The credential leads to another cluster than {}.",
            wanted.name
        );
        let hint = "Submit a kubeconfig of the cluster that was registered, or register the other one under its own name.";
        return Err(Problem::new(ProblemCode::AnotherCluster, message, hint));
    }
    Ok(found.to_owned())
}

fn is_cluster_uid(text: &str) -> bool {
    let letters = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    letters && (1..=MAX_CLUSTER_UID_CHARS).contains(&text.len())
}

/// Checks that the submitted credential has all required permissions, and names those that are
/// missing.
async fn check_permissions(client: &ClusterClient) -> Result<(), Problem> {
    let mut missing = Vec::new();
    for (verb, group, resource) in REQUIRED_PERMISSIONS {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": { "verb": verb, "group": group, "resource": resource } },
        });
        let answer = client
            .create(
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                &review,
                None,
            )
            .await
            .map_err(|error| problem_from_error(&error))?;
        if answer["status"]["allowed"] != true {
            missing.push(format!("{verb} {resource}"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("The credential may not: {}.", missing.join(", "));
    Err(Problem::new(
        ProblemCode::PermissionMissing,
        message,
        hint_for_code(ProblemCode::PermissionMissing),
    ))
}
