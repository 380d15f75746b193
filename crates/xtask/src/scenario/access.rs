//! Tests keys, labels, tenants and the audit log through the command line.

use std::path::Path;

use super::text_field;
use crate::Result;
use crate::server::{Client, Server};

pub(super) fn count(client: &Client, arguments: &[&str]) -> Result<usize> {
    let list = client.ask(arguments)?;
    list["items"]
        .as_array()
        .map(Vec::len)
        .ok_or_else(|| format!("{} is no list", arguments.join(" ")))
}

/// Runs a command, and checks that it is refused with this problem code.
pub(super) fn refused(client: &Client, arguments: &[&str], code: &str) -> Result<()> {
    match client.cli(arguments) {
        Err(said) if said.contains(&format!("({code})")) => Ok(()),
        other => Err(format!(
            "{} should have been refused with {code}: {other:?}",
            arguments.join(" ")
        )),
    }
}

pub(super) fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Result<()> {
    if found == wanted {
        Ok(())
    } else {
        Err(format!("{what}: {found:?}, not {wanted:?}"))
    }
}

pub(super) fn by_command_line(server: &Server, dir: &Path) -> Result<()> {
    labels(server)?;
    keys(server, dir)?;
    tenants(server)?;
    audit(server, dir)
}

fn labels(server: &Server) -> Result<()> {
    server.cli(&[
        "mesh",
        "change",
        "demo",
        "--label",
        "team=payments",
        "--protect",
        "true",
    ])?;
    equal(
        "meshes of the team",
        count(server, &["mesh", "list", "--selector", "team=payments"])?,
        1,
    )?;
    equal(
        "meshes of others",
        count(server, &["mesh", "list", "--selector", "team!=payments"])?,
        0,
    )?;
    refused(server, &["mesh", "delete", "demo"], "deletion_protected")?;
    server
        .cli(&["mesh", "change", "demo", "--protect", "false"])
        .map(drop)
}

/// Checks that a key with the scope of one mesh sees only that mesh, and nothing after it was
/// revoked.
fn keys(server: &Server, dir: &Path) -> Result<()> {
    let mesh = text_field(&server.ask(&["mesh", "get", "demo"])?, "id")?;
    let made = server.ask(&[
        "key", "create", "narrow", "--role", "viewer", "--scope", &mesh,
    ])?;
    let file = dir.join("narrow-key");
    std::fs::write(&file, text_field(&made, "secret")?).map_err(|error| error.to_string())?;
    let narrow = server.client().with_key(file);
    equal("its own mesh", count(&narrow, &["mesh", "list"])?, 1)?;
    equal(
        "clusters, which are not its own",
        count(&narrow, &["cluster", "list"])?,
        0,
    )?;
    refused(&narrow, &["key", "list"], "role_missing")?;
    server.cli(&["key", "revoke", &text_field(&made, "id")?])?;
    refused(&narrow, &["mesh", "list"], "unauthenticated")
}

/// Checks that the operator of the service sees the tenants, but nothing inside them.
fn tenants(server: &Server) -> Result<()> {
    let operator = server
        .client()
        .with_key(server.state_dir().join("operator-key"));
    equal("tenants", count(&operator, &["tenant", "list"])?, 1)?;
    equal(
        "meshes of the operators' own",
        count(&operator, &["mesh", "list"])?,
        0,
    )?;
    refused(server, &["tenant", "list"], "role_missing")
}

/// Checks that the audit log agrees with its anchors and contains the actions of this run.
fn audit(server: &Server, dir: &Path) -> Result<()> {
    let anchors = dir.join("anchors");
    std::fs::write(&anchors, server.cli(&["audit", "anchor"])?)
        .map_err(|error| error.to_string())?;
    let said = server.cli(&[
        "audit",
        "verify",
        "--anchors",
        &anchors.display().to_string(),
    ])?;
    equal(
        "the log is whole, as anchored",
        said.contains("whole: ") && said.contains("1 anchors agree"),
        true,
    )?;
    let log = server.cli(&["audit", "export"])?;
    for action in [
        "registerCluster",
        "createMesh",
        "changeMesh",
        "revokeApiKey",
        "cluster.write.done",
    ] {
        equal(action, log.contains(&format!("\"{action}\"")), true)?;
    }
    Ok(())
}
