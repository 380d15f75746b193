//! Tests with real Envoys: how the service reports them, and that an Envoy on the old revision
//! stops the retirement.

use std::time::Duration;

use serde_json::Value;

use super::{LabRelease, apply_verb, plan_upgrade, text_field};
use crate::Result;
use crate::lab::{Lab, until};
use crate::server::Server;
use crate::story::{carries, is_gone};

const LIMIT: Duration = Duration::from_mins(1);
/// Envoys in the lab: `deploy/samples.yaml` has annotated Deployments with two pods in each of two
/// members.
const ENVOYS: usize = 4;

/// A pod that no workload owns, so Meshwright cannot move it.
const LEGACY: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"legacy","namespace":"billing",
"annotations":{"lab.meshwright.dev/proxy":"envoy"}},"spec":{"terminationGracePeriodSeconds":1,"containers":[{"name":"app","image":"registry.example/legacy:1"}]}}"#;

fn proxies(server: &Server) -> Result<Vec<Value>> {
    let seen = server.ask(&["mesh", "proxies", "demo"])?;
    Ok(seen["proxies"].as_array().cloned().unwrap_or_default())
}

/// Waits until every Envoy is connected to the wanted revision, in sync and of that revision's
/// version; returns the number of Envoys.
pub(crate) fn connected(server: &Server, wanted: LabRelease) -> Result<usize> {
    let version = wanted.2.rsplit(':').next().unwrap_or_default();
    let fits = |proxy: &&Value| {
        proxy["revision"] == wanted.1
            && proxy["version"] == version
            && proxy["synced"] == true
            && proxy["ghost"] == false
    };
    let all = || {
        let seen = proxies(server).ok()?;
        (seen.len() == ENVOYS && seen.iter().filter(fits).count() == ENVOYS).then_some(ENVOYS)
    };
    until("every Envoy is in sync", LIMIT, all).map_err(|error| {
        format!(
            "{error}; the proxies are {}",
            Value::from(proxies(server).unwrap_or_default())
        )
    })
}

/// Leaves one Envoy on the old revision: it must block the retirement, which names it, until its
/// pod is created again.
pub(crate) fn left_behind(
    lab: &Lab,
    server: &Server,
    dir: &std::path::Path,
    wanted: LabRelease,
) -> Result<()> {
    let manifest = dir.join("legacy.json");
    std::fs::write(&manifest, LEGACY).map_err(|error| error.to_string())?;
    let manifest = manifest.display().to_string();
    lab.run_kubectl("c1", &["apply", "-f", &manifest])?;
    let blocked = plan_upgrade(server, wanted.0, "canary", "3600")
        .err()
        .ok_or("a pod that nothing can move was not reported")?;
    let upgrade = text_field(&server.ask(&["upgrade", "list", "demo"])?["items"][0], "id")?;
    apply_verb(server, "acknowledge", &upgrade, "verifying")
        .map_err(|error| format!("{error} (after {blocked})"))?;
    apply_verb(server, "promote", &upgrade, "holding")?;
    server.cli(&["upgrade", "retire", &upgrade])?;
    let waits = || {
        let operation = text_field(
            &server.ask(&["upgrade", "get", &upgrade]).ok()?,
            "operation_id",
        )
        .ok()?;
        let known = server.ask(&["operation", "get", &operation]).ok()?;
        let reason = known["waiting_for"].as_str()?.to_owned();
        (reason.contains("proxy legacy.billing") && reason.contains("pod billing/legacy in c1"))
            .then_some(reason)
    };
    println!(
        "  {}",
        until("the retirement names the Envoy that is left", LIMIT, waits)?
    );
    lab.run_kubectl(
        "c1",
        &["delete", "pod", "-n", "billing", "legacy", "--wait"],
    )?;
    lab.run_kubectl("c1", &["apply", "-f", &manifest])?;
    server.await_state(&upgrade, "succeeded", LIMIT)?;
    let moved = || {
        let seen = proxies(server).ok()?;
        seen.iter()
            .any(|proxy| proxy["proxy"] == "legacy.billing" && proxy["revision"] == wanted.1)
            .then_some(())
    };
    until(
        "the Envoy that was left is on the new revision",
        LIMIT,
        moved,
    )?;
    lab.run_kubectl(
        "c1",
        &["delete", "pod", "-n", "billing", "legacy", "--wait"],
    )?;
    carries(lab, wanted.1, wanted.2)?;
    is_gone(lab, super::OLD_RELEASE.1)
}
