//! Everything is slow: calls of clusters take 3 s, the database answers after 2 s, and eight workers share one processor.
//!
//! Times are divided by a scale, the lease and the patience with them, so that a run takes a minute and not an hour.

use std::time::{Duration, Instant};

use model::Clock;
use model::ids::{OperationId, UpgradeId};
use model::operation::{OperationKind, OperationState};
use model::rules::Strategy;
use model::upgrade::{UpgradeState, Verb};
use serde_json::Value;
use store::private::SUPERUSER;
use store::{MeshState, Store};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use worker::Settings;

use crate::credentials::Conduct;
use crate::fleet::hasty;
use crate::relay::Relay;
use crate::{Fleet, TestDb};

/// One call of a cluster, unscaled.
const CALL: Duration = Duration::from_secs(3);
/// Until the database answers, unscaled.
const ANSWER: Duration = Duration::from_secs(2);
/// How many workers share one thread.
const WORKERS: usize = 8;
/// How often a worker looks at the queue. Unscaled: looking more often would measure the looking.
const POLL: Duration = Duration::from_millis(100);
/// Everything has to end within this.
const LIMIT: Duration = Duration::from_mins(10);

/// How long each part of a run took.
#[derive(Debug, Clone)]
pub struct Report {
    /// The seed that the run was drawn from.
    pub seed: u64,
    /// How the upgrade was made.
    pub strategy: &'static str,
    /// Where the upgrade stood when it was rolled back.
    pub rolled_back_from: &'static str,
    /// The whole run.
    pub took: Duration,
    /// The most claims that one operation took which recorded steps.
    pub claims: u64,
}

/// A number below `below` that follows from a seed and what it is for.
fn draw(seed: u64, what: u64, below: u64) -> u64 {
    let mixed = seed.wrapping_add(what).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)) % below
}

/// Registers a cluster, creates a mesh, upgrades it and rolls it back, all of it slowly.
///
/// # Errors
/// What did not end, or did not end as it should.
///
/// # Panics
/// When the database fails.
pub async fn run(seed: u64, scale: u32) -> Result<Report, String> {
    let begun = Instant::now();
    let fleet = Fleet::unborn().await;
    let relay = Relay::start(&TestDb::socket_folder());
    relay.slow(ANSWER / scale);
    fleet.world.slow(CALL / scale);
    fleet.credentials.conduct(Conduct::Slow(CALL / scale));
    let _workers = workers(&fleet, &relay, scale);
    let _clock = fleet.wind(scale);
    let (_, registration) = fleet.register("c3").await;
    let creation = fleet.begin(OperationKind::CreateMesh, Value::Null).await;
    succeeded(&fleet, registration).await?;
    succeeded(&fleet, creation).await?;
    let mut tx = fleet.db.api.begin(fleet.db.tenant).await.map_err(|error| error.to_string())?;
    let state = tx.mesh(fleet.mesh).await.map_err(|error| error.to_string())?.state;
    drop(tx);
    if state != MeshState::Ready {
        return Err(format!("the mesh is {}", state.as_str()));
    }
    fleet.populate();
    fleet.allow_two_minors_in_place().await;
    let strategy = if draw(seed, 1, 3) == 0 { Strategy::InPlace } else { Strategy::Canary };
    let upgrade = fleet.plan("1.27.9.1", strategy, 3600).await;
    press(&fleet, upgrade, Verb::Start).await?;
    if strategy == Strategy::Canary && draw(seed, 3, 4) != 0 {
        reaches(&fleet, upgrade, |state| matches!(state, UpgradeState::Verifying { .. })).await?;
        press(&fleet, upgrade, Verb::Promote).await?;
    } else {
        reaches(&fleet, upgrade, |state| *state != UpgradeState::Prechecking).await?;
    }
    let calls = u32::try_from(draw(seed, 2, 200)).unwrap_or(0);
    tokio::time::sleep(CALL / scale * calls).await;
    let from = fleet.upgrade(upgrade).await.state.as_str();
    press(&fleet, upgrade, Verb::Rollback).await?;
    reaches(&fleet, upgrade, |state| *state == UpgradeState::RolledBack).await?;
    let epochs = "SELECT coalesce(max(epoch), 0)::text FROM item_facts";
    let claims = fleet.db.query(SUPERUSER, epochs).await.first().and_then(|text| text.parse().ok()).unwrap_or(0);
    let strategy = if strategy == Strategy::Canary { "canary" } else { "in_place" };
    Ok(Report { seed, strategy, rolled_back_from: from, took: begun.elapsed(), claims })
}

/// Eight workers on one thread, until the guard is dropped.
fn workers(fleet: &Fleet, relay: &Relay, scale: u32) -> DropGuard {
    let stop = CancellationToken::new();
    let settings = Settings {
        lease: Settings::default().lease / scale,
        look: Settings::default().look / scale,
        stall: Settings::default().stall / scale,
        observe: Settings::default().observe / scale,
        tend: Settings::default().tend / scale,
        poll: POLL,
        patience: hasty(),
        ..Settings::default()
    };
    let url = fleet.db.relayed_url("mw_worker", relay, settings.lease);
    let makers: Vec<_> = (0..WORKERS)
        .map(|number| fleet.maker(Settings { owner: format!("worker-{number}"), ..settings.clone() }))
        .collect();
    let stopped = stop.clone();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let mut working = JoinSet::new();
            for maker in makers {
                let store = Store::connect(&url, crate::db::vault()).await.expect("a connection as mw_worker");
                let (engine, stopped) = (maker(store), stopped.clone());
                working.spawn(async move { engine.work(stopped).await });
            }
            // What is under way is dropped with the runtime: the run is over.
            stopped.cancelled().await;
        });
    };
    std::thread::Builder::new().name("workers".into()).spawn(work).expect("a thread");
    stop.drop_guard()
}

async fn succeeded(fleet: &Fleet, id: OperationId) -> Result<(), String> {
    let until = Instant::now() + LIMIT;
    loop {
        let operation = fleet.operation(id).await;
        match operation.state {
            OperationState::Succeeded => return Ok(()),
            state if state.done() || state.needs_attention() || Instant::now() > until => {
                return Err(format!("{} is {state:?}", operation.kind.as_str()));
            }
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

/// Presses a button, as often as the state has just moved on under it.
async fn press(fleet: &Fleet, upgrade: UpgradeId, verb: Verb) -> Result<(), String> {
    fleet.press(upgrade, verb, Value::Null).await.map(drop).map_err(|error| format!("{verb:?}: {error}"))
}

async fn reaches(fleet: &Fleet, id: UpgradeId, wanted: impl Fn(&UpgradeState) -> bool) -> Result<(), String> {
    let until = Instant::now() + LIMIT;
    loop {
        let state = fleet.upgrade(id).await.state;
        if wanted(&state) {
            return Ok(());
        }
        if state.done()
            || matches!(state, UpgradeState::Paused { .. } | UpgradeState::Blocked { .. })
            || Instant::now() > until
        {
            return Err(format!("at {}: the upgrade is {state:?}", fleet.clock.now()));
        }
        tokio::time::sleep(POLL).await;
    }
}
