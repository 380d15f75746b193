//! Tests a release whose charts come from an OCI registry, as Istio publishes them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::access::{assert_equal, assert_refused};
use crate::lab::Lab;
use crate::server::DevServer;
use crate::tls_program::TlsProgram;
use crate::{Result, run_command};

/// Version that the catalogue does not have before this test.
const NEW_VERSION: &str = "1.27.9.9";
/// Community version whose charts are pushed to the registry.
const CHART_VERSION: &str = "1.27.9";

pub(super) fn check_registry_import(lab: &Lab, server: &DevServer, dir: &Path) -> Result<()> {
    let registry = TlsProgram::start("registry", dir)?;
    let charts = format!("oci://{}/charts", registry.address);
    let helm = lab.helm_binary()?;
    for chart in ["base", "istiod"] {
        let run = |arguments: &[&str]| {
            run_command(
                Command::new(&helm)
                    .args(arguments)
                    .env("SSL_CERT_FILE", &registry.certificate),
            )
        };
        let (from, into) = (
            format!("{}/{chart}", lab.charts_path(CHART_VERSION)?),
            dir.display().to_string(),
        );
        run(&[
            "package",
            &from,
            "--version",
            CHART_VERSION,
            "--destination",
            &into,
        ])?;
        run(&[
            "push",
            &format!("{into}/{chart}-{CHART_VERSION}.tgz"),
            &charts,
        ])?;
    }
    let key = server.state_dir().join("operator-key");
    let operator = server
        .clone_client()
        .with_key(key)
        .with_ca_file(registry.certificate.clone());
    let import = [
        "release",
        "import",
        NEW_VERSION,
        "--charts",
        &charts,
        "--helm",
        &helm,
        "--hub",
        "lab",
    ];
    let known = [
        "--released-on",
        "2026-05-04",
        "--channel",
        "rapid",
        "--minimum-edition",
        "enterprise",
    ];
    match operator.run_cli(&[&import[..], &["--chart-version", "1.2.3"]].concat()) {
        Err(said)
            if said.to_string().contains("did not pull") && said.to_string().contains("1.2.3") => {}
        other => bail!("charts that are not there: {other:?}"),
    }
    let made = operator.run_json(&[&import[..], &known].concat())?;
    assert_equal("its tag", made["tag"].as_str(), Some(CHART_VERSION))?;
    assert_equal(
        "its channels",
        &made["channels"],
        &serde_json::json!(["rapid"]),
    )?;
    assert_equal("it can be reached in place", is_reachable(server)?, true)?;
    operator.run_cli(&["release", "set", NEW_VERSION, "withdrawn"])?;
    assert_equal("it can still be reached", is_reachable(server)?, false)?;
    let create = [
        "mesh",
        "create",
        "late",
        "--version",
        NEW_VERSION,
        "--edition",
        "enterprise",
        "--cluster",
        "c1",
    ];
    assert_refused(server, &create, "version_refused")
}

/// Returns whether the mesh can reach the version now, directly by some strategy or over
/// intermediate versions.
fn is_reachable(server: &DevServer) -> Result<bool> {
    let options = server.run_json(&["mesh", "options", "demo"])?;
    let items = options["items"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let option = items
        .iter()
        .find(|option| option["version"] == NEW_VERSION)
        .context("it is not in the options")?;
    let direct = option["strategies"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|strategy| strategy["allowed"] == true);
    Ok(direct
        || option["path"]
            .as_array()
            .is_some_and(|path: &Vec<Value>| !path.is_empty()))
}
