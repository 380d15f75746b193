//! Objects that stay in a cluster after we have left it, and how its owner removes them.

use serde::{Deserialize, Serialize};

use crate::Name;

/// How far the removal of our account from a cluster has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountRemoval {
    /// Nothing was removed.
    NotBegun,
    /// It may have been asked for. A refusal of our credential says nothing yet: it may have died in another way.
    Begun,
    /// The cluster has accepted it. From now on a repeated refusal of our credential says that the account is gone.
    Accepted,
}

/// An object, or all objects of one name, that we leave in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// The cluster that holds it.
    pub cluster: Name,
    /// The Kubernetes kind.
    pub kind: String,
    /// The namespace: none for a kind without, `*` for every namespace.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The command that removes it, for a shell whose kubectl points to the cluster.
    pub command: String,
}

/// Stands for every namespace.
const ALL_NAMESPACES: &str = "*";

impl Leftover {
    /// One object.
    pub fn for_object(cluster: &Name, kind: &str, namespace: Option<&str>, name: &str) -> Self {
        let kind_word = kind.to_ascii_lowercase();
        let place = namespace.map(|namespace| format!("--namespace {namespace} ")).unwrap_or_default();
        Self {
            cluster: cluster.clone(),
            kind: kind.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            command: format!("kubectl delete {place}{kind_word} {name}"),
        }
    }

    /// The objects of a kind that have one name, in every namespace.
    pub fn in_every_namespace(cluster: &Name, kind: &str, name: &str) -> Self {
        let kind_word = kind.to_ascii_lowercase();
        let command = format!("kubectl delete {kind_word} --all-namespaces --field-selector metadata.name={name}");
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
        let command = |namespace| Leftover::for_object(&cluster, "Secret", namespace, "token").command;
        assert_eq!(command(None), "kubectl delete secret token");
        assert_eq!(command(Some("shop")), "kubectl delete --namespace shop secret token");
        assert_eq!(
            Leftover::in_every_namespace(&cluster, "ConfigMap", "istio-ca-root-cert").command,
            "kubectl delete configmap --all-namespaces --field-selector metadata.name=istio-ca-root-cert"
        );
    }
}
