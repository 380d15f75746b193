//! Tests the registration of one cluster by two tenants.

use std::path::Path;

use super::access::{assert_equal, assert_refused};
use super::credentials::account_name;
use super::text_field;
use crate::Result;
use crate::lab::Lab;
use crate::server::DevServer;

/// Registers a cluster that is already in a mesh for another tenant that has an administrator's
/// kubeconfig of it. The registration must be refused and change nothing in the cluster: accounts,
/// Secrets, tags and root certificates stay those of the first tenant.
pub(super) fn check_second_registration(lab: &Lab, server: &DevServer, dir: &Path) -> Result<()> {
    let operator = server
        .clone_client()
        .with_key(server.state_dir().join("operator-key"));
    let made = operator.run_json(&["tenant", "create", "neighbour"])?;
    let file = dir.join("neighbour-key");
    std::fs::write(&file, text_field(&made, "owner_key")?)?;
    let neighbour = server.clone_client().with_key(file);
    let before = list_held_objects(lab)?;
    let kubeconfig = lab.kubeconfig_path("c1")?.display().to_string();
    let register = [
        "cluster",
        "register",
        "mine",
        "--kubeconfig",
        &kubeconfig,
        "--wait",
    ];
    assert_refused(&neighbour, &register, "cluster_registered_already")?;
    assert_equal(
        "what is held in the cluster",
        list_held_objects(lab)?,
        before.clone(),
    )?;
    let ours = account_name(server, "c1")?;
    let accounts = lab.list_objects("c1", &["serviceaccounts", "-n", "meshwright-system"])?;
    let of_ours = |account: &&serde_json::Value| {
        account["metadata"]["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("meshwright-"))
    };
    let names: Vec<String> = accounts
        .iter()
        .filter(of_ours)
        .map(|account| text_field(&account["metadata"], "name"))
        .collect::<Result<_>>()?;
    assert_equal("accounts of ours", names, vec![ours])?;
    neighbour.run_cli(&["cluster", "delete", "mine"])?;
    assert_equal(
        "what is held after its end",
        list_held_objects(lab)?,
        before,
    )?;
    operator
        .run_cli(&["tenant", "delete", &text_field(&made, "id")?])
        .map(drop)
}

/// Returns names and resource versions of the objects that two registrations would take from each
/// other.
fn list_held_objects(lab: &Lab) -> Result<Vec<String>> {
    let kinds = "clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations";
    let mut all = lab.list_objects("c1", &[kinds])?;
    all.extend(lab.list_objects(
        "c1",
        &["secrets,serviceaccounts", "-n", "meshwright-system"],
    )?);
    all.extend(lab.list_objects(
        "c1",
        &[
            "configmaps",
            "-A",
            "--field-selector",
            "metadata.name=istio-ca-root-cert",
        ],
    )?);
    let line = |object: &serde_json::Value| {
        format!(
            "{} {} {}",
            object["kind"], object["metadata"]["name"], object["metadata"]["resourceVersion"]
        )
    };
    Ok(all.iter().map(line).collect())
}
