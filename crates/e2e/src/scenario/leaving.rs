//! Tests the removal of meshes and clusters, of dead ones by force, and the lists of what stays in
//! them.

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;

use super::credentials::{CREDENTIAL_TIMEOUT, SYSTEM_NAMESPACE};
use super::{NEW_RELEASE, mesh_namespace, text_field};
use crate::Result;
use crate::assertions::MEMBER_CLUSTERS;
use crate::lab::{Lab, wait_until};
use crate::server::DevServer;

/// Member that stops answering.
pub(super) const DEAD_CLUSTER: &str = "c2";
pub(super) const FORCE_REASON: &str = "its machines are gone";
/// Kinds of objects that a mesh or our account creates in a cluster.
const LEFTOVER_KINDS: &str = "clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations,namespaces,configmaps,secrets,serviceaccounts";

/// Returns the objects in a cluster whose name or namespace contains one of these words, by kind
/// and name; custom resource definitions, which every mesh of the cluster needs, are left out.
fn find_leftovers(lab: &Lab, cluster: &str, of: &[&str]) -> Result<Vec<String>> {
    let named = |object: &Value| {
        let text = |pointer| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let [kind, namespace, name] = ["/kind", "/metadata/namespace", "/metadata/name"].map(text);
        let ours = of
            .iter()
            .any(|word| name.contains(word) || namespace.contains(word));
        ours.then(|| format!("{kind} {namespace}/{name}"))
    };
    Ok(lab
        .list_objects(cluster, &[LEFTOVER_KINDS, "--all-namespaces"])?
        .iter()
        .filter_map(named)
        .collect())
}

/// Checks that no such object is left in a cluster.
fn assert_nothing_left(lab: &Lab, cluster: &str, of: &[&str]) -> Result<()> {
    let left = find_leftovers(lab, cluster, of)?;
    if left.is_empty() {
        Ok(())
    } else {
        Err(anyhow!("{cluster} still has {left:?}"))
    }
}

/// Deletes every namespace of workloads in the members.
pub(super) fn delete_workloads(lab: &Lab, mesh_namespace: &str) -> Result<()> {
    for member in MEMBER_CLUSTERS {
        let kept = |name: &str| {
            name.starts_with("kube-")
                || ["default", SYSTEM_NAMESPACE, mesh_namespace].contains(&name)
        };
        let all = lab.list_objects(member, &["namespaces"])?;
        let names: Vec<&str> = all
            .iter()
            .filter_map(|object| object["metadata"]["name"].as_str())
            .collect();
        let theirs: Vec<&str> = names.into_iter().filter(|name| !kept(name)).collect();
        if !theirs.is_empty() {
            lab.run_kubectl(
                member,
                &[&["delete", "namespace"], theirs.as_slice()].concat(),
            )?;
        }
    }
    Ok(())
}

/// Deletes the workloads first, because a mesh with sidecars in use is not deleted, and then the
/// mesh. Nothing of the mesh may be left in any cluster except the custom resource definitions,
/// which belong to the cluster.
pub(super) fn check_mesh_deletion(lab: &Lab, server: &DevServer) -> Result<()> {
    let mesh = mesh_namespace(server)?;
    delete_workloads(lab, &mesh)?;
    server.run_cli(&["mesh", "delete", "demo", "--wait"])?;
    ["c1", "c2", "hosting"]
        .iter()
        .try_for_each(|cluster| assert_nothing_left(lab, cluster, &["istio", &mesh]))
}

/// Deletes a mesh by force while one member does not answer. The mesh is removed from every cluster
/// that answers, and the objects that stay in the silent member are listed. The same holds for our
/// account when the cluster itself is deregistered by force. When the cluster is back, the listed
/// commands must remove all of them.
pub(super) fn check_forced_deletion(lab: &Lab, server: &DevServer) -> Result<()> {
    let create = [
        "mesh",
        "create",
        "second",
        "--version",
        NEW_RELEASE.0,
        "--cluster",
        "c1",
        "--cluster",
        DEAD_CLUSTER,
        "--wait",
    ];
    server.run_with_progress(&create)?;
    let mesh = text_field(&server.run_json(&["mesh", "get", "second"])?, "namespace")?;
    // Without force, a silent cluster that is a member is not deregistered.
    let silence = lab.stop_process("c2/kube-apiserver")?;
    match server.run_json(&["cluster", "delete", DEAD_CLUSTER, "--wait"]) {
        Err(said) if said.to_string().contains("(cluster_in_use)") => {}
        other => bail!("a member was deregistered: {other:?}"),
    }
    let force = ["--force", "--reason", FORCE_REASON, "--wait"];
    let deletion = server.run_json(&[&["mesh", "delete", "second"], force.as_slice()].concat())?;
    for cluster in ["c1", "hosting"] {
        assert_nothing_left(lab, cluster, &["istio", &mesh])?;
    }
    let departure =
        server.run_json(&[&["cluster", "delete", DEAD_CLUSTER], force.as_slice()].concat())?;
    if server.run_json(&["cluster", "get", DEAD_CLUSTER]).is_ok() {
        bail!("{DEAD_CLUSTER} is still registered");
    }
    drop(silence);
    wait_until("the cluster is back", CREDENTIAL_TIMEOUT, || {
        lab.run_kubectl(DEAD_CLUSTER, &["get", "namespaces"]).ok()
    })?;
    let stays = find_leftovers(lab, DEAD_CLUSTER, &["istio", &mesh, "meshwright"])?;
    if stays.is_empty() {
        bail!("a silent cluster was changed");
    }
    for left in [&deletion, &departure] {
        run_leftover_commands(lab, left)?;
    }
    wait_until(
        "the listed commands leave nothing",
        CREDENTIAL_TIMEOUT,
        || {
            find_leftovers(lab, DEAD_CLUSTER, &["istio", &mesh, "meshwright"])
                .ok()
                .filter(Vec::is_empty)
        },
    )
    .map(drop)
    .map_err(|error| {
        anyhow!(
            "{error:#}: {:?}",
            find_leftovers(lab, DEAD_CLUSTER, &["istio", &mesh, "meshwright"])
        )
    })
}

/// Runs the commands in an operation's list of leftovers, as a person would.
fn run_leftover_commands(lab: &Lab, operation: &Value) -> Result<()> {
    let listed = operation["leftovers"]
        .as_array()
        .filter(|listed| !listed.is_empty());
    let listed =
        listed.with_context(|| format!("an operation lists nothing that stays: {operation}"))?;
    for left in listed {
        // Definitions stay in every member, because the users' own resources would be deleted with
        // them.
        if left["cluster"] != DEAD_CLUSTER && left["kind"] == "CustomResourceDefinition" {
            continue;
        }
        if left["cluster"] != DEAD_CLUSTER {
            bail!("listed though its cluster answers: {left}");
        }
        let command = text_field(left, "command")?;
        let arguments = command
            .strip_prefix("kubectl ")
            .with_context(|| format!("not of kubectl: {command}"))?;
        let words: Vec<&str> = arguments.split(' ').collect();
        lab.run_kubectl(DEAD_CLUSTER, &words)
            .with_context(|| command.clone())?;
    }
    Ok(())
}

/// Checks that a cluster which answers is deregistered without a trace.
pub(super) fn check_deregistration(lab: &Lab, server: &DevServer) -> Result<()> {
    server.run_cli(&["cluster", "delete", "c1", "--wait"])?;
    assert_nothing_left(lab, "c1", &["meshwright"])?;
    let registered = server.run_json(&["cluster", "list"])?;
    let names: Vec<_> = registered["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| one["name"].clone())
        .collect();
    if MEMBER_CLUSTERS
        .iter()
        .any(|member| names.iter().any(|name| name == member))
    {
        bail!("still registered: {names:?}");
    }
    Ok(())
}
