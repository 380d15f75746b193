//! Describes objects that stay in a cluster after we have left it, with the commands that remove
//! them.

use serde::{Deserialize, Serialize};

use crate::{Name, closed_set};

/// Progress of the removal of our service account from a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountRemoval {
    /// The removal has not begun.
    NotBegun,
    /// The removal may have been requested. If the cluster refuses our credential now, this proves
    /// nothing, because the credential may have become invalid for another reason.
    Begun,
    /// The cluster has accepted the removal. From now on, a repeated refusal of our credential
    /// proves that the account is gone.
    Accepted,
}

/// Kubernetes kind of an object that we leave in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftoverKind {
    /// Role of our account or of a control plane.
    ClusterRole,
    /// Binding of such a role.
    ClusterRoleBinding,
    /// Root certificate or revocation list that istiod wrote.
    ConfigMap,
    /// Definition of Istio's resources, which belongs to the cluster.
    CustomResourceDefinition,
    /// Injection webhook of a revision or of a tag.
    MutatingWebhookConfiguration,
    /// Namespace of the mesh or of our account.
    Namespace,
    /// Validation webhook of a revision or of the cluster.
    ValidatingWebhookConfiguration,
}

closed_set!(LeftoverKind {
    ClusterRole = "ClusterRole",
    ClusterRoleBinding = "ClusterRoleBinding",
    ConfigMap = "ConfigMap",
    CustomResourceDefinition = "CustomResourceDefinition",
    MutatingWebhookConfiguration = "MutatingWebhookConfiguration",
    Namespace = "Namespace",
    ValidatingWebhookConfiguration = "ValidatingWebhookConfiguration",
});

/// Object, or all objects of one name, that we leave in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// Name of the cluster that holds the object.
    pub cluster: Name,
    /// Kubernetes kind, for example `ConfigMap`.
    pub kind: String,
    /// Namespace of the object: `None` for a kind without namespaces, `*` for every namespace.
    pub namespace: Option<String>,
    /// Name of the object in Kubernetes.
    pub name: String,
    /// Command that removes the object, for a shell whose kubectl points to the cluster.
    pub command: String,
}

/// Value of the field `namespace` that stands for every namespace.
const ALL_NAMESPACES: &str = "*";

impl Leftover {
    /// Describes one object.
    pub fn for_object(cluster: &Name, kind: &str, namespace: Option<&str>, name: &str) -> Self {
        let kind_word = kind.to_ascii_lowercase();
        let place = namespace
            .map(|namespace| format!("--namespace {namespace} "))
            .unwrap_or_default();
        Self {
            cluster: cluster.clone(),
            kind: kind.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            command: format!("kubectl delete {place}{kind_word} {name}"),
        }
    }

    /// Describes the objects of a kind that have one name, in every namespace.
    pub fn in_every_namespace(cluster: &Name, kind: &str, name: &str) -> Self {
        let kind_word = kind.to_ascii_lowercase();
        let command = format!(
            "kubectl delete {kind_word} --all-namespaces --field-selector metadata.name={name}"
        );
        Self {
            cluster: cluster.clone(),
            kind: kind.to_owned(),
            namespace: Some(ALL_NAMESPACES.to_owned()),
            name: name.to_owned(),
            command,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_of_a_leftover_names_the_object_and_its_namespace() {
        let cluster: Name = "c2".parse().expect("a name");
        let command =
            |namespace| Leftover::for_object(&cluster, "Secret", namespace, "token").command;
        assert_eq!(command(None), "kubectl delete secret token");
        assert_eq!(
            command(Some("shop")),
            "kubectl delete --namespace shop secret token"
        );
        assert_eq!(
            Leftover::in_every_namespace(&cluster, "ConfigMap", "istio-ca-root-cert").command,
            "kubectl delete configmap --all-namespaces --field-selector metadata.name=istio-ca-root-cert"
        );
    }
}
