//! Our account in a user's cluster: what it may do, and the tokens that it and the control planes' own accounts live by.
//!
//! Every token ends by itself and is bound to a Secret of its serial number: a renewal makes the next Secret, and taking
//! the older ones away ends their tokens at once (Kubernetes' `TokenRequest`, `boundObjectRef`).

use std::time::Duration;

use jiff::Timestamp;
use rollout::ports::{Permit, WorldError};
use serde_json::{Value, json};

use crate::door::Door;
use crate::mesh::GROUPS;

/// Where our account lives in a user's cluster.
pub(crate) const NAMESPACE: &str = "meshwright-system";
/// What it is called.
pub(crate) const ACCOUNT: &str = "meshwright";
/// Says on a Secret which tokens are bound to it.
pub(crate) const SERIAL_LABEL: &str = "meshwright.dev/serial";
/// The shortest life that Kubernetes gives a token.
pub const SHORTEST_LIFE: Duration = Duration::from_mins(10);

/// A token that a cluster issued.
pub(crate) struct Minted {
    pub(crate) token: String,
    pub(crate) expires_at: Timestamp,
}

/// What the worker's account may do in a user's cluster. `xtask scenario all` compares it with what was done.
///
/// Secrets and tokens are asked for in the mesh's namespace only, whose name nobody knows when the cluster is registered, and
/// the control planes' own roles are wider than this account (`bind`, `escalate`): whoever holds it can become an
/// administrator of the cluster.
pub fn rules() -> Value {
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
        // They belong to the cluster and are never taken away.
        { "apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"], "verbs": ["list", "create", "patch"] },
        // What an istiod leaves behind.
        { "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["delete"] },
        { "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings", "clusterroles", "clusterrolebindings"],
          "verbs": ["list", "create", "patch", "delete", "bind", "escalate"] },
        { "apiGroups": GROUPS, "resources": ["*"], "verbs": ["list"] },
    ])
}

/// Makes the account, or brings it to what this server needs. Safe to repeat.
pub(crate) async fn make(door: &Door) -> Result<(), WorldError> {
    let labels = json!({ "app.kubernetes.io/managed-by": "meshwright" });
    let named = |kind: &str, api: &str, name: &str| json!({ "apiVersion": api, "kind": kind, "metadata": { "name": name, "labels": labels } });
    let rbac = "rbac.authorization.k8s.io/v1";
    let mut role = named("ClusterRole", rbac, ACCOUNT);
    role["rules"] = rules();
    let mut binding = named("ClusterRoleBinding", rbac, ACCOUNT);
    binding["roleRef"] = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ACCOUNT });
    binding["subjects"] = json!([{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE }]);
    let here = format!("/api/v1/namespaces/{NAMESPACE}");
    door.apply(&here, &named("Namespace", "v1", NAMESPACE), None).await?;
    door.apply(&format!("{here}/serviceaccounts/{ACCOUNT}"), &named("ServiceAccount", "v1", ACCOUNT), None).await?;
    door.apply(&format!("/apis/{rbac}/clusterroles/{ACCOUNT}"), &role, None).await?;
    door.apply(&format!("/apis/{rbac}/clusterrolebindings/{ACCOUNT}"), &binding, None).await.map(|_| ())
}

/// The Secret that the tokens of a serial number are bound to.
pub(crate) fn anchor(serial: i64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": format!("meshwright-access-{serial}"), "labels": { SERIAL_LABEL: serial.to_string() } },
    })
}

/// Makes the Secret of a serial number in a namespace. Safe to repeat.
pub(crate) async fn put_anchor(door: &Door, namespace: &str, serial: i64) -> Result<(), WorldError> {
    let path = format!("/api/v1/namespaces/{namespace}/secrets/meshwright-access-{serial}");
    door.apply(&path, &anchor(serial), None).await.map(|_| ())
}

/// The serial numbers whose Secrets are in a namespace, with the Secrets, oldest first.
pub(crate) async fn anchors(door: &Door, namespace: &str) -> Result<Vec<(i64, Value)>, WorldError> {
    let query = format!("labelSelector={}", SERIAL_LABEL.replace('/', "%2F"));
    let listed = door.list(&format!("/api/v1/namespaces/{namespace}/secrets"), &query).await?;
    let number = |object: &Value| object["metadata"]["labels"][SERIAL_LABEL].as_str()?.parse().ok();
    let mut found: Vec<(i64, Value)> =
        listed.into_iter().filter_map(|object| Some((number(&object)?, object))).collect();
    found.sort_by_key(|(serial, _)| *serial);
    Ok(found)
}

/// Asks for a token of an account, bound to the newest Secret of its namespace; answers the serial number as well.
pub(crate) async fn mint(
    door: &Door,
    namespace: &str,
    account: &str,
    life: Duration,
    permit: Option<&Permit>,
) -> Result<(i64, Minted), WorldError> {
    let Some((serial, anchor)) = anchors(door, namespace).await?.pop() else {
        let cause = format!("the namespace {namespace} has no Secret that tokens are bound to");
        return Err(WorldError::silent(door.place(), cause));
    };
    let metadata = &anchor["metadata"];
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "expirationSeconds": life.max(SHORTEST_LIFE).as_secs(),
            "boundObjectRef": { "apiVersion": "v1", "kind": "Secret", "name": metadata["name"], "uid": metadata["uid"] },
        },
    });
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let answer = door.create(&path, &request, permit).await?;
    let status = &answer["status"];
    let read = || {
        let token = status["token"].as_str()?.to_owned();
        let expires_at = status["expirationTimestamp"].as_str()?.parse().ok()?;
        Some(Minted { token, expires_at })
    };
    let minted =
        read().ok_or_else(|| WorldError::silent(door.place(), "it answered a request for a token without one"))?;
    Ok((serial, minted))
}

/// Takes away the Secrets before a serial number, and with them their tokens. Answers whether there were any.
pub(crate) async fn retire(door: &Door, namespace: &str, serial: i64) -> Result<bool, WorldError> {
    let mut any = false;
    for (older, anchor) in anchors(door, namespace).await?.into_iter().filter(|(older, _)| *older < serial) {
        let name = anchor["metadata"]["name"].as_str().unwrap_or_default();
        tracing::info!(place = door.place(), namespace, serial = older, "a credential is taken away");
        door.delete(&format!("/api/v1/namespaces/{namespace}/secrets/{name}"), None, None).await?;
        any = true;
    }
    Ok(any)
}
