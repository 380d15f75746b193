//! Manages our service account in a user's cluster: its permissions, its tokens, and the Secrets
//! that these tokens and those of the control planes' own accounts are bound to.
//!
//! Accounts, roles and Secrets are named after the registration, so that two registrations of one
//! cluster, from two installations of Meshwright, never remove objects of each other. Every token
//! expires by itself and is bound to the Secret of its serial number (Kubernetes' `TokenRequest`
//! with `boundObjectRef`). A renewal creates the next Secret; deleting the older Secrets ends their
//! tokens at once.

use std::time::Duration;

use meshwright_model::ids::ClusterId;
use meshwright_rollout::ports::ClusterError;
use serde_json::{Value, json};

use crate::client::ClusterClient;

mod bound_secrets;

pub(crate) use bound_secrets::{BoundSecrets, delete_bound_secret};

/// Namespace of our service accounts in a user's cluster.
pub(crate) const MESHWRIGHT_NAMESPACE: &str = "meshwright-system";
/// Label on a Secret that names the registration whose tokens are bound to it.
const REGISTRATION_LABEL: &str = "meshwright.dev/registration";
/// Label on a Secret that holds the serial number of the tokens that are bound to it.
pub(crate) const SERIAL_LABEL: &str = "meshwright.dev/serial";
/// Shortest lifetime that Kubernetes gives a token.
pub const MIN_TOKEN_LIFETIME: Duration = Duration::from_mins(10);
/// API groups of the resources whose own label can name a revision. `mesh::revision_pins` lists
/// these resources.
const REVISIONED_API_GROUPS: [&str; 5] = [
    "networking.istio.io",
    "security.istio.io",
    "telemetry.istio.io",
    "extensions.istio.io",
    "gateway.networking.k8s.io",
];

/// Service account of one registration. The name inside is that of its `ServiceAccount`,
/// `ClusterRole` and `ClusterRoleBinding`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account(String);

impl Account {
    /// Derives the account of a registration from the cluster's id.
    pub fn for_cluster(cluster: ClusterId) -> Self {
        let id = cluster.to_string();
        let digits = id.split_once('_').map_or(id.as_str(), |(_, digits)| digits);
        Self(format!("meshwright-{digits}"))
    }

    /// Returns the account's name in the cluster.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Returns the Secrets that the account's tokens are bound to.
    pub(crate) fn bound_secrets(&self) -> BoundSecrets<'_> {
        BoundSecrets {
            namespace: MESHWRIGHT_NAMESPACE,
            account: Some(self),
        }
    }

    /// Creates the account with its role and binding, or updates them to what this version of the
    /// server needs. Safe to repeat.
    pub(crate) async fn apply_to(&self, client: &ClusterClient) -> Result<(), ClusterError> {
        let name = self.name();
        let labels =
            json!({ "app.kubernetes.io/managed-by": "meshwright", REGISTRATION_LABEL: name });
        let named = |kind: &str, api: &str, name: &str, labels: &Value| json!({ "apiVersion": api, "kind": kind, "metadata": { "name": name, "labels": labels } });
        let rbac = "rbac.authorization.k8s.io/v1";
        let mut role = named("ClusterRole", rbac, name, &labels);
        role["rules"] = cluster_role_rules();
        let mut binding = named("ClusterRoleBinding", rbac, name, &labels);
        binding["roleRef"] =
            json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name });
        binding["subjects"] =
            json!([{ "kind": "ServiceAccount", "name": name, "namespace": MESHWRIGHT_NAMESPACE }]);
        let here = format!("/api/v1/namespaces/{MESHWRIGHT_NAMESPACE}");
        let shared = json!({ "app.kubernetes.io/managed-by": "meshwright" });
        client
            .apply(
                &here,
                &named("Namespace", "v1", MESHWRIGHT_NAMESPACE, &shared),
                None,
            )
            .await?;
        let account = named("ServiceAccount", "v1", name, &labels);
        client
            .apply(&format!("{here}/serviceaccounts/{name}"), &account, None)
            .await?;
        client
            .apply(&format!("/apis/{rbac}/clusterroles/{name}"), &role, None)
            .await?;
        client
            .apply(
                &format!("/apis/{rbac}/clusterrolebindings/{name}"),
                &binding,
                None,
            )
            .await
            .map(|_| ())
    }

    /// Removes what [`Account::apply_to`] and a first credential have created, with a credential
    /// that may do so; the permissions go first. The empty namespace stays for the next attempt: no
    /// object can be created in a namespace that is being removed.
    pub(crate) async fn remove_from(&self, client: &ClusterClient) -> Result<(), ClusterError> {
        let (name, rbac) = (self.name(), "/apis/rbac.authorization.k8s.io/v1");
        let here = format!("/api/v1/namespaces/{MESHWRIGHT_NAMESPACE}");
        let own = format!(
            "labelSelector={}%3D{name}",
            REGISTRATION_LABEL.replace('/', "%2F")
        );
        let mut paths = vec![
            format!("{rbac}/clusterrolebindings/{name}"),
            format!("{rbac}/clusterroles/{name}"),
        ];
        let secrets = client.list(&format!("{here}/secrets"), &own).await?;
        let secrets = secrets
            .iter()
            .filter_map(|secret| secret["metadata"]["name"].as_str());
        paths.extend(secrets.map(|secret| format!("{here}/secrets/{secret}")));
        paths.push(format!("{here}/serviceaccounts/{name}"));
        for path in paths {
            client.delete(&path, None, None).await?;
        }
        Ok(())
    }
}

/// Lists the rules of the `ClusterRole` that our account has in a user's cluster. `e2e scenario
/// all` compares these rules with the requests that were made.
///
/// Workers read Secrets and request tokens in the mesh's namespace only. The rules cover all
/// namespaces, because that name is not known when the cluster is registered. The roles of the
/// control planes are wider than this account, which therefore needs `bind` and `escalate`: a
/// holder of its token can become an administrator of the cluster.
pub fn cluster_role_rules() -> Value {
    let kept = ["list", "create", "patch", "delete"];
    let looked_at = ["get", "list", "create", "patch", "delete"];
    json!([
        { "apiGroups": [""], "resources": ["namespaces", "configmaps"], "verbs": looked_at },
        { "apiGroups": [""], "resources": ["secrets", "services", "endpoints", "serviceaccounts"], "verbs": kept },
        { "apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"] },
        { "apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch", "create"] },
        // A rollback evicts pods where a changed template does not replace them.
        { "apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"] },
        { "apiGroups": ["apps"], "resources": ["deployments", "statefulsets", "daemonsets"], "verbs": ["list", "watch", "patch"] },
        // The pod templates of these kinds count as use of a revision.
        { "apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["list"] },
        { "apiGroups": ["batch"], "resources": ["jobs", "cronjobs"], "verbs": ["list"] },
        { "apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"],
          "verbs": looked_at },
        // Definitions belong to the cluster and are never removed, so `delete` is missing here.
        { "apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"], "verbs": ["list", "create", "patch"] },
        // An istiod leaves its leader election Leases behind.
        { "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["delete"] },
        { "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings", "clusterroles", "clusterrolebindings"],
          "verbs": ["list", "create", "patch", "delete", "bind", "escalate"] },
        { "apiGroups": REVISIONED_API_GROUPS, "resources": ["*"], "verbs": ["list"] },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_registrations_share_no_name() {
        let [one, two] = [1, 2]
            .map(|id| Account::for_cluster(format!("cluster_{id:026}").parse().expect("an id")));
        assert_ne!(one, two);
        let name =
            |account: &Account| account.bound_secrets().secret_for(3)["metadata"]["name"].clone();
        assert_ne!(name(&one), name(&two));
        let letters = |name: &str| {
            name.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        assert!(
            letters(one.name()) && one.name().len() <= 63,
            "{}",
            one.name()
        );
    }
}
