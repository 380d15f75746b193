//! Tests rollbacks: takes an upgrade to a stage and back, and compares every object of every
//! cluster.

use std::time::Duration;

use anyhow::{anyhow, bail};

use super::{NEW_RELEASE, OLD_RELEASE, apply_verb, plan_upgrade};
use crate::Result;
use crate::assertions::{assert_revision_gone, assert_sidecars, diff_dumps};
use crate::lab::{Lab, is_accepted, is_from_meshwright, wait_until};
use crate::server::DevServer;
use crate::worker::{PausableLabWorker, PauseGuard, StepSelector};

/// Stages that an upgrade is rolled back from, each with the title of its scenario.
pub(super) const ROLLBACK_STAGES: [(&str, &str); 5] = [
    ("rollback restores everything: deployed", "deployed"),
    ("rollback restores everything: moved", "moved"),
    ("rollback restores everything: promoting", "promoting"),
    ("rollback restores everything: rolling", "rolling"),
    ("rollback restores everything: holding", "holding"),
];
/// Workload whose pods are created again while the promotion is split. The upgrade never patched
/// it, so the rollback has no former template to restore; it restarts the workload and leaves its
/// stamp.
const STRAY_WORKLOAD: &str = "shop/web";
/// Step before which a promotion is split: the tags of the first member have moved, and those of
/// the second have not.
pub(crate) const SECOND_TAG_STEP: StepSelector = StepSelector {
    kind: "promote",
    title: "tag default in c2",
};
/// First workload of the second member: every workload before it has been restarted or is about to
/// be.
pub(super) const MIDDLE_RESTART_STEP: StepSelector = StepSelector {
    kind: "roll",
    title: "restart billing/deployment/api in c2",
};
const STATE_TIMEOUT: Duration = Duration::from_secs(90);

/// Takes an upgrade to a stage and rolls it back, and compares every object in every cluster.
pub(crate) fn check_rollback_from(
    lab: &Lab,
    server: &DevServer,
    worker: &PausableLabWorker,
    stage: &str,
) -> Result<()> {
    wait_until_settled(lab)?;
    let before = lab.dump_objects()?;
    let upgrade = plan_upgrade(server, NEW_RELEASE.0, "canary", "3600")?;
    match stage {
        "moved" => {
            server.run_with_progress(&[
                "upgrade",
                "move",
                &upgrade,
                "--namespace",
                "c1/shop",
                "--wait",
            ])?;
        }
        "promoting" => split_promotion(lab, server, worker, &upgrade)?,
        "rolling" => pause_mid_rollout(lab, server, worker, &upgrade)?,
        "holding" => check_silent_member(lab, server, &upgrade)?,
        _ => {}
    }
    apply_verb(server, "rollback", &upgrade, "rolled_back")?;
    assert_sidecars(lab, OLD_RELEASE.1, OLD_RELEASE.2)?;
    assert_revision_gone(lab, NEW_RELEASE.1)?;
    wait_until_settled(lab)?;
    let stray: &[&str] = if stage == "promoting" {
        &[STRAY_WORKLOAD]
    } else {
        &[]
    };
    let differs = diff_dumps(&before, &lab.dump_objects()?, stray);
    if differs.is_empty() {
        Ok(())
    } else {
        Err(anyhow!(
            "{} lines differ:\n{}",
            differs.len(),
            shorten_lines(&differs)
        ))
    }
}

/// Stops a member before the promotion. All members are checked before the first tag moves, so the
/// silent one stops the promotion and no tag has moved.
fn check_silent_member(lab: &Lab, server: &DevServer, upgrade: &str) -> Result<()> {
    let silence = lab.stop_process("c2/kube-apiserver")?;
    let stopped = apply_verb(server, "promote", upgrade, "holding").err();
    let tags = lab.run_kubectl(
        "c1",
        &[
            "get",
            "mutatingwebhookconfiguration",
            "istio-revision-tag-default",
            "-o",
            "jsonpath={.metadata.labels.istio\\.io/rev}",
        ],
    );
    drop(silence);
    let state = server.run_json(&["upgrade", "get", upgrade])?;
    if stopped.is_none()
        || state["problem"]["code"] != "cluster_unreachable"
        || tags? != OLD_RELEASE.1
    {
        bail!("the promotion was not stopped as it should be: {state}");
    }
    wait_until("the member answers again", Duration::from_mins(1), || {
        lab.list_objects("c2", &["nodes"]).ok()
    })?;
    apply_verb(server, "retry", upgrade, "holding")
}

/// Stops the second member after the tags of the first have moved. Pods that are created meanwhile
/// in the first member get the new revision.
fn split_promotion(
    lab: &Lab,
    server: &DevServer,
    worker: &PausableLabWorker,
    upgrade: &str,
) -> Result<()> {
    let held = worker.pause_before(SECOND_TAG_STEP, || {
        server.run_cli(&["upgrade", "promote", upgrade]).map(drop)
    })?;
    let stopped = lab.stop_process("c2/kube-apiserver")?;
    drop(held);
    let paused = server.wait_for_state(upgrade, "paused", STATE_TIMEOUT)?;
    if paused["problem"]["code"] != "tag_split" {
        bail!(
            "a member was lost in the middle of a promotion, and the upgrade says {}",
            paused["problem"]
        );
    }
    let retired = server
        .run_cli(&["upgrade", "retire", upgrade])
        .err()
        .map(|said| said.to_string())
        .unwrap_or_default();
    if !retired.contains("(invalid_transition)") {
        bail!("the old revision is not protected: {retired}");
    }
    drop(stopped);
    wait_until("the member answers again", STATE_TIMEOUT, || {
        lab.list_objects("c2", &["nodes"]).ok()
    })?;
    for (member, revision) in [("c1", NEW_RELEASE.1), ("c2", OLD_RELEASE.1)] {
        let tag = [
            "mutatingwebhookconfigurations",
            "istio-revision-tag-default",
            "-o",
            "jsonpath={.metadata.labels.istio\\.io/rev}",
        ];
        let found = lab.run_kubectl(member, &[&["get"], &tag[..]].concat())?;
        if found != revision {
            bail!("the tag default of {member} points to {found}, not to {revision}");
        }
    }
    // The upgrade has never patched this workload, so its pod stays on the new revision unless the
    // rollback reads live pods.
    lab.run_kubectl(
        "c1",
        &[
            "delete",
            "pod",
            "-n",
            "shop",
            "-l",
            "app=web",
            "--wait=false",
        ],
    )?;
    wait_until("a pod of the mixed window is there", STATE_TIMEOUT, || {
        let pods = lab
            .list_objects("c1", &["pods", "-n", "shop", "-l", "app=web"])
            .ok()?;
        pods.iter()
            .any(|pod| pod["metadata"]["annotations"]["istio.io/rev"] == NEW_RELEASE.1)
            .then_some(())
    })
}

/// Pauses in the middle of the roll-out. After the pause is visible, no cluster may accept another
/// patch from us.
fn pause_mid_rollout(
    lab: &Lab,
    server: &DevServer,
    worker: &PausableLabWorker,
    upgrade: &str,
) -> Result<()> {
    let held = worker.pause_before(MIDDLE_RESTART_STEP, || {
        server.run_cli(&["upgrade", "promote", upgrade]).map(drop)
    })?;
    check_pause_holds(lab, server, upgrade, held)
}

/// Pauses a roll-out whose worker is held at a write, lets the worker go on, and checks that no
/// cluster accepts another patch from us once the pause is visible.
pub(super) fn check_pause_holds(
    lab: &Lab,
    server: &DevServer,
    upgrade: &str,
    held: PauseGuard<'_>,
) -> Result<()> {
    server.run_cli(&["upgrade", "pause", upgrade])?;
    drop(held);
    server.wait_for_state(upgrade, "paused", STATE_TIMEOUT)?;
    let mut audits = [
        lab.tail_audit_log("c1")?,
        lab.tail_audit_log("c2")?,
        lab.tail_audit_log("hosting")?,
    ];
    std::thread::sleep(Duration::from_secs(2));
    for audit in &mut audits {
        let late = audit.read_new_entries()?.into_iter().find(|entry| {
            is_from_meshwright(entry) && is_accepted(entry) && entry["verb"] == "patch"
        });
        if let Some(entry) = late {
            bail!(
                "a patch was accepted after the pause was visible: {}",
                entry["requestURI"]
            );
        }
    }
    Ok(())
}

/// Waits until two dumps are equal, so that later dumps can be compared.
pub(super) fn wait_until_settled(lab: &Lab) -> Result<()> {
    wait_until("the lab has settled", Duration::from_mins(1), || {
        let first = lab.dump_objects().ok()?;
        std::thread::sleep(Duration::from_millis(700));
        (first == lab.dump_objects().ok()?).then_some(())
    })
}

fn shorten_lines(lines: &[String]) -> String {
    lines
        .iter()
        .take(12)
        .map(|line| line.chars().take(1500).collect::<String>())
        .collect::<Vec<_>>()
        .join("\n")
}
