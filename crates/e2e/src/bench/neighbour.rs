//! Measures how one tenant's mesh and clusters that never answer affect another tenant: the age of
//! the observation of its mesh and of the check of its cluster, with and without the silent ones,
//! in turns; and the memory that they cost. The tests of the worker show how the places for
//! observations are shared between tenants with many silent meshes; here, one mesh is silent.

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use meshwright_model::Clock as _;
use meshwright_model::ids::TenantId;
use meshwright_testkit::Fleet;
use meshwright_testkit::credentials::CallBehaviour;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::latency::{MAX_MEMORY_GROWTH_BYTES, MAX_SLOWDOWN, percentile_99};
use super::round_to_thousandths;
use crate::Result;

/// Silent clusters of the one tenant: many times the number that one worker checks at once.
const SILENT_CLUSTERS: usize = 100;
/// Registrations that this tenant starts in each turn: more than a worker runs at once.
const REGISTRATIONS_PER_TURN: usize = 40;
/// Interval at which meshes are observed and clusters are checked.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(500);
/// Interval at which the ages are read.
const AGE_READ_INTERVAL: Duration = Duration::from_millis(20);
/// Time at the start of a turn that is not measured, because the first observations still follow
/// the turn before.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// Ages of the other tenant's observations and cluster checks.
#[derive(Default)]
struct ObservationAges {
    mesh: Vec<Duration>,
    cluster: Vec<Duration>,
}

/// Measures one worker that serves both tenants.
pub(super) async fn measure_silent_clusters(rounds: usize, turn: Duration) -> Result<()> {
    let hog = Fleet::new().await;
    let quiet = hog
        .for_new_tenant(TenantId(Uuid::from_u128(2)), "quiet")
        .await;
    let _clock = hog.run_clock(1);
    for number in 0..SILENT_CLUSTERS {
        hog.register_cluster(&format!("c-{number}")).await;
    }
    hog.run_due().await;
    let (mut alone, mut beside) = (ObservationAges::default(), ObservationAges::default());
    // The first turn warms everything up and is not measured.
    measure_ages(&hog, &quiet, turn, &mut ObservationAges::default()).await?;
    let before = own_memory_bytes()?;
    for round in 0..rounds {
        // Each side goes first every other time.
        for troubled in [round % 2 == 0, round % 2 != 0] {
            set_clusters_hanging(&hog, troubled, round).await;
            measure_ages(
                &hog,
                &quiet,
                turn,
                if troubled { &mut beside } else { &mut alone },
            )
            .await?;
        }
    }
    let grown = own_memory_bytes()?.saturating_sub(before);
    let ratio = |alone: &mut Vec<Duration>, beside: &mut Vec<Duration>| {
        let (fast, slow) = (percentile_99(alone), percentile_99(beside));
        (fast, slow, slow.as_secs_f64() / fast.as_secs_f64())
    };
    let (mesh, cluster) = (
        ratio(&mut alone.mesh, &mut beside.mesh),
        ratio(&mut alone.cluster, &mut beside.cluster),
    );
    let shown = |(fast, slow, ratio): (Duration, Duration, f64)| json!({ "p99_age_alone_milliseconds": fast.as_millis(), "p99_age_beside_milliseconds": slow.as_millis(), "ratio": round_to_thousandths(ratio) });
    println!(
        "{:#}",
        json!({
            "silent_clusters": SILENT_CLUSTERS, "hanging_registrations_each_turn": REGISTRATIONS_PER_TURN,
            "looks_every_milliseconds": OBSERVE_INTERVAL.as_millis(), "ages_read": alone.mesh.len() + beside.mesh.len(),
            "observation_of_a_mesh": shown(mesh), "look_at_a_cluster": shown(cluster), "goal": MAX_SLOWDOWN, "memory_grown": grown,
        })
    );
    if grown > MAX_MEMORY_GROWTH_BYTES {
        bail!("the silent clusters cost {grown} bytes");
    }
    match mesh.2.max(cluster.2) {
        worst if worst <= MAX_SLOWDOWN => Ok(()),
        worst => Err(anyhow!(
            "beside silent clusters another tenant's looks are {worst:.3} times as old"
        )),
    }
}

/// Makes every call to the tenant's clusters hang from now on, and starts its registrations; or
/// lets calls be answered again.
async fn set_clusters_hanging(hog: &Fleet, troubled: bool, round: usize) {
    hog.credentials.set_call_behaviour(if troubled {
        CallBehaviour::Hangs
    } else {
        CallBehaviour::Answers
    });
    hog.clusters.set_call_delay(if troubled {
        Duration::MAX
    } else {
        Duration::ZERO
    });
    for number in (0..REGISTRATIONS_PER_TURN).filter(|_| troubled) {
        hog.register_cluster(&format!("r-{round}-{number}")).await;
    }
}

/// Runs a worker for one turn, and reads again and again how old the quiet tenant's observation and
/// cluster check are.
async fn measure_ages(
    hog: &Fleet,
    quiet: &Fleet,
    turn: Duration,
    ages: &mut ObservationAges,
) -> Result<()> {
    let mut settings = hog.worker_settings("bench", Duration::from_secs(30));
    (
        settings.mesh_observation_interval,
        settings.cluster_check_interval,
    ) = (OBSERVE_INTERVAL, OBSERVE_INTERVAL);
    let (engine, stop) = (
        hog.build_shared_worker_with(quiet, settings),
        CancellationToken::new(),
    );
    let working = tokio::spawn({
        let stop = stop.clone();
        async move { engine.run_until_stopped(stop).await }
    });
    let begun = Instant::now();
    while begun.elapsed() < SETTLE_TIME + turn {
        tokio::time::sleep(AGE_READ_INTERVAL).await;
        let mut tx = quiet.db.api.begin(quiet.db.tenant).await?;
        let observed = tx
            .meshes()
            .last_observation(quiet.mesh)
            .await?
            .map(|(at, _)| at);
        let member = tx.meshes().get_mesh(quiet.mesh).await?.members[0].cluster;
        let looked = tx.clusters().get_cluster(member).await?.observed_at;
        drop(tx);
        if begun.elapsed() > SETTLE_TIME {
            let age =
                |then| Duration::try_from(hog.clock.now().duration_since(then)).unwrap_or_default();
            ages.mesh
                .push(age(observed.context("the mesh was never observed")?));
            ages.cluster.extend(looked.map(age));
        }
    }
    // The token ends the worker's loops, and each call that hangs ends with its time limit. A
    // graceful stop would wait for those calls.
    stop.cancel();
    working.abort();
    Ok(())
}

/// Returns the resident memory of this process in bytes.
fn own_memory_bytes() -> Result<u64> {
    crate::process_stat::process_memory_bytes(std::process::id())
}
