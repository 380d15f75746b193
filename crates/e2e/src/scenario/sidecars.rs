//! Tests with real Envoys: how the service reports them, and that an Envoy on the old revision
//! stops the retirement.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;

use super::retirement::WaitingRetirement;
use super::{LabRelease, apply_verb, plan_upgrade, text_field};
use crate::Result;
use crate::assertions::{assert_revision_gone, assert_sidecars};
use crate::lab::{Lab, wait_until};
use crate::server::DevServer;

const STATE_TIMEOUT: Duration = Duration::from_mins(1);
/// Envoys in the lab: `deploy/samples.yaml` has annotated Deployments with two pods in each of two
/// members.
const EXPECTED_ENVOYS: usize = 4;

/// A pod that no workload owns, so Meshwright cannot move it.
const LEGACY_POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"legacy","namespace":"billing",
"annotations":{"lab.meshwright.dev/proxy":"envoy"}},"spec":{"terminationGracePeriodSeconds":1,"containers":[{"name":"app","image":"registry.example/legacy:1"}]}}"#;

fn list_proxies(server: &DevServer) -> Result<Vec<Value>> {
    let seen = server.run_json(&["mesh", "proxies", "demo"])?;
    Ok(seen["proxies"].as_array().cloned().unwrap_or_default())
}

/// Waits until every Envoy is connected to the wanted revision, in sync and of that revision's
/// version; returns the number of Envoys.
pub(crate) fn wait_for_envoys(server: &DevServer, wanted: LabRelease) -> Result<usize> {
    let version = wanted.2.rsplit(':').next().unwrap_or_default();
    let fits = |proxy: &&Value| {
        proxy["revision"] == wanted.1
            && proxy["version"] == version
            && proxy["synced"] == true
            && proxy["ghost"] == false
    };
    let all = || {
        let seen = list_proxies(server).ok()?;
        (seen.len() == EXPECTED_ENVOYS && seen.iter().filter(fits).count() == EXPECTED_ENVOYS)
            .then_some(EXPECTED_ENVOYS)
    };
    wait_until("every Envoy is in sync", STATE_TIMEOUT, all).map_err(|error| {
        anyhow!(
            "{error:#}; the proxies are {}",
            Value::from(list_proxies(server).unwrap_or_default())
        )
    })
}

/// Leaves one Envoy on the old revision: it must block the retirement, which names it, until its
/// pod is created again. Uses of other kinds block it as well.
pub(crate) fn check_left_behind(
    lab: &Lab,
    server: &DevServer,
    dir: &std::path::Path,
    wanted: LabRelease,
) -> Result<()> {
    let manifest = dir.join("legacy.json");
    std::fs::write(&manifest, LEGACY_POD)?;
    let manifest = manifest.display().to_string();
    lab.run_kubectl("c1", &["apply", "-f", &manifest])?;
    let blocked = plan_upgrade(server, wanted.0, "canary", "3600")
        .err()
        .context("a pod that nothing can move was not reported")?;
    let upgrade = text_field(
        &server.run_json(&["upgrade", "list", "demo"])?["items"][0],
        "id",
    )?;
    apply_verb(server, "acknowledge", &upgrade, "verifying")
        .map_err(|error| anyhow!("{error:#} (after {blocked})"))?;
    // No restart of ours moves the pod, so the roll-out names it and waits for a person.
    if apply_verb(server, "promote", &upgrade, "holding").is_ok() {
        bail!("the roll-out left a pod behind and did not say so");
    }
    let left = server.run_json(&["upgrade", "get", &upgrade])?["problem"].to_string();
    if !left.contains("rollout_partial") || !left.contains("pod billing/legacy in c1") {
        bail!("the roll-out did not name the pod that it left: {left}");
    }
    apply_verb(server, "skip", &upgrade, "holding")?;
    server.run_cli(&["upgrade", "retire", &upgrade])?;
    let waits = || {
        let operation = text_field(
            &server.run_json(&["upgrade", "get", &upgrade]).ok()?,
            "operation_id",
        )
        .ok()?;
        let known = server.run_json(&["operation", "get", &operation]).ok()?;
        let reason = known["waiting_for"].as_str()?.to_owned();
        (reason.contains("proxy legacy.billing") && reason.contains("pod billing/legacy in c1"))
            .then_some(reason)
    };
    println!(
        "  {}",
        wait_until(
            "the retirement names the Envoy that is left",
            STATE_TIMEOUT,
            waits
        )?
    );
    let retirement = WaitingRetirement {
        lab,
        server,
        dir,
        upgrade: &upgrade,
        new_revision: wanted.1,
    };
    retirement.check_each_use(|| {
        lab.run_kubectl(
            "c1",
            &["delete", "pod", "-n", "billing", "legacy", "--wait"],
        )?;
        lab.run_kubectl("c1", &["apply", "-f", &manifest]).map(drop)
    })?;
    server.wait_for_state(&upgrade, "succeeded", STATE_TIMEOUT)?;
    let moved = || {
        let seen = list_proxies(server).ok()?;
        seen.iter()
            .any(|proxy| proxy["proxy"] == "legacy.billing" && proxy["revision"] == wanted.1)
            .then_some(())
    };
    wait_until(
        "the Envoy that was left is on the new revision",
        STATE_TIMEOUT,
        moved,
    )?;
    lab.run_kubectl(
        "c1",
        &["delete", "pod", "-n", "billing", "legacy", "--wait"],
    )?;
    assert_sidecars(lab, wanted.1, wanted.2)?;
    assert_revision_gone(lab, super::OLD_RELEASE.1)
}
