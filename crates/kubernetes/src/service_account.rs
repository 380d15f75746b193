//! Manages our service account in a user's cluster: its permissions, its tokens, and the Secrets
//! that these tokens and those of the control planes' own accounts are bound to.
//!
//! Accounts, roles and Secrets are named after the registration, so that two registrations of one
//! cluster, from two installations of Meshwright, never remove objects of each other. Every token
//! expires by itself and is bound to the Secret of its serial number (Kubernetes' `TokenRequest`
//! with `boundObjectRef`). A renewal creates the next Secret; deleting the older Secrets ends their
//! tokens at once.

use std::time::Duration;

use http::HeaderValue;
use jiff::Timestamp;
use meshwright_model::ids::ClusterId;
use meshwright_rollout::ports::{ClusterError, FencingToken};
use serde_json::{Value, json};

use crate::client::ClusterClient;

/// Namespace of our service accounts in a user's cluster.
pub(crate) const MESHWRIGHT_NAMESPACE: &str = "meshwright-system";
/// Label on a Secret that names the registration whose tokens are bound to it.
const REGISTRATION_LABEL: &str = "meshwright.dev/registration";
/// Label on a Secret that holds the serial number of the tokens that are bound to it.
pub(crate) const SERIAL_LABEL: &str = "meshwright.dev/serial";
/// Shortest lifetime that Kubernetes gives a token.
pub const MIN_TOKEN_LIFETIME: Duration = Duration::from_mins(10);
/// Maximum size of a token that we accept from a cluster, in bytes. Real tokens have about 1,200.
/// Every request carries the token in a header, and servers refuse headers of more than 8 KiB.
const MAX_ISSUED_TOKEN_BYTES: usize = 7 * 1024;

/// API groups of the resources whose own label can name a revision. `mesh::revision_pins` lists
/// these resources.
const REVISIONED_API_GROUPS: [&str; 5] = [
    "networking.istio.io",
    "security.istio.io",
    "telemetry.istio.io",
    "extensions.istio.io",
    "gateway.networking.k8s.io",
];

/// Token that a cluster issued, with its expiry.
pub(crate) struct IssuedToken {
    pub(crate) token: String,
    pub(crate) expires_at: Timestamp,
}

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
    pub(crate) async fn apply_to(&self, door: &ClusterClient) -> Result<(), ClusterError> {
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
        door.apply(
            &here,
            &named("Namespace", "v1", MESHWRIGHT_NAMESPACE, &shared),
            None,
        )
        .await?;
        let account = named("ServiceAccount", "v1", name, &labels);
        door.apply(&format!("{here}/serviceaccounts/{name}"), &account, None)
            .await?;
        door.apply(&format!("/apis/{rbac}/clusterroles/{name}"), &role, None)
            .await?;
        door.apply(
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
    pub(crate) async fn remove_from(&self, door: &ClusterClient) -> Result<(), ClusterError> {
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
        let secrets = door.list(&format!("{here}/secrets"), &own).await?;
        let secrets = secrets
            .iter()
            .filter_map(|secret| secret["metadata"]["name"].as_str());
        paths.extend(secrets.map(|secret| format!("{here}/secrets/{secret}")));
        paths.push(format!("{here}/serviceaccounts/{name}"));
        for path in paths {
            door.delete(&path, None, None).await?;
        }
        Ok(())
    }
}

/// Lists the rules of the ClusterRole that our account has in a user's cluster. `xtask scenario
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
        { "apiGroups": ["apps"], "resources": ["deployments", "statefulsets", "daemonsets"], "verbs": ["list", "watch", "patch"] },
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

/// Secrets of one namespace that tokens are bound to. In our own namespace these are the Secrets of
/// one registration. In a mesh's namespace these are all of them, because no other registration
/// uses it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BoundSecrets<'a> {
    namespace: &'a str,
    account: Option<&'a Account>,
}

impl<'a> BoundSecrets<'a> {
    /// Selects the Secrets of a mesh's namespace.
    pub(crate) fn for_mesh(namespace: &'a str) -> Self {
        Self {
            namespace,
            account: None,
        }
    }

    /// Builds the Secret that the tokens of a serial number are bound to.
    pub(crate) fn secret_for(&self, serial: i64) -> Value {
        let prefix = self.account.map_or("meshwright-access", Account::name);
        let mut labels = json!({ SERIAL_LABEL: serial.to_string() });
        if let Some(account) = self.account {
            labels[REGISTRATION_LABEL] = account.name().into();
        }
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": format!("{prefix}-{serial}"), "namespace": self.namespace, "labels": labels },
        })
    }

    /// Creates the Secret of a serial number. Safe to repeat.
    pub(crate) async fn apply_secret(
        &self,
        door: &ClusterClient,
        serial: i64,
    ) -> Result<(), ClusterError> {
        let object = self.secret_for(serial);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        door.apply(
            &format!("/api/v1/namespaces/{}/secrets/{name}", self.namespace),
            &object,
            None,
        )
        .await
        .map(|_| ())
    }

    /// Lists the serial numbers in the cluster with their Secrets, in rising order.
    async fn list_secrets(&self, door: &ClusterClient) -> Result<Vec<(i64, Value)>, ClusterError> {
        let escaped = |label: &str| label.replace('/', "%2F");
        let mut query = format!("labelSelector={}", escaped(SERIAL_LABEL));
        if let Some(account) = self.account {
            query.push_str(&format!(
                ",{}%3D{}",
                escaped(REGISTRATION_LABEL),
                account.name()
            ));
        }
        let listed = door
            .list(
                &format!("/api/v1/namespaces/{}/secrets", self.namespace),
                &query,
            )
            .await?;
        let number = |object: &Value| {
            object["metadata"]["labels"][SERIAL_LABEL]
                .as_str()?
                .parse()
                .ok()
        };
        let mut found: Vec<(i64, Value)> = listed
            .into_iter()
            .filter_map(|object| Some((number(&object)?, object)))
            .collect();
        found.sort_by_key(|(serial, _)| *serial);
        Ok(found)
    }

    /// Returns the highest serial number in the cluster, or 0 if there is none.
    pub(crate) async fn newest_serial(&self, door: &ClusterClient) -> Result<i64, ClusterError> {
        Ok(self
            .list_secrets(door)
            .await?
            .last()
            .map_or(0, |(serial, _)| *serial))
    }

    /// Requests a token of an account, bound to the newest Secret. Returns its serial number as
    /// well.
    pub(crate) async fn request_token(
        &self,
        door: &ClusterClient,
        account: &str,
        life: Duration,
        permit: Option<&FencingToken>,
    ) -> Result<(i64, IssuedToken), ClusterError> {
        let namespace = self.namespace;
        let Some((serial, anchor)) = self.list_secrets(door).await?.pop() else {
            let cause = format!("the namespace {namespace} has no Secret that tokens are bound to");
            return Err(ClusterError::unreachable(door.cluster_name(), cause));
        };
        let metadata = &anchor["metadata"];
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "expirationSeconds": life.max(MIN_TOKEN_LIFETIME).as_secs(),
                "boundObjectRef": { "apiVersion": "v1", "kind": "Secret", "name": metadata["name"], "uid": metadata["uid"] },
            },
        });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = door.create(&path, &request, permit).await?;
        let minted = parse_issued_token(&answer).ok_or_else(|| ClusterError::Refused {
            place: door.cluster_name().to_owned(),
            code: "token_unusable",
            cause: "its answer to a request for a token holds none that can be sent".into(),
        })?;
        Ok((serial, minted))
    }

    /// Deletes the Secrets before a serial number, which ends their tokens. Returns whether there
    /// were any.
    pub(crate) async fn delete_older(
        &self,
        door: &ClusterClient,
        serial: i64,
    ) -> Result<bool, ClusterError> {
        let namespace = self.namespace;
        let mut any = false;
        for (older, anchor) in self
            .list_secrets(door)
            .await?
            .into_iter()
            .filter(|(older, _)| *older < serial)
        {
            let name = anchor["metadata"]["name"].as_str().unwrap_or_default();
            tracing::info!(
                place = door.cluster_name(),
                namespace,
                serial = older,
                "deleting the Secret of an older credential, which ends its tokens"
            );
            door.delete(
                &format!("/api/v1/namespaces/{namespace}/secrets/{name}"),
                None,
                None,
            )
            .await?;
            any = true;
        }
        Ok(any)
    }
}

/// Reads the token from the answer to a `TokenRequest`. Returns `None` if it holds none that a
/// request could carry.
fn parse_issued_token(answer: &Value) -> Option<IssuedToken> {
    let status = &answer["status"];
    let token = status["token"]
        .as_str()
        .filter(|token| is_header_value(token))?;
    let expires_at = status["expirationTimestamp"].as_str()?.parse().ok()?;
    Some(IssuedToken {
        token: token.to_owned(),
        expires_at,
    })
}

/// Returns whether a token can be the value of a header: visible ASCII characters in one line, at
/// most `MAX_ISSUED_TOKEN_BYTES`.
fn is_header_value(token: &str) -> bool {
    let visible = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    visible && token.len() <= MAX_ISSUED_TOKEN_BYTES && HeaderValue::from_str(token).is_ok()
}

/// Deletes the Secret that a token is bound to. The token's claims tell which one it is, so this
/// also works for names that another version of the server has chosen.
pub(crate) async fn delete_bound_secret(
    door: &ClusterClient,
    token: &str,
) -> Result<(), ClusterError> {
    let Some((namespace, name, uid)) = bound_secret_of(token) else {
        return Ok(());
    };
    let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
    match door.delete(&path, Some(json!({ "uid": uid })), None).await {
        // Another Secret has the name by now, so the token has ended already.
        Err(ClusterError::Changed { .. }) => Ok(()),
        ended => ended,
    }
}

/// Reads namespace, name and uid of the Secret from a token's claims. The signature is not checked,
/// because the token is our own.
fn bound_secret_of(token: &str) -> Option<(String, String, String)> {
    use base64::Engine as _;
    let claims = token.split('.').nth(1)?;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(claims)
        .ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let text = |pointer: &str| {
        claims
            .pointer(pointer)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    Some((
        text("/kubernetes.io/namespace")?,
        text("/kubernetes.io/secret/name")?,
        text("/kubernetes.io/secret/uid")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(token: &str) -> Value {
        json!({ "status": { "token": token, "expirationTimestamp": "2026-11-22T10:00:00Z" } })
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_no_token() {
        assert!(parse_issued_token(&answer("abc.def-ghi_jkl")).is_some());
        for token in [
            "",
            "a\nb",
            "a b",
            "a\0",
            "a\u{e9}",
            &"a".repeat(MAX_ISSUED_TOKEN_BYTES + 1),
        ] {
            assert!(parse_issued_token(&answer(token)).is_none(), "{token:?}");
        }
        assert!(parse_issued_token(&json!({ "status": { "token": 7 } })).is_none());
    }

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

    #[test]
    fn a_token_tells_which_secret_it_is_bound_to() {
        use base64::Engine as _;
        let claims = r#"{"kubernetes.io":{"namespace":"n","secret":{"name":"s","uid":"u"}}}"#;
        let token = format!(
            "h.{}.s",
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims)
        );
        assert_eq!(
            bound_secret_of(&token),
            Some(("n".into(), "s".into(), "u".into()))
        );
        assert_eq!(bound_secret_of("opaque"), None);
    }
}
