//! Maps kinds of objects to their paths in the Kubernetes API.

use serde_json::Value;

use crate::object_fields::text_at;

/// API path of mutating webhook configurations.
pub(crate) const MUTATING_WEBHOOKS_PATH: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
/// API path of validating webhook configurations.
pub(crate) const VALIDATING_WEBHOOKS_PATH: &str =
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// Kinds that we write: kind, path of group and version, plural, and whether it is namespaced.
const API_KINDS: [(&str, &str, &str, bool); 18] = [
    ("Namespace", "/api/v1", "namespaces", false),
    ("ConfigMap", "/api/v1", "configmaps", true),
    ("Secret", "/api/v1", "secrets", true),
    ("Service", "/api/v1", "services", true),
    ("ServiceAccount", "/api/v1", "serviceaccounts", true),
    ("Endpoints", "/api/v1", "endpoints", true),
    ("ResourceQuota", "/api/v1", "resourcequotas", true),
    (
        "NetworkPolicy",
        "/apis/networking.k8s.io/v1",
        "networkpolicies",
        true,
    ),
    ("Deployment", "/apis/apps/v1", "deployments", true),
    (
        "PodDisruptionBudget",
        "/apis/policy/v1",
        "poddisruptionbudgets",
        true,
    ),
    ("Role", "/apis/rbac.authorization.k8s.io/v1", "roles", true),
    (
        "RoleBinding",
        "/apis/rbac.authorization.k8s.io/v1",
        "rolebindings",
        true,
    ),
    (
        "ClusterRole",
        "/apis/rbac.authorization.k8s.io/v1",
        "clusterroles",
        false,
    ),
    (
        "ClusterRoleBinding",
        "/apis/rbac.authorization.k8s.io/v1",
        "clusterrolebindings",
        false,
    ),
    (
        "EndpointSlice",
        "/apis/discovery.k8s.io/v1",
        "endpointslices",
        true,
    ),
    (
        "MutatingWebhookConfiguration",
        "/apis/admissionregistration.k8s.io/v1",
        "mutatingwebhookconfigurations",
        false,
    ),
    (
        "ValidatingWebhookConfiguration",
        "/apis/admissionregistration.k8s.io/v1",
        "validatingwebhookconfigurations",
        false,
    ),
    (
        "CustomResourceDefinition",
        "/apis/apiextensions.k8s.io/v1",
        "customresourcedefinitions",
        false,
    ),
];

/// Returns the path of an object, or `None` for a kind that we do not write.
pub(crate) fn object_path(object: &Value) -> Option<String> {
    let kind = text_at(object, "/kind")?;
    let name = text_at(object, "/metadata/name")?;
    path_by_name(kind, text_at(object, "/metadata/namespace"), name)
}

/// Returns the path that lists all objects of a kind, in every namespace.
pub(crate) fn collection_path(kind: &str) -> Option<String> {
    API_KINDS
        .iter()
        .find(|(known, ..)| *known == kind)
        .map(|(_, prefix, plural, _)| format!("{prefix}/{plural}"))
}

/// Returns the path of an object from its kind, namespace and name.
pub(crate) fn path_by_name(kind: &str, namespace: Option<&str>, name: &str) -> Option<String> {
    let (_, prefix, plural, namespaced) = API_KINDS.iter().find(|(known, ..)| *known == kind)?;
    Some(match (namespaced, namespace) {
        (true, Some(namespace)) => format!("{prefix}/namespaces/{namespace}/{plural}/{name}"),
        (true, None) => return None,
        (false, _) => format!("{prefix}/{plural}/{name}"),
    })
}
