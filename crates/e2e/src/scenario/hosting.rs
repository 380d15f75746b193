//! Tests the limits of a mesh's namespace in the hosting cluster and the variables of istiod, as
//! the real API server shows them.

use anyhow::{anyhow, bail};
use serde_json::{Value, json};

use super::{NEW_RELEASE, OLD_RELEASE, mesh_namespace};
use crate::Result;
use crate::lab::Lab;
use crate::server::DevServer;

/// Switches of istiod that a mesh keeps in an upgrade, with the defaults of 1.25.
const ISTIOD_ENV_DEFAULTS: [(&str, &str); 4] = [
    ("ENABLE_NATIVE_SIDECARS", "false"),
    ("ENABLE_PROXY_FIND_POD_BY_IP", "true"),
    ("MAX_CONNECTIONS_PER_SOCKET_EVENT_LOOP", "0"),
    ("PILOT_ENABLE_ABSOLUTE_FQDN_VHOST_DOMAIN", "false"),
];

/// Checks that the namespace enforces the restricted Pod Security Standard, that its quota counts,
/// and that its network policy allows exactly what is needed.
pub(super) fn check_namespace_limits(lab: &Lab, server: &DevServer) -> Result<()> {
    let mesh = mesh_namespace(server)?;
    let own = get_object(lab, &["namespace", &mesh])?;
    let standard = &own["metadata"]["labels"]["pod-security.kubernetes.io/enforce"];
    if standard != "restricted" {
        bail!("the mesh's namespace enforces {standard}");
    }
    check_root_refused(lab, &mesh)?;
    let quota = get_object(lab, &["resourcequota", "meshwright-limits", "-n", &mesh])?;
    let pods = lab
        .list_objects("hosting", &["pods", "-n", &mesh])?
        .len()
        .to_string();
    if quota["status"]["used"]["pods"] != pods.as_str() {
        bail!(
            "{pods} pods are there, and the quota counts {}",
            quota["status"]["used"]
        );
    }
    let policy = get_object(lab, &["networkpolicy", "meshwright-limits", "-n", &mesh])?;
    // Proxies reach istiod at port 15012, and admission webhooks are served at port 15017.
    let open: Vec<&Value> = rule_entries(&policy["spec"]["ingress"], "ports")
        .map(|port| &port["port"])
        .collect();
    if open != [&json!(15012), &json!(15017)] {
        bail!("these ports are open: {open:?}");
    }
    // istiod may call the API servers of the hosting cluster and of both members.
    let mut called: Vec<&str> = rule_entries(&policy["spec"]["egress"], "to")
        .filter_map(|peer| peer["ipBlock"]["cidr"].as_str())
        .collect();
    called.sort_unstable();
    let service = get_object(lab, &["service", "kubernetes", "-n", "default"])?;
    let cluster = format!(
        "{}/32",
        service["spec"]["clusterIP"].as_str().unwrap_or_default()
    );
    let mut expected = vec![
        "10.0.0.1/32",
        "10.1.0.1/32",
        "10.2.0.1/32",
        cluster.as_str(),
    ];
    expected.sort_unstable();
    if called == expected {
        Ok(())
    } else {
        Err(anyhow!("istiods may call {called:?}, not {expected:?}"))
    }
}

/// Checks that Pod Security admission refuses a pod that may run as root in the mesh's namespace.
fn check_root_refused(lab: &Lab, mesh: &str) -> Result<()> {
    let run = [
        "run",
        "root",
        "--image=registry.example/probe:1",
        "--dry-run=server",
        "-n",
        mesh,
    ];
    match lab.run_kubectl("hosting", &run) {
        Err(said) if said.to_string().contains("violates PodSecurity") => Ok(()),
        other => Err(anyhow!("a pod that may be root was not refused: {other:?}")),
    }
}

/// Checks that the control planes of these revisions run with the switches that the mesh began
/// with.
pub(crate) fn check_env_kept(lab: &Lab, server: &DevServer, revisions: &[&str]) -> Result<()> {
    let mesh = mesh_namespace(server)?;
    for revision in revisions {
        let deployment = get_object(
            lab,
            &["deployment", &format!("istiod-{revision}"), "-n", &mesh],
        )?;
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        let list = container["env"].as_array().cloned().unwrap_or_default();
        for (name, wanted) in ISTIOD_ENV_DEFAULTS {
            let found = list
                .iter()
                .find(|entry| entry["name"] == name)
                .map(|entry| &entry["value"]);
            if found != Some(&json!(wanted)) {
                bail!("istiod-{revision} runs with {name}={found:?}, not {wanted}");
            }
        }
        if deployment.to_string().contains("compatibilityVersion") {
            bail!("istiod-{revision} was rendered with a compatibility version");
        }
    }
    Ok(())
}

/// Checks that a canary gets the switches of its mesh, and that they stay after a rollback.
pub(super) fn check_canary_keeps_env(lab: &Lab, server: &DevServer) -> Result<()> {
    let upgrade = super::plan_upgrade(server, NEW_RELEASE.0, "canary", "3600")?;
    check_env_kept(lab, server, &[OLD_RELEASE.1, NEW_RELEASE.1])?;
    super::apply_verb(server, "rollback", &upgrade, "rolled_back")?;
    check_env_kept(lab, server, &[OLD_RELEASE.1])
}

/// Checks that a mesh keeps its switches when it moves in place across two minors, which only a
/// changed policy of the operator allows, and when it is rolled back.
pub(super) fn check_in_place_keeps_env(lab: &Lab, server: &DevServer) -> Result<()> {
    server.set_in_place_minors(2)?;
    let upgrade = super::plan_upgrade(server, NEW_RELEASE.0, "in_place", "3600")?;
    check_env_kept(lab, server, &[OLD_RELEASE.1])?;
    let image = &get_object(
        lab,
        &[
            "deployment",
            &format!("istiod-{}", OLD_RELEASE.1),
            "-n",
            &mesh_namespace(server)?,
        ],
    )?["spec"]["template"];
    if !image.to_string().contains("pilot:1.27.9") {
        bail!("istiod was not replaced");
    }
    super::apply_verb(server, "rollback", &upgrade, "rolled_back")?;
    server.set_in_place_minors(1)?;
    check_env_kept(lab, server, &[OLD_RELEASE.1])
}

fn get_object(lab: &Lab, what: &[&str]) -> Result<Value> {
    let said = lab.run_kubectl("hosting", &[&["get", "-o", "json"], what].concat())?;
    Ok(serde_json::from_str(&said)?)
}

fn rule_entries<'v>(rules: &'v Value, key: &'v str) -> impl Iterator<Item = &'v Value> {
    rules
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(move |rule| rule[key].as_array().into_iter().flatten())
}
