//! Runs every cut on fake clusters and a real Postgres: at each write to a cluster, and around each
//! record, by a relay on the database's socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use futures::future::BoxFuture;
use meshwright_model::ids::UpgradeId;
use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::{UpgradeState, Verb};
use meshwright_testkit::relay::{CutPoint, Relay};
use meshwright_testkit::world::Cut as WorldCut;
use meshwright_testkit::{Fleet, TestDb, WorkerThread};
use serde_json::Value;

use super::verdict::{judge_end_state, restarted_workloads};
use super::victim::{CutLocation, MAX_RUN_TIME, Victim, without_operation_ids};
use super::{MatrixTotals, superseded};
use crate::Result;

/// Treatment of the worker at the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interruption {
    /// The worker is killed and its connections are closed.
    Killed,
    /// The worker is stopped and continues after its successor has finished.
    Suspended,
    /// The upgrade is paused at once, and the worker continues when its successor has shown the
    /// pause.
    SuspendedDuringPause,
    /// The worker's connections to the database are closed while it runs on.
    Disconnected,
}

#[derive(Debug, Clone)]
struct CutCase {
    way: &'static str,
    width: usize,
    place: CutLocation,
    fate: Interruption,
    picture: Arc<String>,
}

/// Parts of an upgrade that are cut.
const UPGRADE_FLOWS: [&str; 2] = ["canary", "rollback"];
/// Lease of the workers; short, because the successor waits for its end. On a machine that is busy
/// with other tests, a lease of less than a second ends before a renewal is answered, and a worker
/// that loses ten leases in a row pauses its operation.
const LEASE_DURATION: Duration = Duration::from_secs(2);
/// Time that a worker may pause after a few errors in a row; the pause starts with the lease and
/// doubles each time.
const MAX_RETRY_DELAY: Duration = Duration::from_mins(1);
/// Runs that go on side by side; they mostly wait for leases.
const MAX_PARALLEL_RUNS: usize = 12;
/// Each seed takes one cut out of this number.
const CUT_STRIDE: usize = 8;
/// Each seed takes one cut out of this number of a superseded canary. The number is odd, because
/// the cuts alternate between two times at which the worker wakes up.
const SUPERSEDED_CUT_STRIDE: usize = 3;

pub(super) async fn run_fake_matrix(seeds: usize) -> Result<MatrixTotals> {
    let mut totals = MatrixTotals::default();
    let mut cases = Vec::new();
    for seed in 0..seeds {
        let before = cases.len();
        for way in UPGRADE_FLOWS {
            let width = 1 + seed % 3;
            let (writes, records, picture) = run_uncut(way, width).await?;
            totals.boundaries += usize::try_from(writes).unwrap_or(usize::MAX) + records;
            let case = |(place, fate)| CutCase {
                way,
                width,
                place,
                fate,
                picture: picture.clone(),
            };
            cases.extend(list_cuts(writes, records).into_iter().map(case));
        }
        let mut number = seed;
        let keep = cases.split_off(before).into_iter().filter(|_| {
            number += 1;
            number % CUT_STRIDE == 0
        });
        let kept: Vec<CutCase> = keep.collect();
        cases.extend(kept);
    }
    let mut runs: Vec<(String, BoxFuture<'static, Option<String>>)> = Vec::new();
    for case in cases {
        let title = format!(
            "{}, {:?}, {:?}, width {}",
            case.way, case.place, case.fate, case.width
        );
        runs.push((title, Box::pin(run_with_cut(case))));
    }
    for seed in 0..seeds {
        let width = 1 + seed % 3;
        let (writes, records) = superseded::count_cut_points(width).await?;
        totals.boundaries += usize::try_from(writes).unwrap_or(usize::MAX) + records;
        for case in superseded::list_cuts(writes, records, width)
            .into_iter()
            .skip(seed % SUPERSEDED_CUT_STRIDE)
            .step_by(SUPERSEDED_CUT_STRIDE)
        {
            let title = format!(
                "superseded, {:?}, {:?}, width {}",
                case.place, case.wakes, case.width
            );
            runs.push((title, Box::pin(superseded::run_with_cut(case))));
        }
    }
    run_in_parallel(runs, &mut totals).await?;
    Ok(totals)
}

/// Runs the cuts, a fixed number of them side by side, and counts their verdicts.
async fn run_in_parallel(
    runs: Vec<(String, BoxFuture<'static, Option<String>>)>,
    totals: &mut MatrixTotals,
) -> Result<()> {
    let mut running = tokio::task::JoinSet::new();
    let mut waiting = runs.into_iter();
    loop {
        while running.len() < MAX_PARALLEL_RUNS
            && let Some((title, run)) = waiting.next()
        {
            running.spawn(async move { (title, run.await) });
        }
        let Some(ended) = running.join_next().await else {
            return Ok(());
        };
        let (title, verdict) = ended?;
        totals.count_verdict(&title, verdict);
    }
}

fn list_cuts(writes: u64, records: usize) -> Vec<(CutLocation, Interruption)> {
    let mut all = Vec::new();
    for write in 1..=writes {
        all.push((CutLocation::BeforeWrite(write), Interruption::Killed));
        all.push((CutLocation::AfterWrite(write), Interruption::Killed));
        all.extend(
            [
                Interruption::Suspended,
                Interruption::SuspendedDuringPause,
                Interruption::Disconnected,
            ]
            .map(|fate| (CutLocation::InWrite(write), fate)),
        );
    }
    for record in 1..=records {
        for moment in [
            CutPoint::Recording,
            CutPoint::BeforeEffect,
            CutPoint::AfterEffect,
        ] {
            let place = CutLocation::Record(record, moment);
            all.extend(
                [
                    Interruption::Killed,
                    Interruption::Suspended,
                    Interruption::Disconnected,
                ]
                .map(|fate| (place, fate)),
            );
        }
    }
    all
}

/// Creates a fleet and brings it to the start of the part that is cut.
async fn prepare_fleet(way: &str, width: usize) -> (Fleet, UpgradeId) {
    let fleet = Fleet {
        max_concurrent_restarts: width,
        ..Fleet::new().await
    };
    let upgrade = fleet
        .plan_upgrade(
            "1.27.9.1",
            Strategy::Canary,
            if way == "rollback" { 3600 } else { 0 },
        )
        .await;
    if way == "rollback" {
        fleet.apply_verb_and_run(upgrade, Verb::Start).await;
        fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
    }
    (fleet, upgrade)
}

/// Runs the part that is cut to its end, from any state. A worker that met errors pauses longer
/// after each of them before its work is due again, so the successor may have to try more than
/// once.
async fn run_to_end(fleet: &Fleet, upgrade: UpgradeId, way: &str) {
    let begun = Instant::now();
    while begun.elapsed() < MAX_RETRY_DELAY {
        fleet.run_due().await;
        let state = fleet.upgrade(upgrade).await.state;
        if way == "canary" && state.allowed_verbs().contains(&Verb::Promote) {
            fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
        } else if state.is_terminal() || matches!(state, UpgradeState::Paused { .. }) {
            return;
        } else {
            tokio::time::sleep(LEASE_DURATION).await;
        }
    }
}

fn first_verb(way: &str) -> Verb {
    if way == "rollback" {
        Verb::Rollback
    } else {
        Verb::Start
    }
}

/// Runs the part once without a cut. Returns the number of writes, the number of records, and a
/// picture of the clusters at the end.
///
/// # Errors
///
/// Returns an error when a step that was started is not among the writes that would be cut.
async fn run_uncut(way: &str, width: usize) -> Result<(u64, usize, Arc<String>)> {
    let (fleet, upgrade) = prepare_fleet(way, width).await;
    let relay = Relay::start(&TestDb::socket_dir());
    let records = Arc::new(AtomicUsize::new(0));
    let started = Arc::new(AtomicUsize::new(0));
    let (counted, begun) = (records.clone(), started.clone());
    relay.stop_at(
        CutPoint::Recording,
        Box::new(move |sent| {
            counted.fetch_add(1, Ordering::Relaxed);
            begun.fetch_add(sent.started.len(), Ordering::Relaxed);
            false
        }),
    );
    // The fake clusters count writes from here on; this cut is never reached.
    fleet.clusters.cut_at(u64::MAX, WorldCut::BeforeEffect);
    fleet
        .apply_verb(upgrade, first_verb(way), Value::Null)
        .await
        .expect("a verb that fits");
    let worker = fleet
        .build_relayed_worker("counted", Duration::from_secs(30), &relay)
        .await;
    worker.run_due().await?;
    if way == "canary" {
        fleet
            .apply_verb(upgrade, Verb::Promote, Value::Null)
            .await?;
        worker.run_due().await?;
    }
    let (writes, pushes) = (fleet.clusters.write_attempts(), fleet.clusters.push_count());
    let (records, started) = (
        records.load(Ordering::Relaxed),
        started.load(Ordering::Relaxed),
    );
    if usize::try_from(pushes).ok() != Some(started) {
        bail!("{way}: {started} steps were started, and the writes of {pushes} would be cut");
    }
    Ok((
        writes,
        records,
        Arc::new(without_operation_ids(&fleet.clusters.snapshot())),
    ))
}

async fn run_with_cut(case: CutCase) -> Option<String> {
    let CutCase {
        way,
        width,
        place,
        fate,
        picture,
    } = case;
    let (fleet, upgrade) = prepare_fleet(way, width).await;
    let stamps_before = restarted_workloads(&fleet);
    let victim = Victim::with_cut_at(&fleet, place);
    fleet
        .apply_verb(upgrade, first_verb(way), Value::Null)
        .await
        .expect("a verb that fits");
    let mut work = victim.start_worker(&fleet, LEASE_DURATION);
    // In a canary the cut may come after the promotion, which a person must ask for.
    loop {
        tokio::select! {
            reached = victim.cut_reached(&fleet) => if reached { break } else { return Some("stuck: neither the cut nor an end was reached".into()) },
            _ = work.wait_for_end(MAX_RUN_TIME) => {
                let state = fleet.upgrade(upgrade).await.state;
                if state.is_terminal() {
                    return Some("unreached: it ended before the cut".into());
                }
                if matches!(state, UpgradeState::Paused { .. }) {
                    return Some(format!("stuck: {state:?} before the cut"));
                }
                if state.allowed_verbs().contains(&Verb::Promote) {
                    fleet.apply_verb(upgrade, Verb::Promote, Value::Null).await.expect("promote fits");
                } else {
                    // On a busy machine, the worker's own lease may have ended meanwhile.
                    tokio::time::sleep(LEASE_DURATION).await;
                }
                work = victim.start_worker(&fleet, LEASE_DURATION);
            }
        }
    }
    match fate {
        Interruption::Killed => {
            work.kill();
            victim.relay.close_connections();
        }
        // The connections are closed while the write is under way; the write itself completes.
        Interruption::Disconnected => {
            victim.relay.close_connections();
            victim.resume_worker();
        }
        Interruption::SuspendedDuringPause => {
            work.pause().await;
            fleet
                .apply_verb(upgrade, Verb::Pause, Value::Null)
                .await
                .expect("pause fits");
        }
        Interruption::Suspended => work.pause().await,
    }
    fleet.clusters.clear_cut();
    tokio::time::sleep(LEASE_DURATION + Duration::from_millis(150)).await;
    let mut verdict = run_successor(&fleet, upgrade, way, fate, &victim, work).await;
    if verdict.is_none() {
        verdict = judge_end_state(&fleet, upgrade, &picture, &stamps_before).await;
    }
    verdict
}

/// Lets a successor finish, and then lets the stopped worker continue. Returns the fault if one was
/// found.
async fn run_successor(
    fleet: &Fleet,
    upgrade: UpgradeId,
    way: &str,
    fate: Interruption,
    victim: &Victim,
    mut work: WorkerThread,
) -> Option<String> {
    // The worker lives and may claim its own operation again, so the successor waits for the end of
    // the lease.
    if fate == Interruption::Disconnected {
        if !work.wait_for_end(Duration::from_secs(30)).await {
            return Some("stuck: the one that was disconnected does not end".into());
        }
        tokio::time::sleep(LEASE_DURATION + Duration::from_millis(150)).await;
    }
    let paused = fate == Interruption::SuspendedDuringPause;
    if paused {
        fleet.run_due().await;
    } else {
        run_to_end(fleet, upgrade, way).await;
    }
    let late = fleet.clusters.journal().len();
    if paused || fate == Interruption::Suspended {
        victim.resume_worker();
        work.resume();
        if !work.wait_for_end(Duration::from_secs(30)).await {
            return Some("stuck: the one that woke up does not end".into());
        }
        if fleet.clusters.journal().len() != late {
            return Some(format!(
                "late: a worker wrote after its successor: {:?}",
                fleet.clusters.journal().last()
            ));
        }
    }
    if paused {
        fleet
            .apply_verb(upgrade, Verb::Resume, Value::Null)
            .await
            .expect("resume fits");
        run_to_end(fleet, upgrade, way).await;
    }
    None
}
