//! What one tenant's clusters that never answer do to another tenant: how old the observation of its mesh and the look at its
//! cluster become, with and without them, in turns; and what they cost in memory.

use std::time::{Duration, Instant};

use model::Clock as _;
use model::ids::TenantId;
use serde_json::json;
use testkit::Fleet;
use testkit::credentials::CallBehaviour;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::fair::{MOST, MOST_MEMORY, slowest_hundredth};
use super::round_to_thousandths;
use crate::Result;

/// Clusters of the tenant in trouble: many times what one worker looks after at once.
const CLUSTERS: usize = 100;
/// Registrations that it asks for in each turn: more than a worker has places.
const REGISTRATIONS: usize = 40;
/// How often meshes and clusters are looked at.
const OFTEN: Duration = Duration::from_millis(500);
/// How often an age is read.
const PACE: Duration = Duration::from_millis(20);
/// The first looks of a turn follow the turn before.
const SETTLED: Duration = Duration::from_secs(2);

/// Ages of the other tenant's observations and looks.
#[derive(Default)]
struct Ages {
    mesh: Vec<Duration>,
    cluster: Vec<Duration>,
}

/// Judges one worker that serves both tenants.
pub(super) async fn judge(rounds: usize, turn: Duration) -> Result<()> {
    let hog = Fleet::new().await;
    let quiet = hog.for_new_tenant(TenantId(Uuid::from_u128(2)), "quiet").await;
    let _clock = hog.run_clock(1);
    for number in 0..CLUSTERS {
        hog.register_cluster(&format!("c-{number}")).await;
    }
    hog.run_due().await;
    let (mut alone, mut beside) = (Ages::default(), Ages::default());
    listen(&hog, &quiet, turn, &mut Ages::default()).await?;
    let before = memory()?;
    for round in 0..rounds {
        // Each goes first every other time.
        for troubled in [round % 2 == 0, round % 2 != 0] {
            trouble(&hog, troubled, round).await;
            listen(&hog, &quiet, turn, if troubled { &mut beside } else { &mut alone }).await?;
        }
    }
    let grown = memory()?.saturating_sub(before);
    let ratio = |alone: &mut Vec<Duration>, beside: &mut Vec<Duration>| {
        let (fast, slow) = (slowest_hundredth(alone), slowest_hundredth(beside));
        (fast, slow, slow.as_secs_f64() / fast.as_secs_f64())
    };
    let (mesh, cluster) = (ratio(&mut alone.mesh, &mut beside.mesh), ratio(&mut alone.cluster, &mut beside.cluster));
    let shown = |(fast, slow, ratio): (Duration, Duration, f64)| json!({ "p99_age_alone_milliseconds": fast.as_millis(), "p99_age_beside_milliseconds": slow.as_millis(), "ratio": round_to_thousandths(ratio) });
    println!(
        "{:#}",
        json!({
            "silent_clusters": CLUSTERS, "hanging_registrations_each_turn": REGISTRATIONS,
            "looks_every_milliseconds": OFTEN.as_millis(), "ages_read": alone.mesh.len() + beside.mesh.len(),
            "observation_of_a_mesh": shown(mesh), "look_at_a_cluster": shown(cluster), "goal": MOST, "memory_grown": grown,
        })
    );
    if grown > MOST_MEMORY {
        return Err(format!("the silent clusters cost {grown} bytes"));
    }
    match mesh.2.max(cluster.2) {
        worst if worst <= MOST => Ok(()),
        worst => Err(format!("beside silent clusters another tenant's looks are {worst:.3} times as old")),
    }
}

/// From here on every call into the tenant's clusters hangs, or is answered.
async fn trouble(hog: &Fleet, troubled: bool, round: usize) {
    hog.credentials.set_call_behaviour(if troubled { CallBehaviour::Hangs } else { CallBehaviour::Answers });
    hog.clusters.set_call_delay(if troubled { Duration::MAX } else { Duration::ZERO });
    for number in (0..REGISTRATIONS).filter(|_| troubled) {
        hog.register_cluster(&format!("r-{round}-{number}")).await;
    }
}

/// Runs a worker for one turn, and reads again and again how old the quiet tenant's looks are.
async fn listen(hog: &Fleet, quiet: &Fleet, turn: Duration, ages: &mut Ages) -> Result<()> {
    let mut settings = hog.worker_settings("bench", Duration::from_secs(30));
    (settings.mesh_observation_interval, settings.cluster_check_interval) = (OFTEN, OFTEN);
    let (engine, stop) = (hog.build_shared_worker_with(quiet, settings), CancellationToken::new());
    let working = tokio::spawn({
        let stop = stop.clone();
        async move { engine.run_until_stopped(stop).await }
    });
    let begun = Instant::now();
    while begun.elapsed() < SETTLED + turn {
        tokio::time::sleep(PACE).await;
        let mut tx = quiet.db.api.begin(quiet.db.tenant).await.map_err(|error| error.to_string())?;
        let observed = tx.last_observation(quiet.mesh).await.map_err(|error| error.to_string())?.map(|(at, _)| at);
        let member = tx.get_mesh(quiet.mesh).await.map_err(|error| error.to_string())?.members[0].cluster;
        let looked = tx.get_cluster(member).await.map_err(|error| error.to_string())?.observed_at;
        drop(tx);
        if begun.elapsed() > SETTLED {
            let age = |then| Duration::try_from(hog.clock.now().duration_since(then)).unwrap_or_default();
            ages.mesh.push(age(observed.ok_or("the mesh was never observed")?));
            ages.cluster.extend(looked.map(age));
        }
    }
    // Hanging looks would be waited for.
    working.abort();
    Ok(())
}

/// How much of this process is in memory, in bytes.
fn memory() -> Result<u64> {
    crate::service::memory_of(std::process::id())
}
