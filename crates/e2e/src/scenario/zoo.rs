//! Tests an upgrade of a mesh with odd workloads: a restart moves some of them, cannot move others,
//! and must not touch the rest. Pods are evicted at random meanwhile.
//!
//! The roll-out ends with the workloads that it left, each with a reason, and none of them stops
//! the others. The rollback from any stage ends with every live pod on the old revision.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{anyhow, bail};

use super::start_state::SuiteLab;
use super::{NEW_RELEASE, OLD_RELEASE};
use crate::Result;
use crate::assertions::{assert_revision_gone, assert_sidecars};
use crate::availability_judge::judge_recording;
use crate::lab::{Lab, wait_until};

mod background;
mod evictions;
mod interruptions;
mod odd_workloads;
mod pods;
pub(crate) mod repeated;
mod story;

use background::run_beside;
use evictions::{EvictionLog, Evictor};
use interruptions::interrupt_until;
use odd_workloads::{Expectation, ODD_WORKLOADS, OddWorkload};
use pods::PodState;
use story::UpgradeStory;

/// Member that has the zoo.
const ZOO_CLUSTER: &str = "c1";
/// Namespaces of the zoo.
pub(super) const ZOO_NAMESPACES: [&str; 15] = [
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
    "snug",
    "sandbox",
];
/// Webhook of others that refuses pods, in `tests/cases/dead-foreign-webhook-2.yaml`.
pub(super) const FOREIGN_WEBHOOK: &str = "image-scanner";
const SETTLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Returns the workload of the zoo that a pod of the first member belongs to.
fn workload_of(pod: &PodState) -> Option<&'static OddWorkload> {
    ODD_WORKLOADS
        .iter()
        .find(|odd| odd.namespace == pod.namespace && odd.owns_pod(&pod.name))
}

/// Stage of the upgrade that the rollback starts from.
#[derive(Debug, Clone, Copy)]
pub(super) enum RollbackStart {
    /// The roll-out has ended, and has left some workloads.
    PartialRollout,
    /// The tags of one member point to the new revision, and those of the other do not.
    SplitPromotion,
    /// Some workloads are restarted, and the pods of one are being replaced.
    MiddleOfRollout,
}

pub(super) const ALL_STARTS: [RollbackStart; 3] = [
    RollbackStart::PartialRollout,
    RollbackStart::SplitPromotion,
    RollbackStart::MiddleOfRollout,
];

impl RollbackStart {
    /// Returns the title of the scenario.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::PartialRollout => {
                "a zoo of odd workloads: the roll-out names what it left, and the rollback ends"
            }
            Self::SplitPromotion => "a zoo of odd workloads: back from a split promotion",
            Self::MiddleOfRollout => "a zoo of odd workloads: back from the middle of the roll-out",
        }
    }
}

/// One upgrade with the zoo there and back.
#[derive(Debug, Clone, Copy)]
pub(super) struct ZooRun {
    pub(super) start: RollbackStart,
    /// Seed of all random numbers.
    pub(super) seed: u64,
    /// Whether the worker is killed and Postgres restarted at random.
    pub(super) kill: bool,
}

/// Takes an upgrade with the zoo to a stage and back, while pods are evicted at random.
pub(super) fn check_zoo(on: &SuiteLab, run: ZooRun) -> Result<()> {
    let lab = &on.lab;
    let zoo = Zoo::open(lab)?;
    let unchangeable = pods::list_unchangeable_pods(lab)?;
    let recording = on.dir.join("zoo.jsonl");
    let recorder = lab.start_recording(&recording)?;
    let evictions = go_with_evictions(on, run)
        .map_err(|error| anyhow!("{error:#}\n{}", pods::describe_zoo(lab)))?;
    wait_until_complete(lab, |odd| odd.pods_after)?;
    pods::check_revisions(lab, OLD_RELEASE, |_| false)?;
    check_unchanged(lab, &unchangeable)?;
    drop(recorder);
    check_availability(&recording, &evictions)?;
    drop(zoo);
    assert_sidecars(lab, OLD_RELEASE.1, OLD_RELEASE.2).map(drop)
}

/// Runs the upgrade, and checks every pod the moment the rollback has ended, while the evictions
/// still go on.
fn go_with_evictions(on: &SuiteLab, run: ZooRun) -> Result<EvictionLog> {
    let story = UpgradeStory::new(on);
    let upgrade = || {
        story.go_there_and_back(run.start)?;
        pods::check_revisions(&on.lab, OLD_RELEASE, |_| false)?;
        assert_revision_gone(&on.lab, NEW_RELEASE.1)
    };
    let interrupted = || {
        if !run.kill {
            return upgrade();
        }
        let interrupt = |over: &AtomicBool| interrupt_until(&story, run.seed, over);
        let ((), log) = run_beside(interrupt, upgrade)?;
        println!(
            "  {} workers were killed, and Postgres was restarted {} times",
            log.worker_kills, log.postgres_restarts
        );
        Ok(())
    };
    let evictor = Evictor::new(&on.lab, &on.dir, run.seed)?;
    let ((), log) = run_beside(|over| evictor.evict_until(over), interrupted)?;
    println!(
        "  {} pods were evicted in {} namespaces",
        log.accepted,
        log.namespaces.len()
    );
    if log.accepted == 0 {
        bail!("no pod was evicted, so nothing is proved about evictions");
    }
    Ok(log)
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
        wait_until("the foreign webhook refuses pods", SETTLE_TIMEOUT, || {
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
