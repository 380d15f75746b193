//! Tests the roll-out of an upgrade as a resource: its waves follow one another with a wait between
//! them, it is paused in the second one, and one workload is tried again.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::rollback::{MIDDLE_RESTART_STEP, check_pause_holds};
use super::{NEW_RELEASE, OLD_RELEASE, apply_verb, text_field};
use crate::Result;
use crate::assertions::{assert_revision_gone, assert_sidecars};
use crate::lab::Lab;
use crate::server::DevServer;
use crate::worker::PausableLabWorker;

const STATE_TIMEOUT: Duration = Duration::from_mins(3);
/// Waves of the policy. The last wave, which is not listed, has what is left in the first member.
const WAVES: [&str; 2] = ["namespaces=shop soak=4s", "clusters=c2"];
/// Seconds between the first wave and the second one.
const SOAK_SECONDS: i64 = 4;
/// Deployment of the second wave that its owner has paused.
const PAUSED_WORKLOAD: &str = "deployment/web";

/// Rolls an upgrade out in waves, and back.
pub(super) fn check_waves(lab: &Lab, server: &DevServer, worker: &PausableLabWorker) -> Result<()> {
    let pause = ["rollout", "pause", "-n", "billing", PAUSED_WORKLOAD];
    lab.run_kubectl("c2", &pause)?;
    let upgrade = plan_in_waves(server)?;
    apply_verb(server, "acknowledge", &upgrade, "verifying")?;
    let held = worker.pause_before(MIDDLE_RESTART_STEP, || {
        server.run_cli(&["upgrade", "promote", &upgrade]).map(drop)
    })?;
    check_pause_holds(lab, server, &upgrade, held)?;
    let rollout = text_field(
        &server.run_json(&["upgrade", "get", &upgrade])?,
        "operation_id",
    )?;
    check_counts(server, &rollout, [(0, "pending", 0), (2, "done", 0)])?;
    server.run_cli(&["rollout", "resume", &rollout])?;
    let stopped = server.wait_for_state(&upgrade, "paused", STATE_TIMEOUT)?;
    let problem = stopped["problem"].to_string();
    if !problem.contains("rollout_partial") || !problem.contains("billing/deployment/web in c2") {
        bail!("the second wave did not name the workload that it left: {problem}");
    }
    check_counts(server, &rollout, [(1, "excluded", 1), (2, "done", 0)])?;
    let resume = ["rollout", "resume", "-n", "billing", PAUSED_WORKLOAD];
    lab.run_kubectl("c2", &resume)?;
    let left = list_items(server, &rollout, &["--state", "excluded"])?;
    let number = left
        .first()
        .and_then(|item| item["number"].as_i64())
        .context("no workload is excluded")?
        .to_string();
    server.run_cli(&["rollout", "retry", &rollout, "--item", &number])?;
    server.wait_for_state(&upgrade, "holding", STATE_TIMEOUT)?;
    assert_sidecars(lab, NEW_RELEASE.1, NEW_RELEASE.2)?;
    check_order(&list_items(server, &rollout, &["--state", "done"])?)?;
    apply_verb(server, "rollback", &upgrade, "rolled_back")?;
    assert_sidecars(lab, OLD_RELEASE.1, OLD_RELEASE.2)?;
    assert_revision_gone(lab, NEW_RELEASE.1)
}

/// Plans an upgrade in waves. Its precheck warns of the workload that is paused.
fn plan_in_waves(server: &DevServer) -> Result<String> {
    let mut plan = vec!["upgrade", "plan", "demo", "--version", NEW_RELEASE.0];
    plan.extend(["--strategy", "canary", "--hold-seconds", "3600"]);
    plan.extend(WAVES.iter().flat_map(|wave| ["--wave", *wave]));
    let upgrade = text_field(&server.run_json(&plan)?, "id")?;
    server.run_cli(&["upgrade", "start", &upgrade])?;
    server.wait_for_state(&upgrade, "blocked", STATE_TIMEOUT)?;
    Ok(upgrade)
}

/// Checks the number of workloads in a state, for two waves by their index.
fn check_counts(
    server: &DevServer,
    rollout: &str,
    expected: [(usize, &str, i64); 2],
) -> Result<()> {
    let shown = server.run_json(&["rollout", "get", rollout])?;
    for (wave, state, count) in expected {
        if shown["waves"][wave]["counts"][state] != count {
            bail!("wave {wave} has not {count} workloads {state}: {shown:#}");
        }
    }
    Ok(())
}

fn list_items(server: &DevServer, rollout: &str, filter: &[&str]) -> Result<Vec<Value>> {
    let list = [&["rollout", "items", rollout], filter].concat();
    let shown = server.run_json(&list)?;
    let items = shown["items"].as_array().cloned();
    items.context("the answer has no items")
}

/// Checks that each wave began when the one before it had ended, the second one after the wait.
fn check_order(items: &[Value]) -> Result<()> {
    let at = |item: &Value, field: &str| -> Result<jiff::Timestamp> {
        Ok(text_field(item, field)?.parse()?)
    };
    let of_wave = |number: i64| items.iter().filter(move |item| item["wave"] == number);
    for (wave, soak) in [(1, SOAK_SECONDS), (2, 0)] {
        let ends: Vec<_> = of_wave(wave)
            .map(|item| at(item, "ended_at"))
            .collect::<Result<_>>()?;
        let begins: Vec<_> = of_wave(wave + 1)
            .map(|item| at(item, "started_at"))
            .collect::<Result<_>>()?;
        let (last, first) = (ends.iter().max(), begins.iter().min());
        let (last, first) = last.zip(first).context("a wave has no workload")?;
        let between = first.duration_since(*last).as_secs();
        if between < soak {
            bail!("wave {wave} ended at {last}, and the next one began at {first}");
        }
    }
    println!("  {} workloads, wave after wave", items.len());
    Ok(())
}
