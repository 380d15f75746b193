//! Tests rollbacks: takes an upgrade to a stage and back, and compares every object of every
//! cluster.

use std::time::Duration;

use super::{NEW_RELEASE, OLD_RELEASE, apply_verb, plan_upgrade};
use crate::Result;
use crate::lab::{Lab, accepted, ours, until};
use crate::server::Server;
use crate::story::{carries, differences, is_gone};
use crate::worker::{Holdable, Step};

/// Stages that an upgrade is rolled back from.
pub(crate) const STAGES: [&str; 5] = ["deployed", "moved", "promoting", "rolling", "holding"];
/// Workload whose pods are created again while the promotion is split. The upgrade never patched
/// it, so the rollback has no former template to restore; it restarts the workload and leaves its
/// stamp.
const STRAY: &str = "shop/web";
/// Step before which a promotion is split: the tags of the first member have moved, and those of
/// the second have not.
pub(crate) const SECOND_TAG: Step = Step {
    kind: "promote",
    title: "tag default in c2",
};
/// First workload of the second member: every workload before it has been restarted or is about to
/// be.
const MIDDLE: Step = Step {
    kind: "roll",
    title: "restart billing/deployment/api in c2",
};
const LIMIT: Duration = Duration::from_secs(90);

/// Takes an upgrade to a stage and rolls it back, and compares every object in every cluster.
pub(crate) fn from(lab: &Lab, server: &Server, worker: &Holdable, stage: &str) -> Result<()> {
    settle(lab)?;
    let before = lab.dump()?;
    let upgrade = plan_upgrade(server, NEW_RELEASE.0, "canary", "3600")?;
    match stage {
        "moved" => {
            server.watch(&[
                "upgrade",
                "move",
                &upgrade,
                "--namespace",
                "c1/shop",
                "--wait",
            ])?;
        }
        "promoting" => split(lab, server, worker, &upgrade)?,
        "rolling" => half_rolled(lab, server, worker, &upgrade)?,
        "holding" => silent_member(lab, server, &upgrade)?,
        _ => {}
    }
    apply_verb(server, "rollback", &upgrade, "rolled_back")?;
    carries(lab, OLD_RELEASE.1, OLD_RELEASE.2)?;
    is_gone(lab, NEW_RELEASE.1)?;
    settle(lab)?;
    let stray: &[&str] = if stage == "promoting" { &[STRAY] } else { &[] };
    let differs = differences(&before, &lab.dump()?, stray);
    if differs.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "{} lines differ:\n{}",
            differs.len(),
            shorten(&differs)
        ))
    }
}

/// Stops a member before the promotion. All members are checked before the first tag moves, so the
/// silent one stops the promotion and no tag has moved.
fn silent_member(lab: &Lab, server: &Server, upgrade: &str) -> Result<()> {
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
    let state = server.ask(&["upgrade", "get", upgrade])?;
    if stopped.is_none()
        || state["problem"]["code"] != "cluster_unreachable"
        || tags? != OLD_RELEASE.1
    {
        return Err(format!(
            "the promotion was not stopped as it should be: {state}"
        ));
    }
    until("the member answers again", Duration::from_mins(1), || {
        lab.get("c2", &["nodes"]).ok()
    })?;
    apply_verb(server, "retry", upgrade, "holding")
}

/// Stops the second member after the tags of the first have moved. Pods that are created meanwhile
/// in the first member get the new revision.
fn split(lab: &Lab, server: &Server, worker: &Holdable, upgrade: &str) -> Result<()> {
    let held = worker.before(SECOND_TAG, || {
        server.cli(&["upgrade", "promote", upgrade]).map(drop)
    })?;
    let stopped = lab.stop_process("c2/kube-apiserver")?;
    drop(held);
    let paused = server.await_state(upgrade, "paused", LIMIT)?;
    if paused["problem"]["code"] != "tag_split" {
        return Err(format!(
            "a member was lost in the middle of a promotion, and the upgrade says {}",
            paused["problem"]
        ));
    }
    let retired = server
        .cli(&["upgrade", "retire", upgrade])
        .err()
        .unwrap_or_default();
    if !retired.contains("(invalid_transition)") {
        return Err(format!("the old revision is not protected: {retired}"));
    }
    drop(stopped);
    until("the member answers again", LIMIT, || {
        lab.get("c2", &["nodes"]).ok()
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
            return Err(format!(
                "the tag default of {member} points to {found}, not to {revision}"
            ));
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
    until("a pod of the mixed window is there", LIMIT, || {
        let pods = lab
            .get("c1", &["pods", "-n", "shop", "-l", "app=web"])
            .ok()?;
        pods.iter()
            .any(|pod| pod["metadata"]["annotations"]["istio.io/rev"] == NEW_RELEASE.1)
            .then_some(())
    })
}

/// Pauses in the middle of the roll-out. After the pause is visible, no cluster may accept another
/// patch from us.
fn half_rolled(lab: &Lab, server: &Server, worker: &Holdable, upgrade: &str) -> Result<()> {
    let held = worker.before(MIDDLE, || {
        server.cli(&["upgrade", "promote", upgrade]).map(drop)
    })?;
    server.cli(&["upgrade", "pause", upgrade])?;
    drop(held);
    server.await_state(upgrade, "paused", LIMIT)?;
    let mut audits = [lab.audit("c1")?, lab.audit("c2")?, lab.audit("hosting")?];
    std::thread::sleep(Duration::from_secs(2));
    for audit in &mut audits {
        let late = audit
            .fresh()?
            .into_iter()
            .find(|entry| ours(entry) && accepted(entry) && entry["verb"] == "patch");
        if let Some(entry) = late {
            return Err(format!(
                "a patch was accepted after the pause was visible: {}",
                entry["requestURI"]
            ));
        }
    }
    Ok(())
}

/// Waits until two dumps are equal, so that later dumps can be compared.
pub(super) fn settle(lab: &Lab) -> Result<()> {
    until("the lab has settled", Duration::from_mins(1), || {
        let first = lab.dump().ok()?;
        std::thread::sleep(Duration::from_millis(700));
        (first == lab.dump().ok()?).then_some(())
    })
}

fn shorten(lines: &[String]) -> String {
    lines
        .iter()
        .take(12)
        .map(|line| line.chars().take(1500).collect::<String>())
        .collect::<Vec<_>>()
        .join("\n")
}
