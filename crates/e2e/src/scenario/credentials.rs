//! Tests the credentials of clusters: they are renewed without a restart, and reported when they are
//! dead.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;

use super::{mesh_namespace, text_field};
use crate::Result;
use crate::assertions::MEMBER_CLUSTERS;
use crate::lab::{Lab, wait_until};
use crate::server::DevServer;

/// Namespace of our service account in a user's cluster.
pub(super) const SYSTEM_NAMESPACE: &str = "meshwright-system";
/// Time within which a new token is in use: a kubelet of the lab updates a mounted Secret within
/// five seconds, and a client caches its token for a minute.
pub(super) const CREDENTIAL_TIMEOUT: Duration = Duration::from_mins(3);
/// Longest time that istiod takes to write into a new namespace.
const ISTIOD_WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Renews the credential of the config cluster and that of a remote cluster. The former tokens must
/// die at once, no istiod may be restarted, and each istiod must still write into the members.
pub(super) fn check_renewal(lab: &Lab, server: &DevServer) -> Result<()> {
    let mesh = mesh_namespace(server)?;
    let before = istiod_restarts(lab, &mesh)?;
    for (member, secret) in [
        ("c1", "istio-kubeconfig-1-25-1"),
        ("c2", "meshwright-token-c2"),
    ] {
        let old = read_token(lab, &mesh, secret)?;
        server.run_cli(&[
            "cluster",
            "renew",
            member,
            "--overlap-seconds",
            "0",
            "--wait",
        ])?;
        let held = server.run_json(&["cluster", "get", member])?["credential"].clone();
        if held["serial"] != 2 || held["state"] != "valid" {
            bail!("{member} holds {held}");
        }
        wait_until(
            "the former credentials are gone",
            CREDENTIAL_TIMEOUT,
            || {
                let left = [SYSTEM_NAMESPACE, &mesh]
                    .map(|namespace| list_token_secrets(lab, member, namespace));
                left.iter()
                .all(|left| matches!(left, Ok(left) if left.len() == 1 && left[0].ends_with("-2")))
                .then_some(())
            },
        )?;
        if read_token(lab, &mesh, secret)? == old {
            bail!("{secret} still holds the former token");
        }
        // An API server caches an authentication for ten seconds.
        wait_until("the former token is dead", CREDENTIAL_TIMEOUT, || {
            check_token_dead(lab, member, &old).ok()
        })?;
    }
    for member in MEMBER_CLUSTERS {
        let mut newcomers = 0;
        wait_until("istiod writes by its new token", CREDENTIAL_TIMEOUT, || {
            newcomers += 1;
            check_istiod_writes(lab, member, &format!("newcomer-{newcomers}")).ok()
        })?;
    }
    match istiod_restarts(lab, &mesh)? {
        after if after == before => Ok(()),
        after => Err(anyhow!(
            "istiods were restarted: {before:?}, then {after:?}"
        )),
    }
}

/// Creates a namespace and waits until istiod has written its root certificate there with its
/// current token. istiod tries that six times within a second and then never again, so a namespace
/// that was created while istiod still used the former token never gets it.
fn check_istiod_writes(lab: &Lab, member: &str, newcomer: &str) -> Result<()> {
    lab.run_kubectl(member, &["create", "namespace", newcomer])?;
    let wanted = ["get", "configmap", "istio-ca-root-cert", "-n", newcomer];
    let written = wait_until(
        "the root certificate is there",
        ISTIOD_WRITE_TIMEOUT,
        || lab.run_kubectl(member, &wanted).ok(),
    );
    lab.run_kubectl(member, &["delete", "namespace", newcomer])?;
    written.map(drop)
}

/// Deletes the Secrets that our tokens are bound to. The cluster must be shown as unreachable with
/// the reason, it must get few calls, and an administrator's kubeconfig must restore access.
pub(super) fn check_revocation(lab: &Lab, server: &DevServer) -> Result<()> {
    let secrets = list_token_secrets(lab, "c2", SYSTEM_NAMESPACE)?;
    let serial = server.run_json(&["cluster", "get", "c2"])?["credential"]["serial"].clone();
    for secret in &secrets {
        lab.run_kubectl("c2", &["delete", "secret", "-n", SYSTEM_NAMESPACE, secret])?;
    }
    let shown = wait_until(
        "the cluster is shown as unreachable",
        CREDENTIAL_TIMEOUT,
        || {
            server
                .run_json(&["cluster", "get", "c2"])
                .ok()
                .filter(|cluster| cluster["state"] == "unreachable")
        },
    )?;
    if shown["problem"]["code"] != "credential_expired" {
        bail!("it is said to be {}", shown["problem"]);
    }
    let mut audit = lab.tail_audit_log("c2")?;
    audit.read_new_entries()?;
    std::thread::sleep(Duration::from_secs(10));
    let asked = audit
        .read_new_entries()?
        .iter()
        .filter(|entry| {
            crate::lab::is_from_meshwright(entry) && entry["responseStatus"]["code"] == 401
        })
        .count();
    if asked > 20 {
        bail!("a dead credential was tried {asked} times in ten seconds");
    }
    let wrong = lab.kubeconfig_path("c1")?.display().to_string();
    match server.run_cli(&["cluster", "renew", "c2", "--kubeconfig", &wrong, "--wait"]) {
        Err(said) if said.to_string().contains("(another_cluster)") => {}
        other => bail!("another cluster's kubeconfig was taken: {other:?}"),
    }
    let right = lab.kubeconfig_path("c2")?.display().to_string();
    server.run_cli(&["cluster", "renew", "c2", "--kubeconfig", &right, "--wait"])?;
    let back = server.run_json(&["cluster", "get", "c2"])?;
    if back["state"] != "ready"
        || back["credential"]["serial"].as_i64() != serial.as_i64().map(|serial| serial + 1)
    {
        bail!("it did not come back: {back}");
    }
    Ok(())
}

/// Returns the name of our account in a cluster.
pub(crate) fn account_name(server: &DevServer, cluster: &str) -> Result<String> {
    let id = text_field(&server.run_json(&["cluster", "get", cluster])?, "id")?;
    Ok(id.replacen("cluster_", "meshwright-", 1))
}

/// Adds a second authority to a member's kubeconfig, as in the middle of a rotation of the
/// cluster's CA. istiod reads the file of the config cluster only when it starts, so every istiod
/// is restarted; istiod 1.25.1 reloads the file of the other member while it runs.
pub(super) fn check_new_authority(lab: &Lab, server: &DevServer, dir: &Path) -> Result<()> {
    let mesh = mesh_namespace(server)?;
    for (member, secret, key, restarts) in [
        ("c2", "istio-remote-secret-c2", "c2", false),
        ("c1", "istio-kubeconfig-1-25-1", "config", true),
    ] {
        let before = istiod_restarts(lab, &mesh)?;
        let (file, authorities) = write_two_authorities(lab, member, dir)?;
        server.run_cli(&[
            "cluster",
            "renew",
            member,
            "--kubeconfig",
            &file,
            "--overlap-seconds",
            "0",
            "--wait",
        ])?;
        let held = wait_until(
            "control planes are told the new authority",
            CREDENTIAL_TIMEOUT,
            || {
                let secret = lab.list_objects(
                    "hosting",
                    &[
                        "secrets",
                        "-n",
                        &mesh,
                        "--field-selector",
                        &format!("metadata.name={secret}"),
                    ],
                );
                let kubeconfig =
                    decode_base64(secret.ok()?.first()?["data"][key].as_str()?).ok()?;
                kubeconfig.contains(&authorities).then_some(kubeconfig)
            },
        )?;
        drop(held);
        if restarts {
            wait_until("every istiod was restarted", CREDENTIAL_TIMEOUT, || {
                let now = istiod_restarts(lab, &mesh).ok()?;
                (now.len() == before.len() && now.keys().all(|uid| !before.contains_key(uid)))
                    .then_some(())
            })?;
        } else if istiod_restarts(lab, &mesh)? != before {
            bail!("istiods were restarted for {member}");
        }
        let mut newcomers = 0;
        wait_until("istiod writes into the member", CREDENTIAL_TIMEOUT, || {
            newcomers += 1;
            check_istiod_writes(lab, member, &format!("rerouted-{newcomers}")).ok()
        })?;
    }
    Ok(())
}

/// Writes a member's kubeconfig with its own authority and the one of the hosting cluster. Returns
/// the file and both authorities in base64.
fn write_two_authorities(lab: &Lab, member: &str, dir: &Path) -> Result<(String, String)> {
    use base64::Engine as _;
    const FIELD: &str = "certificate-authority-data: ";
    let authority = |text: &str| -> Result<String> {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(FIELD));
        line.map(str::to_owned)
            .context("a kubeconfig has no authority")
    };
    let read = |cluster: &str| {
        let path = lab.kubeconfig_path(cluster)?;
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let text = read(member)?;
    let (own, other) = (authority(&text)?, authority(&read("hosting")?)?);
    let both = format!("{}{}", decode_base64(&own)?, decode_base64(&other)?);
    let both = base64::engine::general_purpose::STANDARD.encode(both);
    let file = dir.join(format!("{member}-two-authorities.yaml"));
    std::fs::write(&file, text.replace(&own, &both))?;
    Ok((file.display().to_string(), both))
}

fn decode_base64(text: &str) -> Result<String> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text)?;
    Ok(String::from_utf8(bytes)?)
}

/// Returns the name and the restarts of every istiod pod by its uid.
fn istiod_restarts(lab: &Lab, mesh: &str) -> Result<BTreeMap<String, String>> {
    let pods = lab.list_objects("hosting", &["pods", "-n", mesh])?;
    let row = |pod: &Value| {
        let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
        (
            pod["metadata"]["uid"].to_string(),
            format!("{} restarted {restarts} times", pod["metadata"]["name"]),
        )
    };
    Ok(pods.iter().map(row).collect())
}

/// Returns the names of the Secrets that our tokens are bound to.
fn list_token_secrets(lab: &Lab, member: &str, namespace: &str) -> Result<Vec<String>> {
    let secrets = lab.list_objects(
        member,
        &["secrets", "-n", namespace, "-l", "meshwright.dev/serial"],
    )?;
    secrets
        .iter()
        .map(|secret| text_field(&secret["metadata"], "name"))
        .collect()
}

fn read_token(lab: &Lab, mesh: &str, secret: &str) -> Result<String> {
    let path = [
        "get",
        "secret",
        secret,
        "-n",
        mesh,
        "-o",
        "jsonpath={.data.token}",
    ];
    lab.run_kubectl("hosting", &path)
        .map(|token| token.trim().to_owned())
}

/// Checks that the API server does not accept a token any more; the token is in base64, as Secrets
/// hold it.
fn check_token_dead(lab: &Lab, member: &str, token: &str) -> Result<()> {
    let token = decode_base64(token)?;
    let review = serde_json::json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": token } });
    let file = std::env::temp_dir().join(format!("meshwright-review-{}", std::process::id()));
    std::fs::write(&file, review.to_string())?;
    let answer = lab.run_kubectl(
        member,
        &["create", "-o", "json", "-f", &file.display().to_string()],
    );
    std::fs::remove_file(&file)?;
    let answer: Value = serde_json::from_str(&answer?)?;
    if answer["status"]["authenticated"] == true {
        bail!("{member} still takes the former token");
    }
    Ok(())
}
