//! Runs an upgrade and its rollback while everything is slow: calls of clusters take 3 s, the
//! database answers after 2 s, and eight workers share one thread.
//!
//! All times are divided by a scale, including leases and timeouts, so that a run takes a minute
//! and not an hour.

use std::time::{Duration, Instant};

use meshwright_model::Clock;
use meshwright_model::ids::{OperationId, UpgradeId};
use meshwright_model::operation::{OperationKind, OperationState};
use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::{UpgradeState, Verb};
use meshwright_store::embedded_postgres::SUPERUSER;
use meshwright_store::{MeshState, Store};
use meshwright_worker::Settings;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::credentials::CallBehaviour;
use crate::fleet::short_timeouts;
use crate::relay::Relay;
use crate::{Fleet, TestDb};

/// Delay of one call of a cluster, before scaling.
const CLUSTER_CALL_DELAY: Duration = Duration::from_secs(3);
/// Delay of one answer of the database, before scaling.
const DATABASE_ANSWER_DELAY: Duration = Duration::from_secs(2);
/// Number of workers, which share one thread.
const WORKER_COUNT: usize = 8;
/// Interval at which a worker reads the queue. It is not scaled, because more frequent polling
/// would measure the polling itself.
const QUEUE_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Longest time for each wait of a run.
const WAIT_TIMEOUT: Duration = Duration::from_mins(10);

/// Result and duration of a run.
#[derive(Debug, Clone)]
pub struct SlowRunReport {
    /// Seed that the choices of the run were drawn from.
    pub seed: u64,
    /// Strategy of the upgrade: `canary` or `in_place`.
    pub strategy: &'static str,
    /// State of the upgrade at the time of the rollback.
    pub rolled_back_from: &'static str,
    /// Duration of the whole run.
    pub took: Duration,
    /// Highest number of claims that one operation took, of those operations that recorded steps.
    pub claims: u64,
}

/// Draws a number below `below` from the seed. `what` tells the draws of one run apart.
fn draw_number(seed: u64, what: u64, below: u64) -> u64 {
    let mixed = seed.wrapping_add(what).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)) % below
}

/// Registers a cluster, creates a mesh, upgrades it and rolls it back, with all calls and answers
/// delayed.
///
/// # Errors
/// Returns a text that names the operation or upgrade which did not end, or ended in another state
/// than expected.
///
/// # Panics
/// Panics when the database fails.
pub async fn run_slow_upgrade(seed: u64, scale: u32) -> Result<SlowRunReport, String> {
    let begun = Instant::now();
    let fleet = Fleet::with_pending_mesh().await;
    let relay = Relay::start(&TestDb::socket_dir());
    relay.delay_answers(DATABASE_ANSWER_DELAY / scale);
    fleet.clusters.set_call_delay(CLUSTER_CALL_DELAY / scale);
    fleet
        .credentials
        .set_call_behaviour(CallBehaviour::Slow(CLUSTER_CALL_DELAY / scale));
    let _workers = start_workers(&fleet, &relay, scale);
    let _clock = fleet.run_clock(scale);
    let (_, registration) = fleet.register_cluster("c3").await;
    let creation = fleet
        .queue_operation(OperationKind::CreateMesh, Value::Null)
        .await;
    wait_for_success(&fleet, registration).await?;
    wait_for_success(&fleet, creation).await?;
    let mut tx = fleet
        .db
        .api
        .begin(fleet.db.tenant)
        .await
        .map_err(|error| error.to_string())?;
    let state = tx
        .meshes()
        .get_mesh(fleet.mesh)
        .await
        .map_err(|error| error.to_string())?
        .state;
    drop(tx);
    if state != MeshState::Ready {
        return Err(format!("the mesh is {}", state.as_str()));
    }
    fleet.add_workloads();
    fleet.allow_two_minors_in_place().await;
    let strategy = if draw_number(seed, 1, 3) == 0 {
        Strategy::InPlace
    } else {
        Strategy::Canary
    };
    let upgrade = fleet.plan_upgrade("1.27.9.1", strategy, 3600).await;
    apply_verb(&fleet, upgrade, Verb::Start).await?;
    if strategy == Strategy::Canary && draw_number(seed, 3, 4) != 0 {
        wait_for_state(&fleet, upgrade, |state| {
            matches!(state, UpgradeState::Verifying { .. })
        })
        .await?;
        apply_verb(&fleet, upgrade, Verb::Promote).await?;
    } else {
        wait_for_state(&fleet, upgrade, |state| *state != UpgradeState::Prechecking).await?;
    }
    let calls = u32::try_from(draw_number(seed, 2, 200)).unwrap_or(0);
    tokio::time::sleep(CLUSTER_CALL_DELAY / scale * calls).await;
    let from = fleet.upgrade(upgrade).await.state.as_str();
    apply_verb(&fleet, upgrade, Verb::Rollback).await?;
    wait_for_state(&fleet, upgrade, |state| *state == UpgradeState::RolledBack).await?;
    let epochs = "SELECT coalesce(max(epoch), 0)::text FROM item_facts";
    let claims = fleet
        .db
        .query_text(SUPERUSER, epochs)
        .await
        .first()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let strategy = if strategy == Strategy::Canary {
        "canary"
    } else {
        "in_place"
    };
    Ok(SlowRunReport {
        seed,
        strategy,
        rolled_back_from: from,
        took: begun.elapsed(),
        claims,
    })
}

/// Starts the workers on one thread, which run until the guard is dropped.
fn start_workers(fleet: &Fleet, relay: &Relay, scale: u32) -> DropGuard {
    let stop = CancellationToken::new();
    let settings = Settings {
        lease_duration: Settings::default().lease_duration / scale,
        cluster_timeout: Settings::default().cluster_timeout / scale,
        stall_timeout: Settings::default().stall_timeout / scale,
        mesh_observation_interval: Settings::default().mesh_observation_interval / scale,
        cluster_check_interval: Settings::default().cluster_check_interval / scale,
        poll_interval: QUEUE_POLL_INTERVAL,
        timeouts: short_timeouts(),
        ..Settings::default()
    };
    let url = fleet
        .db
        .relayed_url("mw_worker", relay, settings.lease_duration);
    let makers: Vec<_> = (0..WORKER_COUNT)
        .map(|number| {
            fleet.worker_factory(Settings {
                worker_name: format!("worker-{number}"),
                ..settings.clone()
            })
        })
        .collect();
    let stopped = stop.clone();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async move {
            let mut working = JoinSet::new();
            for maker in makers {
                let store = Store::connect(&url, crate::db::test_sealer())
                    .await
                    .expect("a connection as mw_worker");
                let (engine, stopped) = (maker(store), stopped.clone());
                working.spawn(async move { engine.run_until_stopped(stopped).await });
            }
            // The run is over, so work that is under way is dropped with the runtime.
            stopped.cancelled().await;
        });
    };
    std::thread::Builder::new()
        .name("workers".into())
        .spawn(work)
        .expect("a thread");
    stop.drop_guard()
}

async fn wait_for_success(fleet: &Fleet, id: OperationId) -> Result<(), String> {
    let until = Instant::now() + WAIT_TIMEOUT;
    loop {
        let operation = fleet.operation(id).await;
        match operation.state {
            OperationState::Succeeded => return Ok(()),
            state if state.is_terminal() || state.needs_attention() || Instant::now() > until => {
                return Err(format!("{} is {state:?}", operation.kind.as_str()));
            }
            _ => tokio::time::sleep(QUEUE_POLL_INTERVAL).await,
        }
    }
}

/// Applies a verb to the upgrade.
async fn apply_verb(fleet: &Fleet, upgrade: UpgradeId, verb: Verb) -> Result<(), String> {
    fleet
        .apply_verb(upgrade, verb, Value::Null)
        .await
        .map(drop)
        .map_err(|error| format!("{verb:?}: {error}"))
}

async fn wait_for_state(
    fleet: &Fleet,
    id: UpgradeId,
    wanted: impl Fn(&UpgradeState) -> bool,
) -> Result<(), String> {
    let until = Instant::now() + WAIT_TIMEOUT;
    loop {
        let state = fleet.upgrade(id).await.state;
        if wanted(&state) {
            return Ok(());
        }
        if state.is_terminal()
            || matches!(
                state,
                UpgradeState::Paused { .. } | UpgradeState::Blocked { .. }
            )
            || Instant::now() > until
        {
            return Err(format!(
                "at {}: the upgrade is {state:?}",
                fleet.clock.now()
            ));
        }
        tokio::time::sleep(QUEUE_POLL_INTERVAL).await;
    }
}
