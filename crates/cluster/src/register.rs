//! The first contact with a cluster: it answers, it is new enough, no other Istio is in it, we may do what we need; then
//! an account of our own replaces the submitted credential for good.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::operation::Problem;
use rollout::ports::WorldError;
use serde_json::{Value, json};

use crate::dialling::Dialling;
use crate::door::Door;
use crate::kubeconfig::{Credential, Identity};
use crate::mesh::{GROUPS, OWNER_LABEL, injects_sidecars};

/// Where our account lives in a user's cluster.
const NAMESPACE: &str = "meshwright-system";
const ACCOUNT: &str = "meshwright";
const TOKEN: &str = "meshwright-token";
/// The oldest Kubernetes minor that any release in the catalogue runs on.
const OLDEST_MINOR: u32 = 29;
/// How long the token controller may take.
const TOKEN_LIMIT: Duration = Duration::from_secs(20);

/// A cluster that can be used, with the credential to use it by.
#[derive(Debug)]
pub struct Connected {
    /// Kubernetes' version as the cluster says it.
    pub kubernetes_version: String,
    /// Our own account's credential.
    pub credential: Credential,
}

/// What the worker's account may do in a user's cluster; nothing else is ever called.
fn rules() -> Value {
    let all = ["get", "list", "watch", "create", "update", "patch", "delete"];
    let read = ["get", "list", "watch"];
    json!([
        { "apiGroups": [""], "resources": ["namespaces", "configmaps", "secrets", "services", "endpoints", "serviceaccounts"], "verbs": all },
        { "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create"] },
        { "apiGroups": ["apps"], "resources": ["deployments", "statefulsets", "daemonsets"], "verbs": ["get", "list", "watch", "patch"] },
        { "apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"], "verbs": all },
        { "apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"], "verbs": all },
        { "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "delete"] },
        // The control planes' own roles are made by us and are wider than this account: that takes these two verbs.
        { "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings", "clusterroles", "clusterrolebindings"],
          "verbs": ["get", "list", "watch", "create", "update", "patch", "delete", "bind", "escalate"] },
        { "apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": read },
        { "apiGroups": GROUPS, "resources": ["*"], "verbs": read },
    ])
}

/// What the submitted credential must be allowed to do, so that our account can be made.
const NEEDED: [(&str, &str, &str); 5] = [
    ("create", "", "namespaces"),
    ("create", "", "serviceaccounts"),
    ("create", "", "secrets"),
    ("create", "rbac.authorization.k8s.io", "clusterroles"),
    ("create", "rbac.authorization.k8s.io", "clusterrolebindings"),
];

/// Registers a cluster. Safe to repeat: everything is applied.
///
/// # Errors
/// Why the cluster cannot be used, and what to do.
pub async fn register(name: &str, submitted: &Credential, dialling: &Dialling) -> Result<Connected, Problem> {
    let door = Door::open(name, submitted, dialling).await.map_err(|error| explain(&error))?;
    let kubernetes_version = version(&door).await?;
    no_foreign_istio(&door).await?;
    allowed(&door).await?;
    make_account(&door).await.map_err(|error| explain(&error))?;
    let token = token(&door).await?;
    let credential = Credential::new(&submitted.server, submitted.authority.clone(), Identity::Token(token.into()));
    let credential = credential
        .map_err(|refused| Problem::new("credential_refused", refused.to_string(), "Submit the kubeconfig again."))?;
    Ok(Connected { kubernetes_version, credential })
}

/// A failed call in words for the user.
pub fn explain(error: &WorldError) -> Problem {
    match error {
        WorldError::Unreachable { place, cause } => Problem::new(
            "cluster_unreachable",
            format!("{place} does not answer: {cause}."),
            "Check the address, the network between us and the cluster, and try again.",
        ),
        WorldError::Refused { place, code, cause } => {
            Problem::new(*code, format!("{place} refused: {cause}."), hint(code))
        }
        WorldError::Changed { place } => {
            Problem::new("cluster_changed", format!("{place} changed in between."), "Try again.")
        }
        WorldError::Expired => Problem::new("try_again", "The attempt took too long.", "Try again."),
    }
}

fn hint(code: &str) -> &'static str {
    match code {
        "credential_expired" => "Submit a kubeconfig with a credential that is valid.",
        "permission_missing" => {
            "Grant what is missing, or submit an administrator's credential; it is discarded after registration."
        }
        "address_refused" => "Register the cluster by a public address, or ask the operator to allow its network.",
        _ => "Put right what it complains about, and try again.",
    }
}

async fn version(door: &Door) -> Result<String, Problem> {
    let version = door.get("/version").await.map_err(|error| explain(&error))?.unwrap_or_default();
    let part =
        |key: &str| version[key].as_str().and_then(|text| text.trim_end_matches('+').parse::<u32>().ok()).unwrap_or(0);
    let text = version["gitVersion"].as_str().unwrap_or_default().to_owned();
    if part("major") != 1 || part("minor") < OLDEST_MINOR {
        let message = format!("{} runs Kubernetes {text}; 1.{OLDEST_MINOR} or newer is needed.", door.place());
        return Err(Problem::new("kubernetes_too_old", message, "Upgrade the cluster, then register it again."));
    }
    Ok(text)
}

async fn no_foreign_istio(door: &Door) -> Result<(), Problem> {
    let listed = door
        .list("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", "")
        .await
        .map_err(|error| explain(&error))?;
    let foreign = listed
        .iter()
        .filter(|webhook| injects_sidecars(webhook))
        .find(|webhook| webhook["metadata"]["labels"].get(OWNER_LABEL).is_none());
    let Some(foreign) = foreign else { return Ok(()) };
    let name = foreign["metadata"]["name"].as_str().unwrap_or_default();
    let message = format!("{} already has an Istio: the webhook {name} injects sidecars.", door.place());
    Err(Problem::new("foreign_istio", message, "Remove that Istio from the cluster, then register it again."))
}

async fn allowed(door: &Door) -> Result<(), Problem> {
    let mut missing = Vec::new();
    for (verb, group, resource) in NEEDED {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": { "verb": verb, "group": group, "resource": resource } },
        });
        let answer = door
            .create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review, None)
            .await
            .map_err(|error| explain(&error))?;
        if answer["status"]["allowed"] != true {
            missing.push(format!("{verb} {resource}"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("The credential may not: {}.", missing.join(", "));
    Err(Problem::new("permission_missing", message, hint("permission_missing")))
}

async fn make_account(door: &Door) -> Result<(), WorldError> {
    let labels = json!({ "app.kubernetes.io/managed-by": "meshwright" });
    let named = |kind: &str, api: &str, name: &str| json!({ "apiVersion": api, "kind": kind, "metadata": { "name": name, "labels": labels } });
    let rbac = "rbac.authorization.k8s.io/v1";
    let mut secret = named("Secret", "v1", TOKEN);
    secret["type"] = "kubernetes.io/service-account-token".into();
    secret["metadata"]["annotations"] = json!({ "kubernetes.io/service-account.name": ACCOUNT });
    let mut role = named("ClusterRole", rbac, ACCOUNT);
    role["rules"] = rules();
    let mut binding = named("ClusterRoleBinding", rbac, ACCOUNT);
    binding["roleRef"] = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ACCOUNT });
    binding["subjects"] = json!([{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE }]);
    let here = format!("/api/v1/namespaces/{NAMESPACE}");
    door.apply(&here, &named("Namespace", "v1", NAMESPACE), None).await?;
    door.apply(&format!("{here}/serviceaccounts/{ACCOUNT}"), &named("ServiceAccount", "v1", ACCOUNT), None).await?;
    door.apply(&format!("/apis/{rbac}/clusterroles/{ACCOUNT}"), &role, None).await?;
    door.apply(&format!("/apis/{rbac}/clusterrolebindings/{ACCOUNT}"), &binding, None).await?;
    door.apply(&format!("{here}/secrets/{TOKEN}"), &secret, None).await.map(|_| ())
}

/// Kubernetes fills the secret a moment after it was made.
async fn token(door: &Door) -> Result<String, Problem> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{TOKEN}");
    let filled = async {
        loop {
            let secret = door.get(&path).await.map_err(|error| explain(&error))?.unwrap_or_default();
            let token = secret["data"]["token"]
                .as_str()
                .and_then(|token| STANDARD.decode(token).ok())
                .and_then(|token| String::from_utf8(token).ok());
            if let Some(token) = token {
                return Ok(token);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let hint = "Check that the cluster's controller manager runs, and try again.";
    let late = |_| Problem::new("no_token", "The cluster did not issue a token for our account.", hint);
    tokio::time::timeout(TOKEN_LIMIT, filled).await.map_err(late)?
}
