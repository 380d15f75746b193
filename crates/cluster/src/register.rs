//! Contact with a cluster as a whole. The first time: it answers, it is new enough, no other Istio is in it, we may do what we
//! need, and an account of our own replaces the submitted credential. Later: that account's next credential.

use std::time::Duration;

use jiff::Timestamp;
use model::operation::Problem;
use rollout::ports::ClusterError;
use serde_json::json;

use crate::account::{Account, MESHWRIGHT_NAMESPACE};
use crate::dialling::AddressPolicy;
use crate::door::ClusterClient;
use crate::foreign;
use crate::kubeconfig::{Credential, ClientIdentity};
use crate::mesh::takes_probe;

/// The oldest Kubernetes minor that any release in the catalogue runs on.
const MIN_KUBERNETES_MINOR: u32 = 29;

/// Bytes of a version's text that are kept and shown.
const MAX_VERSION_BYTES: usize = 64;
/// The longest identity of a cluster that is kept; real ones are UUIDs of 36 characters.
const MAX_CLUSTER_UID_CHARS: usize = 64;

/// A cluster that can be used, with the credential to use it by.
#[derive(Debug)]
pub struct RegisteredCluster {
    /// Kubernetes' version as the cluster says it.
    pub kubernetes_version: String,
    /// The identity of its kube-system namespace, which no other cluster has.
    pub uid: String,
    /// Our own account's credential.
    pub credential: Credential,
    /// Its serial number: one more than the highest that was known or found.
    pub serial: i64,
    /// When that was issued.
    pub issued_at: Timestamp,
    /// When that ends.
    pub expires_at: Timestamp,
}

/// What is known of a cluster before it is connected to.
#[derive(Debug, Clone)]
pub struct RegistrationRequest<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    /// The account of this registration.
    pub account: Account,
    /// The serial number of the credential that we hold, 0 for none.
    pub serial: i64,
    /// How long that is to live; a cluster may allow less.
    pub token_lifetime: Duration,
    /// Its identity, when it was connected to before.
    pub uid: Option<&'a str>,
    /// When this is.
    pub now: Timestamp,
}

/// What the submitted credential must be allowed to do, so that our account can be made.
const REQUIRED_PERMISSIONS: [(&str, &str, &str); 6] = [
    ("create", "", "namespaces"),
    ("create", "", "serviceaccounts"),
    ("create", "", "serviceaccounts/token"),
    ("create", "", "secrets"),
    ("create", "rbac.authorization.k8s.io", "clusterroles"),
    ("create", "rbac.authorization.k8s.io", "clusterrolebindings"),
];

/// The identity of the cluster that a credential leads to. Nothing is written there.
///
/// # Errors
/// Why the cluster cannot be used, and what to do.
pub async fn read_cluster_uid(wanted: &RegistrationRequest<'_>, credential: &Credential, dialling: &AddressPolicy) -> Result<String, Problem> {
    let door = ClusterClient::open(wanted.name, credential, dialling).map_err(|error| problem_from_error(&error))?;
    verify_cluster_uid(&door, wanted).await
}

/// Connects by a credential that somebody submitted, and makes an account of ours. Safe to repeat: everything is applied.
///
/// # Errors
/// Why the cluster cannot be used, and what to do.
pub async fn register_cluster(wanted: &RegistrationRequest<'_>, submitted: &Credential, dialling: &AddressPolicy) -> Result<RegisteredCluster, Problem> {
    let door = ClusterClient::open(wanted.name, submitted, dialling).map_err(|error| problem_from_error(&error))?;
    let kubernetes_version = read_kubernetes_version(&door).await?;
    let uid = verify_cluster_uid(&door, wanted).await?;
    // A cluster that was connected to before must be able to get its next credential whatever else is in it; what has come
    // since is found before a mesh is made, and before every upgrade.
    if wanted.uid.is_none() {
        foreign::require_no_istio(&door).await?;
    }
    check_permissions(&door).await?;
    let connected = issue_credential(&door, wanted, submitted, dialling, (kubernetes_version, uid)).await?;
    let ours = ClusterClient::open(wanted.name, &connected.credential, dialling).map_err(|error| problem_from_error(&error))?;
    require_dry_run_pods(&ours, &wanted.account).await?;
    Ok(connected)
}

/// Takes away what a registration that is refused has made, by the credential that was submitted for it: an account whose
/// credential is not kept could not take itself away. Safe to repeat, and where nothing was made.
///
/// # Errors
/// The cluster did not answer, or the credential may not remove what it has made.
pub async fn withdraw_registration(wanted: &RegistrationRequest<'_>, submitted: &Credential, dialling: &AddressPolicy) -> Result<(), ClusterError> {
    let door = ClusterClient::open(wanted.name, submitted, dialling)?;
    wanted.account.remove_from(&door).await
}

/// Tries the pod that dry runs are made with. A policy that refuses it would stop every upgrade in the middle.
async fn require_dry_run_pods(door: &ClusterClient, account: &Account) -> Result<(), Problem> {
    if takes_probe(door, MESHWRIGHT_NAMESPACE, account.name()).await.map_err(|error| problem_from_error(&error))? {
        return Ok(());
    }
    let message = format!("{} refuses the pod that dry runs are made with.", door.cluster_name());
    let hint = "Exempt pods with the label meshwright.dev/probe=true from the policy that refuses them, then register the cluster again; nothing is ever created.";
    Err(Problem::new("probe_refused", message, hint))
}

/// Makes the account's next credential by its present one. Safe to repeat.
///
/// # Errors
/// Why there is none, and what to do.
pub async fn renew_credential(wanted: &RegistrationRequest<'_>, present: &Credential, dialling: &AddressPolicy) -> Result<RegisteredCluster, Problem> {
    let door = ClusterClient::open(wanted.name, present, dialling).map_err(|error| problem_from_error(&error))?;
    let kubernetes_version = read_kubernetes_version(&door).await?;
    let uid = verify_cluster_uid(&door, wanted).await?;
    issue_credential(&door, wanted, present, dialling, (kubernetes_version, uid)).await
}

/// What a cluster says of itself to a credential that is good.
///
/// # Errors
/// It does not answer, or does not let us in.
pub async fn read_kubernetes_version(door: &ClusterClient) -> Result<String, Problem> {
    let version = door.get("/version").await.map_err(|error| problem_from_error(&error))?.unwrap_or_default();
    let part =
        |key: &str| version[key].as_str().and_then(|text| text.trim_end_matches('+').parse::<u32>().ok()).unwrap_or(0);
    let plain = |letter: &char| letter.is_ascii_alphanumeric() || ".+-".contains(*letter);
    let text: String =
        version["gitVersion"].as_str().unwrap_or_default().chars().filter(plain).take(MAX_VERSION_BYTES).collect();
    if part("major") != 1 || part("minor") < MIN_KUBERNETES_MINOR {
        let message = format!("{} runs Kubernetes {text}; 1.{MIN_KUBERNETES_MINOR} or newer is needed.", door.cluster_name());
        return Err(Problem::new("kubernetes_too_old", message, "Upgrade the cluster, then register it again."));
    }
    Ok(text)
}

async fn issue_credential(
    door: &ClusterClient,
    wanted: &RegistrationRequest<'_>,
    by: &Credential,
    dialling: &AddressPolicy,
    (kubernetes_version, uid): (String, String),
) -> Result<RegisteredCluster, Problem> {
    let (account, anchors) = (&wanted.account, wanted.account.bound_secrets());
    let minted = async {
        account.apply_to(door).await?;
        // A database that was restored from a backup knows less than the cluster.
        let serial = anchors.newest_serial(door).await?.max(wanted.serial) + 1;
        anchors.apply_secret(door, serial).await?;
        anchors.request_token(door, account.name(), wanted.token_lifetime, None).await
    };
    let (serial, minted) = minted.await.map_err(|error| problem_from_error(&error))?;
    let credential = Credential::new(&by.server, by.authority.clone(), ClientIdentity::Token(minted.token.into()));
    let credential = credential
        .map_err(|refused| Problem::new("credential_refused", refused.to_string(), "Submit the kubeconfig again."))?;
    let (issued_at, expires_at) = (wanted.now, minted.expires_at);
    let issued = RegisteredCluster { kubernetes_version, uid, credential, serial, issued_at, expires_at };
    // Proved before it replaces the one that works.
    let proved = ClusterClient::open(wanted.name, &issued.credential, dialling).map_err(|error| problem_from_error(&error))?;
    verify_cluster_uid(&proved, wanted).await?;
    Ok(issued)
}

/// The cluster's identity; another one than was known is refused.
async fn verify_cluster_uid(door: &ClusterClient, wanted: &RegistrationRequest<'_>) -> Result<String, Problem> {
    let found = door.get("/api/v1/namespaces/kube-system").await.map_err(|error| problem_from_error(&error))?;
    let found = found.as_ref().and_then(|namespace| namespace.pointer("/metadata/uid")?.as_str()).unwrap_or_default();
    if !is_cluster_uid(found) {
        let message =
            format!("{} does not say which cluster it is: its namespace kube-system has no uid.", wanted.name);
        return Err(Problem::new("cluster_refused", message, "Make sure that the address is a Kubernetes API server."));
    }
    if wanted.uid.is_some_and(|known| known != found) {
        let message = format!("The credential leads to another cluster than {}.", wanted.name);
        let hint =
            "Submit a kubeconfig of the cluster that was registered, or register the other one under its own name.";
        return Err(Problem::new("another_cluster", message, hint));
    }
    Ok(found.to_owned())
}

fn is_cluster_uid(text: &str) -> bool {
    let letters = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    letters && (1..=MAX_CLUSTER_UID_CHARS).contains(&text.len())
}

/// The answer of a care that says whether all of it was done before. An object that another worker changed in between means
/// not yet: the next look sees what the other one did.
///
/// # Errors
/// Each other failure, in words for the user.
pub fn problem_unless_changed(answer: Result<bool, ClusterError>) -> Result<bool, Problem> {
    match answer {
        Err(ClusterError::Changed { place }) => {
            tracing::debug!(place, "another worker was faster with this care");
            Ok(false)
        }
        answer => answer.map_err(|error| problem_from_error(&error)),
    }
}

/// A failed call in words for the user.
pub fn problem_from_error(error: &ClusterError) -> Problem {
    match error {
        ClusterError::Unreachable { place, code, cause } => Problem::new(
            *code,
            format!("{place} does not answer: {cause}."),
            "Check the address, the network between us and the cluster, and try again.",
        ),
        ClusterError::Refused { place, code, cause } => {
            Problem::new(*code, format!("{place} refused: {cause}."), hint_for_code(code))
        }
        ClusterError::Changed { place } => {
            Problem::new("cluster_changed", format!("{place} changed in between."), "Try again.")
        }
        ClusterError::Expired => Problem::new("try_again", "The attempt took too long.", "Try again."),
    }
}

fn hint_for_code(code: &str) -> &'static str {
    match code {
        "credential_expired" => "Submit a kubeconfig with a credential that is valid.",
        "permission_missing" => {
            "Grant what is missing, or submit an administrator's credential; it is discarded after registration."
        }
        "token_unusable" => {
            "Look at what answers at the cluster's address: a Kubernetes API server gives tokens of one line."
        }
        "address_refused" => "Register the cluster by a public address, or ask the operator to allow its network.",
        _ => "Put right what it complains about, and try again.",
    }
}

async fn check_permissions(door: &ClusterClient) -> Result<(), Problem> {
    let mut missing = Vec::new();
    for (verb, group, resource) in REQUIRED_PERMISSIONS {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": { "verb": verb, "group": group, "resource": resource } },
        });
        let answer = door
            .create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review, None)
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
    Err(Problem::new("permission_missing", message, hint_for_code("permission_missing")))
}
