//! Tests a release whose charts come from an OCI registry, as Istio publishes them.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::access::{equal, refused};
use crate::beside::Beside;
use crate::lab::Lab;
use crate::server::Server;
use crate::{Result, run_command};

/// Version that the catalogue does not have before this test.
const VERSION: &str = "1.27.9.9";
/// Community version whose charts are pushed to the registry.
const COMMUNITY: &str = "1.27.9";

pub(super) fn imported(lab: &Lab, server: &Server, dir: &Path) -> Result<()> {
    let registry = Beside::start("registry", dir)?;
    let charts = format!("oci://{}/charts", registry.address);
    let helm = lab.helm()?;
    for chart in ["base", "istiod"] {
        let run = |arguments: &[&str]| {
            run_command(
                Command::new(&helm)
                    .args(arguments)
                    .env("SSL_CERT_FILE", &registry.certificate),
            )
        };
        let (from, into) = (
            format!("{}/{chart}", lab.charts(COMMUNITY)?),
            dir.display().to_string(),
        );
        run(&[
            "package",
            &from,
            "--version",
            COMMUNITY,
            "--destination",
            &into,
        ])?;
        run(&["push", &format!("{into}/{chart}-{COMMUNITY}.tgz"), &charts])?;
    }
    let key = server.state_dir().join("operator-key");
    let operator = server
        .client()
        .with_key(key)
        .believing(registry.certificate.clone());
    let import = [
        "release", "import", VERSION, "--charts", &charts, "--helm", &helm, "--hub", "lab",
    ];
    let known = [
        "--released-on",
        "2026-05-04",
        "--channel",
        "rapid",
        "--minimum-edition",
        "enterprise",
    ];
    match operator.cli(&[&import[..], &["--chart-version", "1.2.3"]].concat()) {
        Err(said) if said.contains("did not pull") && said.contains("1.2.3") => {}
        other => return Err(format!("charts that are not there: {other:?}")),
    }
    let made = operator.ask(&[&import[..], &known].concat())?;
    equal("its tag", made["tag"].as_str(), Some(COMMUNITY))?;
    equal(
        "its channels",
        &made["channels"],
        &serde_json::json!(["rapid"]),
    )?;
    equal("it can be reached in place", reachable(server)?, true)?;
    operator.cli(&["release", "set", VERSION, "withdrawn"])?;
    equal("it can still be reached", reachable(server)?, false)?;
    let create = [
        "mesh",
        "create",
        "late",
        "--version",
        VERSION,
        "--edition",
        "enterprise",
        "--cluster",
        "c1",
    ];
    refused(server, &create, "version_refused")
}

/// Returns whether the mesh can reach the version now, directly by some strategy or over
/// intermediate versions.
fn reachable(server: &Server) -> Result<bool> {
    let options = server.ask(&["mesh", "options", "demo"])?;
    let items = options["items"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let option = items
        .iter()
        .find(|option| option["version"] == VERSION)
        .ok_or("it is not in the options")?;
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
