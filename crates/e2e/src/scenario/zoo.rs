//! Tests an upgrade of a mesh with odd workloads: a restart moves some of them, cannot move others,
//! and must not touch the rest. Pods are evicted at random meanwhile.
//!
//! The roll-out ends with the workloads that it left, each with a reason, and none of them stops
//! the others. The rollback from any stage ends with every live pod on the old revision.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use serde_json::Value;

use super::rollback::SECOND_TAG_STEP;
use super::start_state::SuiteLab;
use super::{NEW_RELEASE, OLD_RELEASE, apply_verb, text_field};
use crate::Result;
use crate::assertions::{
    MESHED_NAMESPACES, assert_revision_gone, assert_sidecars, restarts_per_workload,
};
use crate::availability_judge::judge_recording;
use crate::lab::{Lab, wait_until};
use crate::server::DevServer;

mod evictions;
mod odd_workloads;
mod pods;

use evictions::{EvictionLog, Evictor};
use odd_workloads::{Expectation, ODD_WORKLOADS, OddWorkload};
use pods::PodState;

/// Member that has the zoo.
const ZOO_CLUSTER: &str = "c1";
/// Namespaces of the zoo.
pub(super) const ZOO_NAMESPACES: [&str; 14] = [
    "legacy",
    "edge",
    "batch",
    "pinned",
    "fragile",
    "stream",
    "nodes",
    "halted",
    "data",
    "argo-like",
    "lonely",
    "scanned",
    "tight",
    "sandbox",
];
/// Webhook of others that refuses pods, in `tests/cases/dead-foreign-webhook-2.yaml`.
pub(super) const FOREIGN_WEBHOOK: &str = "image-scanner";
/// Restarts after which the roll-out is paused in its middle.
const RESTARTS_BEFORE_PAUSE: usize = 4;
/// Pods of the zoo that evictions bring to the new revision while the promotion is split.
const MIXED_PODS: usize = 3;

const SETTLE_TIMEOUT: Duration = Duration::from_secs(90);
const STATE_TIMEOUT: Duration = Duration::from_mins(1);
/// One workload takes 80 seconds, and others stand aside after a limit of 60 seconds.
const ROLLOUT_TIMEOUT: Duration = Duration::from_mins(4);

/// Returns the workload of the zoo that a pod of the first member belongs to.
fn workload_of(pod: &PodState) -> Option<&'static OddWorkload> {
    ODD_WORKLOADS
        .iter()
        .find(|odd| odd.namespace == pod.namespace && odd.owns_pod(&pod.name))
}

/// Stage of the upgrade that the rollback starts from.
#[derive(Debug, Clone, Copy)]
pub(super) enum RollbackStart {
    /// The tags of one member point to the new revision, and those of the other do not.
    SplitPromotion,
    /// Some workloads are restarted.
    MiddleOfRollout,
    /// The roll-out has ended, and has left some workloads.
    PartialRollout,
}

/// Takes an upgrade with the zoo to a stage and back, while pods are evicted at random.
pub(super) fn check_zoo(on: &SuiteLab, start: RollbackStart) -> Result<()> {
    let (lab, server) = (&on.lab, &on.server);
    let zoo = Zoo::open(lab)?;
    let unchangeable = pods::list_unchangeable_pods(lab)?;
    let recording = on.dir.join("zoo.jsonl");
    let recorder = lab.start_recording(&recording)?;
    let ((), evictions) = Evictor::new(lab, &on.dir)?
        .run_while_evicting(|| {
            let upgrade = deploy_canary(server)?;
            match start {
                RollbackStart::SplitPromotion => split_promotion(on, &upgrade)?,
                RollbackStart::MiddleOfRollout => stop_mid_rollout(lab, server, &upgrade)?,
                RollbackStart::PartialRollout => check_partial_rollout(lab, server, &upgrade)?,
            }
            wait_for_rollback(server, &upgrade)?;
            pods::check_revisions(lab, OLD_RELEASE, |_| false)?;
            assert_revision_gone(lab, NEW_RELEASE.1)
        })
        .map_err(|error| anyhow!("{error:#}\n{}", pods::describe_zoo(lab)))?;
    wait_until_complete(lab, |odd| odd.pods_after)?;
    pods::check_revisions(lab, OLD_RELEASE, |_| false)?;
    check_unchanged(lab, &unchangeable)?;
    drop(recorder);
    check_availability(&recording, &evictions)?;
    drop(zoo);
    assert_sidecars(lab, OLD_RELEASE.1, OLD_RELEASE.2).map(drop)
}

/// Plans a canary with the warnings accepted, and waits until the new revision is up.
fn deploy_canary(server: &DevServer) -> Result<String> {
    let planned = [
        "upgrade",
        "plan",
        "demo",
        "--version",
        NEW_RELEASE.0,
        "--strategy",
        "canary",
        "--hold-seconds",
        "3600",
    ];
    let upgrade = text_field(&server.run_json(&planned)?, "id")?;
    server.run_cli(&["upgrade", "start", &upgrade])?;
    server.wait_for_state(&upgrade, "blocked", STATE_TIMEOUT)?;
    apply_verb(server, "acknowledge", &upgrade, "verifying")?;
    Ok(upgrade)
}

/// Promotes, checks that the roll-out ends with the workloads that it left and with nothing else
/// undone, and starts the rollback.
fn check_partial_rollout(lab: &Lab, server: &DevServer, upgrade: &str) -> Result<()> {
    server.run_cli(&["upgrade", "promote", upgrade])?;
    let start = Instant::now();
    let ended = wait_until("the roll-out ends", ROLLOUT_TIMEOUT, || {
        let now = server.run_json(&["upgrade", "get", upgrade]).ok()?;
        (now["state"] == "paused" || now["state"] == "holding").then_some(now)
    })?;
    println!(
        "  {} after {} s: {}",
        ended["state"],
        start.elapsed().as_secs(),
        ended["problem"]
    );
    check_partial_problem(&ended)?;
    let left = |expected| matches!(expected, Expectation::Left(_));
    pods::check_revisions(lab, NEW_RELEASE, left)?;
    server.run_cli(&["upgrade", "rollback", upgrade]).map(drop)
}

/// Checks that the problem of a roll-out names exactly the workloads that it left, each with its
/// reason.
fn check_partial_problem(upgrade: &Value) -> Result<()> {
    let problem = &upgrade["problem"];
    if upgrade["state"] != "paused" || problem["code"] != "rollout_partial" {
        bail!(
            "the upgrade is {} with {problem}, and not paused with rollout_partial",
            upgrade["state"]
        );
    }
    let message = text_field(problem, "message")?.to_lowercase();
    let mut places: BTreeMap<usize, &OddWorkload> = BTreeMap::new();
    for odd in &ODD_WORKLOADS {
        let named = message.find(odd.name);
        match (odd.expected, named) {
            (Expectation::Left(_), Some(place)) => drop(places.insert(place, odd)),
            (Expectation::Left(_), None) => bail!("{} is not named in: {message}", odd.name),
            (_, Some(_)) => bail!("{} is named in: {message}", odd.name),
            (_, None) => {}
        }
    }
    let sample = MESHED_NAMESPACES.map(|namespace| format!("{namespace}/"));
    if let Some(named) = sample.iter().find(|named| message.contains(*named)) {
        bail!("a workload of {named} is named in: {message}");
    }
    // The reason of a workload stands between its name and the name of the next one.
    for (place, odd) in &places {
        let next = places.range(place + 1..).next();
        let text = &message[*place..next.map_or(message.len(), |(next, _)| *next)];
        let Expectation::Left(reasons) = odd.expected else {
            continue;
        };
        if !reasons
            .iter()
            .any(|reason| text.contains(&reason.to_lowercase()))
        {
            bail!("{} is left without {reasons:?}: {text}", odd.name);
        }
    }
    Ok(())
}

/// Stops the worker after it has moved the tags of the first member, and starts the rollback when
/// evictions have brought pods to the new revision that no restart has touched.
fn split_promotion(on: &SuiteLab, upgrade: &str) -> Result<()> {
    let (lab, server) = (&on.lab, &on.server);
    let held = on.worker.pause_before(SECOND_TAG_STEP, || {
        server.run_cli(&["upgrade", "promote", upgrade]).map(drop)
    })?;
    wait_until(
        "evicted pods come back on the new revision",
        STATE_TIMEOUT,
        || {
            let pods = pods::list_pods(lab, ZOO_CLUSTER).ok()?;
            let mixed = pods
                .iter()
                .filter(|pod| pod.revision == NEW_RELEASE.1 && workload_of(pod).is_some());
            (mixed.count() >= MIXED_PODS).then_some(())
        },
    )?;
    server.run_cli(&["upgrade", "rollback", upgrade])?;
    drop(held);
    Ok(())
}

/// Pauses the upgrade after the first restarts of the roll-out, and starts the rollback.
fn stop_mid_rollout(lab: &Lab, server: &DevServer, upgrade: &str) -> Result<()> {
    let count = || -> Result<usize> { Ok(restarts_per_workload(lab)?.values().sum()) };
    let before = count()?;
    server.run_cli(&["upgrade", "promote", upgrade])?;
    wait_until("the first workloads are restarted", STATE_TIMEOUT, || {
        (count().ok()? >= before + RESTARTS_BEFORE_PAUSE).then_some(())
    })?;
    server.run_cli(&["upgrade", "pause", upgrade])?;
    server.wait_for_state(upgrade, "paused", STATE_TIMEOUT)?;
    server.run_cli(&["upgrade", "rollback", upgrade]).map(drop)
}

/// Waits until a rollback has ended; it must never need a person.
fn wait_for_rollback(server: &DevServer, upgrade: &str) -> Result<()> {
    let start = Instant::now();
    let ended = wait_until("the rollback ends", ROLLOUT_TIMEOUT, || {
        let now = server.run_json(&["upgrade", "get", upgrade]).ok()?;
        (now["done"] == true || now["state"] == "paused").then_some(now)
    })?;
    if ended["state"] != "rolled_back" {
        bail!("the rollback is {}: {}", ended["state"], ended["problem"]);
    }
    println!("  rolled back after {} s", start.elapsed().as_secs());
    Ok(())
}

fn wait_until_complete(lab: &Lab, wanted: fn(&OddWorkload) -> usize) -> Result<()> {
    let incomplete = || pods::list_incomplete_workloads(lab, wanted);
    let complete = wait_until("the zoo has all its pods", SETTLE_TIMEOUT, || {
        incomplete().ok()?.is_empty().then_some(())
    });
    complete.or_else(|error| bail!("{error:#}: {}", incomplete()?.join(", ")))
}

/// Checks that workloads outside the mesh were not restarted, and that neither their pods nor
/// finished ones were replaced.
fn check_unchanged(lab: &Lab, before: &BTreeMap<(String, String), String>) -> Result<()> {
    let after = pods::list_unchangeable_pods(lab)?;
    if let Some((pod, _)) = before
        .iter()
        .find(|(pod, uid)| after.get(*pod) != Some(*uid))
    {
        bail!("the pod {}/{} is not the one that it was", pod.0, pod.1);
    }
    for odd in ODD_WORKLOADS
        .iter()
        .filter(|odd| odd.expected == Expectation::Untouched)
    {
        let kinds = ["deployments,daemonsets", "-n", odd.namespace];
        let objects = lab.list_objects(ZOO_CLUSTER, &kinds)?;
        if objects
            .iter()
            .any(|object| object.to_string().contains("meshwright.dev/restart"))
        {
            bail!("{} was restarted, and it is not in the mesh", odd.name);
        }
    }
    Ok(())
}

/// Judges the recording. A workload may be below its availability only if its pods were evicted.
fn check_availability(recording: &Path, evictions: &EvictionLog) -> Result<()> {
    let judge = judge_recording(recording)?;
    let evicted = |breach: &&String| {
        evictions.namespaces.iter().any(|namespace| {
            breach.contains(&format!(" {namespace}/"))
                && breach.contains(&format!(" in {ZOO_CLUSTER} has "))
        })
    };
    let breaches: Vec<&String> = judge
        .breaches
        .iter()
        .filter(|breach| !evicted(breach))
        .collect();
    println!("  {} events are judged", judge.events);
    if let Some(first) = breaches.first() {
        bail!("{} breaches, the first one: {first}", breaches.len());
    }
    Ok(())
}

/// The odd workloads in their cluster; they are removed when this value is dropped.
struct Zoo<'a> {
    lab: &'a Lab,
}

impl<'a> Zoo<'a> {
    /// Applies the odd workloads, waits until they run, and then puts up what refuses their next
    /// pods.
    fn open(lab: &'a Lab) -> Result<Self> {
        let zoo = Self { lab };
        let mut manifests: Vec<&str> = ODD_WORKLOADS.iter().map(|odd| odd.manifest).collect();
        manifests.dedup();
        for manifest in manifests {
            zoo.apply(manifest)?;
        }
        let finish = r#"{"status":{"phase":"Failed"}}"#;
        let failed = ["patch", "pod", "-n", "batch", "one-off", "-p", finish];
        zoo.run(&[&failed[..], &["--subresource", "status"]].concat())?;
        wait_until_complete(lab, |odd| odd.pods)?;
        zoo.run(&["rollout", "pause", "deployment", "pricing", "-n", "halted"])?;
        zoo.apply("dead-foreign-webhook-2")?;
        // A webhook comes into force a moment after it was written.
        let probe = ["run", "probe", "--image=registry.example/probe:1"];
        let dry = ["--dry-run=server", "-n", "scanned"];
        wait_until("the foreign webhook refuses pods", STATE_TIMEOUT, || {
            let refused = zoo.run(&[&probe[..], &dry[..]].concat()).err()?;
            refused
                .to_string()
                .contains("pods.scanner.example")
                .then_some(())
        })?;
        Ok(zoo)
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        self.lab.run_kubectl(ZOO_CLUSTER, arguments).map(drop)
    }

    fn apply(&self, manifest: &str) -> Result<()> {
        self.run(&["apply", "-f", &format!("tests/cases/{manifest}.yaml")])
    }
}

impl Drop for Zoo<'_> {
    fn drop(&mut self) {
        let webhook = ["delete", "mutatingwebhookconfiguration", FOREIGN_WEBHOOK];
        let ignore = ["--ignore-not-found"];
        let namespaces = [&["delete", "namespace"][..], &ZOO_NAMESPACES].concat();
        for delete in [&webhook[..], &namespaces] {
            if let Err(error) = self.run(&[delete, &ignore[..]].concat()) {
                eprintln!("the zoo is still there: {error:#}");
            }
        }
    }
}
