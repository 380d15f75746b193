//! Tests a worker that wakes up after another *operation* has taken over: a canary is stopped in
//! the middle of a write or around a record and rolled back, and its worker continues when the
//! rollback has done some of its steps or has ended.
//!
//! No cluster may accept a write that the canary's worker then sends, and the clusters must end as
//! they began.

use std::sync::Arc;
use std::time::Duration;

use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::{UpgradeState, Verb};
use meshwright_testkit::relay::{CutPoint, Relay};
use meshwright_testkit::{Fleet, TestDb, WorkerThread};
use serde_json::Value;

use super::victim::{CutLocation, MAX_RUN_TIME, Victim, without_operation_ids};
use crate::Result;

/// Lease of the canary's worker: long enough for its fencing token to be valid when the worker
/// wakes up, and short enough for a rollback to wait for its end.
const LEASE_DURATION: Duration = Duration::from_secs(3);
const RUN_TIMEOUT: Duration = Duration::from_mins(1);

/// Time at which the stopped worker continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResumePoint {
    /// It continues after this number of records of the rollback.
    AfterRecords(usize),
    /// It continues after the end of the rollback.
    AfterTheEnd,
}

/// One run with its cut.
#[derive(Debug, Clone)]
pub(super) struct SupersededCase {
    pub(super) width: usize,
    pub(super) place: CutLocation,
    pub(super) wakes: ResumePoint,
}

/// Returns a picture of the clusters without the custom resource definitions, which a rollback
/// leaves at the newer version.
fn comparable_state(fleet: &Fleet) -> String {
    let picture = without_operation_ids(&fleet.clusters.snapshot());
    let kept: Vec<&str> = picture
        .lines()
        .filter(|line| !line.starts_with("custom resource"))
        .collect();
    kept.join("\n")
}

/// Runs a canary without a cut until it is holding, and returns the numbers of its writes and
/// records.
pub(super) async fn count_cut_points(width: usize) -> Result<(u64, usize)> {
    let fleet = Fleet {
        max_concurrent_restarts: width,
        ..Fleet::new().await
    };
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    let relay = Relay::start(&TestDb::socket_dir());
    let records = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = records.clone();
    let count = Box::new(move |_: &_| {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        false
    });
    relay.stop_at(CutPoint::Recording, count);
    // The fake clusters count writes from here on; this cut is never reached.
    fleet
        .clusters
        .cut_at(u64::MAX, meshwright_testkit::world::Cut::BeforeEffect);
    let worker = fleet
        .build_relayed_worker("counted", Duration::from_secs(30), &relay)
        .await;
    for verb in [Verb::Start, Verb::Promote] {
        fleet.apply_verb(upgrade, verb, Value::Null).await?;
        worker.run_due().await?;
    }
    Ok((
        fleet.clusters.write_attempts(),
        records.load(std::sync::atomic::Ordering::Relaxed),
    ))
}

pub(super) fn list_cuts(writes: u64, records: usize, width: usize) -> Vec<SupersededCase> {
    let places = (1..=writes).map(CutLocation::InWrite);
    let places = places
        .chain((1..=records).map(|record| CutLocation::Record(record, CutPoint::BeforeEffect)));
    let cases = places.enumerate().flat_map(|(number, place)| {
        [
            ResumePoint::AfterTheEnd,
            ResumePoint::AfterRecords(1 + number % 6),
        ]
        .map(|wakes| SupersededCase {
            width,
            place,
            wakes,
        })
    });
    cases.collect()
}

pub(super) async fn run_with_cut(case: SupersededCase) -> Option<String> {
    let SupersededCase {
        width,
        place,
        wakes,
    } = case;
    let fleet = Fleet {
        max_concurrent_restarts: width,
        ..Fleet::new().await
    };
    let before = comparable_state(&fleet);
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    let victim = Victim::with_cut_at(&fleet, place);
    fleet
        .apply_verb(upgrade, Verb::Start, Value::Null)
        .await
        .expect("start fits");
    let mut work = victim.start_worker(&fleet, LEASE_DURATION);
    loop {
        tokio::select! {
            reached = victim.cut_reached(&fleet) => if reached { break } else { return Some("stuck: the cut was not reached".into()) },
            _ = work.wait_for_end(MAX_RUN_TIME) => match fleet.upgrade(upgrade).await.state {
                UpgradeState::Verifying { .. } => {
                    fleet.apply_verb(upgrade, Verb::Promote, Value::Null).await.expect("promote fits");
                    work = victim.start_worker(&fleet, LEASE_DURATION);
                }
                state @ (UpgradeState::Paused { .. } | UpgradeState::Holding { .. }) => {
                    return Some(format!("unreached: {state:?} before the cut"));
                }
                // On a busy machine, the worker's own lease may have ended meanwhile.
                _ => {
                    tokio::time::sleep(LEASE_DURATION).await;
                    work = victim.start_worker(&fleet, LEASE_DURATION);
                }
            }
        }
    }
    work.pause().await;
    fleet.clusters.clear_cut();
    if !fleet
        .upgrade(upgrade)
        .await
        .state
        .allowed_verbs()
        .contains(&Verb::Rollback)
    {
        return Some("unreached: there is nothing to roll back yet".into());
    }
    fleet
        .apply_verb(upgrade, Verb::Rollback, Value::Null)
        .await
        .expect("rollback fits");
    let late = match wakes {
        ResumePoint::AfterRecords(count) => {
            resume_during_rollback(&fleet, &victim, work, count).await
        }
        ResumePoint::AfterTheEnd => {
            fleet.run_due().await;
            resume_and_check(&fleet, &victim, work).await
        }
    };
    if late.is_some() {
        return late;
    }
    let state = fleet.upgrade(upgrade).await.state;
    if state != UpgradeState::RolledBack {
        return Some(format!("stuck: {state:?}"));
    }
    let now = comparable_state(&fleet);
    (now != before).then(|| format!("lost: the end is not the start:\n{now}\ninstead of\n{before}"))
}

/// Stops the rollback after this number of records, lets the canary's worker continue, and then
/// lets the rollback end. Returns the fault if one was found.
async fn resume_during_rollback(
    fleet: &Fleet,
    victim: &Victim,
    work: WorkerThread,
    count: usize,
) -> Option<String> {
    let relay = Relay::start(&TestDb::socket_dir());
    let mut seen = 0;
    let choose = move |_: &_| {
        seen += 1;
        seen == count
    };
    relay.stop_at(CutPoint::BeforeEffect, Box::new(choose));
    let engine = fleet
        .build_relayed_worker("back", Duration::from_mins(5), &relay)
        .await;
    let mut back = tokio::spawn(async move { drop(engine.run_due().await) });
    let ended = tokio::select! {
        reached = relay.wait_for_stop(RUN_TIMEOUT) => if reached { false } else { return Some("stuck: the rollback does not begin".into()) },
        _ = &mut back => true,
    };
    let late = resume_and_check(fleet, victim, work).await;
    relay.resume();
    if !ended && tokio::time::timeout(RUN_TIMEOUT, back).await.is_err() {
        return Some("stuck: the rollback does not end".into());
    }
    late
}

/// Lets the canary's worker continue, and returns the fault if it wrote anything or does not end.
async fn resume_and_check(
    fleet: &Fleet,
    victim: &Victim,
    mut work: WorkerThread,
) -> Option<String> {
    let known = fleet.clusters.journal().len();
    victim.resume_worker();
    work.resume();
    if !work.wait_for_end(RUN_TIMEOUT).await {
        return Some("stuck: the one that woke up does not end".into());
    }
    let late = fleet.clusters.journal().split_off(known);
    late.first()
        .map(|write| format!("late: the superseded operation wrote {write:?}"))
}
