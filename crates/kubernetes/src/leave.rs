//! Removes our service account from a cluster, with all that belongs to it, by one deletion.
//!
//! An account cannot remove itself object by object: without its role or its binding it may not
//! delete the rest. So the rest gets the role as its owner, and deleting the role is the last call
//! that we make. Kubernetes' garbage collector then removes the owned objects. If the API server
//! refuses our token after it has accepted that deletion, it has looked for the account and not
//! found it. Before that, a refusal proves nothing: the Secret of the token may have been deleted
//! alone.

use meshwright_model::Name;
use meshwright_model::leftover::{AccountRemoval, Leftover};
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::{AccountPresence, ClusterError};
use serde_json::{Value, json};

use crate::client::ClusterClient;
use crate::labels::OWNER_LABEL;
use crate::service_account::{MESHWRIGHT_NAMESPACE, SERIAL_LABEL};

const RBAC_API_PATH: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Checks for our account in a cluster, and once its removal has begun, also removes it. If the
/// account has lost its rights or its role is gone, the removal was accepted, even if the answer to
/// the deletion was lost. Safe to repeat.
///
/// # Errors
/// Returns an error if the cluster does not answer or refuses the call.
pub async fn remove_account(
    client: &ClusterClient,
    cluster: &Name,
    account: &str,
    removal: AccountRemoval,
) -> Result<AccountPresence, ClusterError> {
    let going = || {
        Ok(AccountPresence::Terminating(
            "the account has lost its rights, and is still being removed".into(),
        ))
    };
    let began = removal != AccountRemoval::NotBegun;
    let role = match find_cluster_role(client, account).await {
        Err(ClusterError::Refused {
            code: ProblemCode::CredentialExpired,
            ..
        }) if removal == AccountRemoval::Accepted => {
            return Ok(AccountPresence::CredentialRefused);
        }
        Err(ClusterError::Refused {
            code: ProblemCode::PermissionMissing,
            ..
        }) if began => return going(),
        found => found?,
    };
    if !began {
        return Ok(AccountPresence::Present(
            list_istio_crds(client, cluster).await?,
        ));
    }
    let Some(role) = role else { return going() };
    set_owner_references(client, account, &role).await?;
    let uid = json!({ "uid": role["metadata"]["uid"] });
    client
        .delete(
            &format!("{RBAC_API_PATH}/clusterroles/{account}"),
            Some(uid),
            None,
        )
        .await?;
    going()
}

/// Lists the objects of our account that remain in a cluster that is left behind.
pub fn account_leftovers(cluster: &Name, account: &str) -> Vec<Leftover> {
    let selected = format!("kubectl delete customresourcedefinition --selector {OWNER_LABEL}");
    vec![
        Leftover::for_object(cluster, "ClusterRoleBinding", None, account),
        Leftover::for_object(cluster, "ClusterRole", None, account),
        Leftover::for_object(cluster, "Namespace", None, MESHWRIGHT_NAMESPACE),
        Leftover {
            cluster: cluster.clone(),
            kind: "CustomResourceDefinition".into(),
            namespace: None,
            name: "*.istio.io".into(),
            command: selected,
        },
    ]
}

/// Finds the `ClusterRole` of an account. It is listed by name, because our account may not `get`
/// roles.
async fn find_cluster_role(
    client: &ClusterClient,
    account: &str,
) -> Result<Option<Value>, ClusterError> {
    let named = format!("fieldSelector=metadata.name%3D{account}");
    Ok(client
        .list(&format!("{RBAC_API_PATH}/clusterroles"), &named)
        .await?
        .pop())
}

/// Lists Istio's custom resource definitions that we have installed. They stay because they belong
/// to the cluster: deleting them would delete the users' own resources.
async fn list_istio_crds(
    client: &ClusterClient,
    cluster: &Name,
) -> Result<Vec<Leftover>, ClusterError> {
    let ours = format!("labelSelector={}", OWNER_LABEL.replace('/', "%2F"));
    let listed = client
        .list(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            &ours,
        )
        .await?;
    let names = listed
        .iter()
        .filter_map(|object| object["metadata"]["name"].as_str());
    Ok(names
        .map(|name| Leftover::for_object(cluster, "CustomResourceDefinition", None, name))
        .collect())
}

/// Makes the role the owner of all other objects of an account, and also of our namespace unless
/// another account is in it.
async fn set_owner_references(
    client: &ClusterClient,
    account: &str,
    role: &Value,
) -> Result<(), ClusterError> {
    let owner = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "name": account, "uid": role["metadata"]["uid"],
    });
    let change = json!({ "metadata": { "ownerReferences": [owner] } });
    let here = format!("/api/v1/namespaces/{MESHWRIGHT_NAMESPACE}");
    let accounts = client.list(&format!("{here}/serviceaccounts"), "").await?;
    let names: Vec<&str> = accounts
        .iter()
        .filter_map(|object| object["metadata"]["name"].as_str())
        .collect();
    let anchors = format!("labelSelector={}", SERIAL_LABEL.replace('/', "%2F"));
    let secrets = client.list(&format!("{here}/secrets"), &anchors).await?;
    for secret in secrets
        .iter()
        .filter_map(|object| object["metadata"]["name"].as_str())
    {
        // The names of Secrets begin with the name of their account.
        if secret
            .strip_prefix(account)
            .is_some_and(|rest| rest.starts_with('-'))
        {
            client
                .patch(&format!("{here}/secrets/{secret}"), &change, None)
                .await?;
        }
    }
    if names.contains(&account) {
        client
            .patch(&format!("{here}/serviceaccounts/{account}"), &change, None)
            .await?;
    }
    if names
        .iter()
        .all(|name| *name == account || *name == "default")
    {
        client.patch(&here, &change, None).await?;
    }
    client
        .patch(
            &format!("{RBAC_API_PATH}/clusterrolebindings/{account}"),
            &change,
            None,
        )
        .await
        .map(|_| ())
}
