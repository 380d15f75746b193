//! The crash matrix: an upgrade is cut at each of its writes, in each way, and another worker must finish it.
//!
//! Oracles: it ends in the same state as an uncut run (nothing lost), each workload is restarted once (nothing doubled), it
//! ends at all (nothing stuck), and a worker that wakes up late writes nothing.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use model::ids::UpgradeId;
use model::plan::Target;
use model::rules::Strategy;
use model::upgrade::Verb;
use serde_json::{Value, json};
use testkit::Fleet;
use testkit::world::Cut;
use tokio::sync::Notify;

use crate::Result;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// In which world; the lab's own cuts are in its scenarios.
    #[arg(long, default_value = "fake")]
    world: String,
    /// How many times the whole matrix is run.
    #[arg(long, default_value_t = 1)]
    seeds: usize,
    /// Print the totals as JSON.
    #[arg(long)]
    json: bool,
}

/// How a worker ends at a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    KilledBeforeEffect,
    KilledAfterEffect,
    StoppedAndContinued,
    /// Its successor is told to pause at once; the one that was stopped goes on when the pause is visible.
    StoppedThenPaused,
    Disconnected,
}

const VICTIMS: [Victim; 5] = [
    Victim::KilledBeforeEffect,
    Victim::KilledAfterEffect,
    Victim::StoppedAndContinued,
    Victim::StoppedThenPaused,
    Victim::Disconnected,
];
/// Which way is cut.
const WAYS: [&str; 2] = ["canary", "rollback"];
const LEASE: Duration = Duration::from_millis(600);
/// How many runs go on side by side: they mostly wait for leases.
const WIDTH: usize = 6;

#[derive(Debug, Default)]
struct Totals {
    cuts: usize,
    lost: usize,
    doubled: usize,
    stuck: usize,
    late_writes: usize,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.world != "fake" {
        return Err("--world is fake".into());
    }
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let totals = runtime.block_on(matrix(options.seeds))?;
    let clean = totals.lost + totals.doubled + totals.stuck + totals.late_writes == 0;
    if options.json {
        let Totals { cuts, lost, doubled, stuck, late_writes } = totals;
        println!(
            "{}",
            json!({ "cuts": cuts, "lost": lost, "doubled": doubled, "stuck": stuck, "late_writes": late_writes })
        );
    } else {
        println!("{totals:?}");
    }
    if clean { Ok(()) } else { Err("the crash matrix found something".into()) }
}

async fn matrix(seeds: usize) -> Result<Totals> {
    let mut totals = Totals::default();
    let mut cases = Vec::new();
    for way in WAYS {
        let (boundaries, picture) = uncut(way).await;
        for _ in 0..seeds {
            for boundary in 1..=boundaries {
                cases.extend(VICTIMS.map(|victim| (way, boundary, victim, picture.clone())));
            }
        }
    }
    let mut running = tokio::task::JoinSet::new();
    let mut waiting = cases.into_iter();
    loop {
        while running.len() < WIDTH
            && let Some((way, boundary, victim, picture)) = waiting.next()
        {
            running.spawn(async move { (way, boundary, victim, cut(way, boundary, victim, &picture).await) });
        }
        let Some(ended) = running.join_next().await else { return Ok(totals) };
        let (way, boundary, victim, verdict) = ended.map_err(|error| error.to_string())?;
        totals.cuts += 1;
        let Some(verdict) = verdict else { continue };
        eprintln!("{way}, write {boundary}, {victim:?}: {verdict}");
        match verdict.split(':').next() {
            Some("doubled") => totals.doubled += 1,
            Some("stuck") => totals.stuck += 1,
            Some("late") => totals.late_writes += 1,
            _ => totals.lost += 1,
        }
    }
}

/// Brings a fleet to where the cut part begins.
async fn begin(way: &str) -> (Fleet, UpgradeId) {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan("1.27.9.1", Strategy::Canary, if way == "rollback" { 3600 } else { 0 }).await;
    if way == "rollback" {
        fleet.go(upgrade, Verb::Start).await;
        fleet.go(upgrade, Verb::Promote).await;
    }
    (fleet, upgrade)
}

/// Runs the part that is cut, to its end, whatever has happened to it so far.
async fn finish(fleet: &Fleet, upgrade: UpgradeId, way: &str) {
    fleet.run().await;
    if way == "canary" && fleet.upgrade(upgrade).await.state.allowed().contains(&Verb::Promote) {
        fleet.go(upgrade, Verb::Promote).await;
    }
}

fn first_verb(way: &str) -> Verb {
    if way == "rollback" { Verb::Rollback } else { Verb::Start }
}

/// How many writes there are to cut at, and what the world looks like at the end.
async fn uncut(way: &str) -> (u64, String) {
    let (fleet, upgrade) = begin(way).await;
    fleet.world.cut_at(u64::MAX, Cut::BeforeEffect);
    fleet.press(upgrade, first_verb(way), Value::Null).await.expect("a verb that fits");
    finish(&fleet, upgrade, way).await;
    (fleet.world.tried(), plain(&fleet.world.picture()))
}

/// A stamp names its operation, which differs from run to run.
fn plain(picture: &str) -> String {
    picture
        .lines()
        .map(|line| if line.contains(" = op_") { line.split(" = ").next().unwrap_or(line) } else { line })
        .collect::<Vec<_>>()
        .join("\n")
}

async fn cut(way: &str, boundary: u64, victim: Victim, picture: &str) -> Option<String> {
    let (fleet, upgrade) = begin(way).await;
    let stamps_before = stamps(&fleet);
    let go_on = Arc::new(Notify::new());
    fleet.world.cut_at(
        boundary,
        match victim {
            Victim::KilledBeforeEffect => Cut::BeforeEffect,
            Victim::KilledAfterEffect => Cut::AfterEffect,
            Victim::StoppedAndContinued | Victim::StoppedThenPaused | Victim::Disconnected => {
                Cut::Frozen(go_on.clone())
            }
        },
    );
    fleet.press(upgrade, first_verb(way), Value::Null).await.expect("a verb that fits");
    let doomed = fleet.lone_worker("doomed", LEASE).await;
    let store = doomed.store().clone();
    let mut work = tokio::spawn(async move { doomed.run_due().await });
    // In a canary the cut may lie behind the promotion, which a person asks for.
    loop {
        tokio::select! {
            reached = fleet.world.cut_reached(Duration::from_secs(20)) => if reached { break } else { return Some("stuck: the cut was not reached".into()) },
            _ = &mut work => {
                fleet.press(upgrade, Verb::Promote, Value::Null).await.ok()?;
                let doomed = fleet.lone_worker("doomed", LEASE).await;
                work = tokio::spawn(async move { doomed.run_due().await });
            }
        }
    }
    match victim {
        Victim::KilledBeforeEffect | Victim::KilledAfterEffect => work.abort(),
        Victim::Disconnected => {
            // Its connection is gone while the write is under way; the write itself goes through.
            let closing = tokio::spawn(async move { store.close().await });
            go_on.notify_one();
            closing.await.ok();
            work.abort();
        }
        Victim::StoppedThenPaused => {
            fleet.press(upgrade, Verb::Pause, Value::Null).await.expect("pause fits");
        }
        Victim::StoppedAndContinued => {}
    }
    fleet.world.heal();
    tokio::time::sleep(LEASE + Duration::from_millis(150)).await;
    let paused = victim == Victim::StoppedThenPaused;
    if paused {
        fleet.run().await;
    } else {
        finish(&fleet, upgrade, way).await;
    }
    let late = fleet.world.journal().len();
    if paused || victim == Victim::StoppedAndContinued {
        go_on.notify_one();
        if tokio::time::timeout(Duration::from_secs(10), &mut work).await.is_err() {
            return Some("stuck: the one that woke up does not end".into());
        }
        if fleet.world.journal().len() != late {
            return Some(format!("late: a worker wrote after its successor: {:?}", fleet.world.journal().last()));
        }
    }
    if paused {
        fleet.press(upgrade, Verb::Resume, Value::Null).await.expect("resume fits");
        finish(&fleet, upgrade, way).await;
    }
    verdict(&fleet, upgrade, picture, &stamps_before).await
}

fn stamps(fleet: &Fleet) -> Vec<Target> {
    let journal = fleet.world.journal();
    journal
        .into_iter()
        .filter(|write| write.from != write.to)
        .map(|write| write.target)
        .filter(|target| matches!(target, Target::Workload { .. }))
        .collect()
}

async fn verdict(fleet: &Fleet, upgrade: UpgradeId, picture: &str, stamps_before: &[Target]) -> Option<String> {
    let state = fleet.upgrade(upgrade).await.state;
    if !state.done() {
        return Some(format!("stuck: {state:?}"));
    }
    let mut since: Vec<Target> = stamps(fleet).split_off(stamps_before.len());
    let count = since.len();
    since.sort();
    since.dedup();
    if since.len() != count {
        return Some(format!("doubled: {} restarts of {} workloads", count, since.len()));
    }
    let now = plain(&fleet.world.picture());
    (now != picture).then(|| format!("lost: the end differs:\n{now}"))
}
