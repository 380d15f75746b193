//! Tests keys, labels, tenants and the audit log through the command line.

use std::path::Path;

use anyhow::{Context as _, anyhow};

use super::text_field;
use crate::Result;
use crate::server::{CliClient, DevServer};

pub(super) fn count_items(client: &CliClient, arguments: &[&str]) -> Result<usize> {
    let list = client.run_json(arguments)?;
    list["items"]
        .as_array()
        .map(Vec::len)
        .with_context(|| format!("{} is no list", arguments.join(" ")))
}

/// Runs a command, and checks that it is refused with this problem code.
pub(super) fn assert_refused(client: &CliClient, arguments: &[&str], code: &str) -> Result<()> {
    match client.run_cli(arguments) {
        Err(said) if said.to_string().contains(&format!("({code})")) => Ok(()),
        other => Err(anyhow!(
            "{} should have been refused with {code}: {other:?}",
            arguments.join(" ")
        )),
    }
}

pub(super) fn assert_equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: T,
    wanted: T,
) -> Result<()> {
    if found == wanted {
        Ok(())
    } else {
        Err(anyhow!("{what}: {found:?}, not {wanted:?}"))
    }
}

pub(super) fn check_command_line(server: &DevServer, dir: &Path) -> Result<()> {
    check_labels(server)?;
    check_keys(server, dir)?;
    check_tenants(server)?;
    check_audit_log(server, dir)
}

fn check_labels(server: &DevServer) -> Result<()> {
    server.run_cli(&[
        "mesh",
        "change",
        "demo",
        "--label",
        "team=payments",
        "--protect",
        "true",
    ])?;
    assert_equal(
        "meshes of the team",
        count_items(server, &["mesh", "list", "--selector", "team=payments"])?,
        1,
    )?;
    assert_equal(
        "meshes of others",
        count_items(server, &["mesh", "list", "--selector", "team!=payments"])?,
        0,
    )?;
    assert_refused(server, &["mesh", "delete", "demo"], "deletion_protected")?;
    server
        .run_cli(&["mesh", "change", "demo", "--protect", "false"])
        .map(drop)
}

/// Checks that a key with the scope of one mesh sees only that mesh, and nothing after it was
/// revoked.
fn check_keys(server: &DevServer, dir: &Path) -> Result<()> {
    let mesh = text_field(&server.run_json(&["mesh", "get", "demo"])?, "id")?;
    let made = server.run_json(&[
        "key", "create", "narrow", "--role", "viewer", "--scope", &mesh,
    ])?;
    let file = dir.join("narrow-key");
    std::fs::write(&file, text_field(&made, "secret")?)?;
    let narrow = server.clone_client().with_key(file);
    assert_equal("its own mesh", count_items(&narrow, &["mesh", "list"])?, 1)?;
    assert_equal(
        "clusters, which are not its own",
        count_items(&narrow, &["cluster", "list"])?,
        0,
    )?;
    assert_refused(&narrow, &["key", "list"], "role_missing")?;
    server.run_cli(&["key", "revoke", &text_field(&made, "id")?])?;
    assert_refused(&narrow, &["mesh", "list"], "unauthenticated")
}

/// Checks that the operator of the service sees the tenants, but nothing inside them.
fn check_tenants(server: &DevServer) -> Result<()> {
    let operator = server
        .clone_client()
        .with_key(server.state_dir().join("operator-key"));
    assert_equal("tenants", count_items(&operator, &["tenant", "list"])?, 1)?;
    assert_equal(
        "meshes of the operators' own",
        count_items(&operator, &["mesh", "list"])?,
        0,
    )?;
    assert_refused(server, &["tenant", "list"], "role_missing")
}

/// Checks that the audit log agrees with its anchors and contains the actions of this run.
fn check_audit_log(server: &DevServer, dir: &Path) -> Result<()> {
    let anchors = dir.join("anchors");
    std::fs::write(&anchors, server.run_cli(&["audit", "anchor"])?)?;
    let said = server.run_cli(&[
        "audit",
        "verify",
        "--anchors",
        &anchors.display().to_string(),
    ])?;
    assert_equal(
        "the log is whole, as anchored",
        said.contains("whole: ") && said.contains("1 anchors agree"),
        true,
    )?;
    let log = server.run_cli(&["audit", "export"])?;
    for action in [
        "registerCluster",
        "createMesh",
        "changeMesh",
        "revokeApiKey",
        "cluster.write.done",
    ] {
        assert_equal(action, log.contains(&format!("\"{action}\"")), true)?;
    }
    Ok(())
}
