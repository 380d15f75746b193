//! One tenant's or cluster's trouble costs only itself: places of workers and looks are shared, and none waits for another.

use std::time::Duration;

use jiff::SignedDuration;
use meshwright_model::Clock;
use meshwright_model::ids::{OperationId, TenantId};
use meshwright_model::observation::Observation;
use meshwright_model::operation::{OperationKind, OperationState};
use meshwright_model::plan::Sidecar;
use meshwright_store::{ClaimFilter, NewOperation};
use meshwright_testkit::Fleet;
use meshwright_testkit::credentials::CallBehaviour;
use meshwright_worker::Settings;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(30);

/// Waits until something is true, at most so long.
async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait)
        .await
        .unwrap_or_else(|_| panic!("{what}, within {LIMIT:?}"));
}

async fn other(fleet: &Fleet) -> Fleet {
    fleet
        .for_new_tenant(TenantId(Uuid::from_u128(2)), "other")
        .await
}

async fn succeeds(fleet: &Fleet, operation: OperationId) {
    until("the operation succeeds", async || {
        fleet.operation(operation).await.state == OperationState::Succeeded
    })
    .await;
}

#[tokio::test]
async fn forty_hanging_registrations_of_one_tenant_leave_places_for_another_tenants() {
    let hog = Fleet::new().await;
    let other = other(&hog).await;
    hog.credentials.set_call_behaviour(CallBehaviour::Hangs);
    for number in 0..40 {
        hog.register_cluster(&format!("r{number}")).await;
    }
    let stop = CancellationToken::new();
    // A worker calls the clusters of every tenant: the hog's hang, and by their names the other's answer.
    let worker = hog.build_shared_worker(&other, "worker", Duration::from_secs(30));
    let working = tokio::spawn({
        let stop = stop.clone();
        async move { worker.run_until_stopped(stop).await }
    });
    let hanging = "SELECT count(*)::text FROM work_queue WHERE owner IS NOT NULL";
    until("registrations hang", async || {
        hog.db.query_text("mw_worker", hanging).await != ["0"]
    })
    .await;
    let (_, registration) = other.register_cluster("mine").await;
    succeeds(&other, registration).await;
    let own = hog
        .queue_operation(OperationKind::Restart, json!(null))
        .await;
    succeeds(&hog, own).await;
    working.abort();
}

#[tokio::test]
async fn a_hosting_cluster_that_holds_its_share_of_places_is_left_out_and_the_rest_is_claimed() {
    let fleet = Fleet::new().await;
    let on_it = fleet
        .queue_operation(OperationKind::Restart, json!(null))
        .await;
    let (_, elsewhere) = fleet.register_cluster("c-9").await;
    let mut tx = fleet
        .db
        .api
        .begin(fleet.db.tenant)
        .await
        .expect("a database");
    let hosting = tx
        .catalogue()
        .list_hosting_clusters()
        .await
        .expect("hosting clusters")[0]
        .id;
    drop(tx);
    let mut claimed = Vec::new();
    let wanted = ClaimFilter {
        full_hosting_clusters: vec![hosting],
        ..ClaimFilter::any_operation()
    };
    while let Some(claim) = fleet
        .db
        .worker
        .claim_operation("worker", LIMIT, &wanted)
        .await
        .expect("a database")
    {
        claimed.push(claim.operation);
    }
    assert!(
        claimed.contains(&elsewhere) && !claimed.contains(&on_it),
        "{claimed:?}"
    );
    let later = fleet
        .db
        .worker
        .claim_operation("worker", LIMIT, &ClaimFilter::any_operation())
        .await
        .expect("a database")
        .expect("an operation");
    assert_eq!((later.operation, later.hosting), (on_it, Some(hosting)));
}

#[tokio::test]
async fn a_late_tenant_is_served_on_the_only_hosting_cluster_while_a_greedy_one_waits_there() {
    let greedy = Fleet::new().await;
    let late = other(&greedy).await;
    greedy.clusters.set_call_delay(LIMIT * 2);
    let mut tx = greedy.db.begin().await;
    for _ in 0..12 {
        let restart = NewOperation {
            id: OperationId(greedy.clock.new_uuid()),
            kind: OperationKind::Restart,
            mesh: Some(greedy.mesh),
            cluster: None,
            upgrade: None,
            arguments: json!(null),
            due_in: Duration::ZERO,
        };
        tx.operations()
            .create_operation(&restart, greedy.clock.now())
            .await
            .expect("an operation");
    }
    tx.commit().await.expect("a commit");
    let settings = Settings {
        max_concurrent_operations: 8,
        ..greedy.worker_settings("worker", Duration::from_secs(30))
    };
    let worker = greedy.build_shared_worker_with(&late, settings);
    let working =
        tokio::spawn(async move { worker.run_until_stopped(CancellationToken::new()).await });
    let claimed = "SELECT count(*)::text FROM work_queue WHERE owner IS NOT NULL";
    until("the greedy tenant has all but the reserve", async || {
        greedy.db.query_text("mw_worker", claimed).await == ["5"]
    })
    .await;
    tokio::time::sleep(greedy.poll_interval * 10).await;
    let own = late
        .queue_operation(OperationKind::Restart, json!(null))
        .await;
    succeeds(&late, own).await;
    assert_eq!(greedy.db.query_text("mw_worker", claimed).await, ["5"]);
    working.abort();
}

#[tokio::test]
async fn operations_that_were_queued_before_hosting_clusters_had_shares_count_for_theirs() {
    const MIGRATION: &str = include_str!("../../../migrations/0041_queue_hosting.sql");
    let fleet = Fleet::new().await;
    let other = other(&fleet).await;
    for fleet in [&fleet, &other] {
        fleet
            .queue_operation(OperationKind::Restart, json!(null))
            .await;
    }
    fleet.register_cluster("c-9").await;
    fleet
        .db
        .execute(
            "mw_worker",
            "UPDATE work_queue SET hosting_cluster_id = NULL",
        )
        .await
        .expect("a queue of an earlier version");
    fleet
        .db
        .execute_script("mw_owner", MIGRATION)
        .await
        .expect("a migration that cannot fail on what exists");
    let named = "SELECT count(*) || ' of ' || (SELECT count(*) FROM work_queue) FROM work_queue
        JOIN hosting_clusters USING (hosting_cluster_id)";
    assert_eq!(
        fleet.db.query_text("mw_worker", named).await,
        ["2 of 3"],
        "all but the registration, which has no mesh"
    );
    let forced = "SELECT count(*)::text FROM pg_class WHERE relforcerowsecurity
        AND relname IN ('work_queue', 'operations', 'meshes')";
    assert_eq!(fleet.db.query_text("mw_worker", forced).await, ["3"]);
}

#[tokio::test]
async fn a_cluster_that_never_answers_is_one_look_and_the_others_are_looked_after() {
    let silent = Fleet::new().await;
    let other = other(&silent).await;
    silent.credentials.set_call_behaviour(CallBehaviour::Hangs);
    let worker = silent.build_shared_worker(&other, "worker", Duration::from_secs(30));
    let stop = CancellationToken::new();
    let working = tokio::spawn(async move { worker.run_until_stopped(stop).await });
    until("the other tenant's clusters are looked after", async || {
        other.credentials.check_count() >= 2
    })
    .await;
    working.abort();
}

#[tokio::test]
async fn a_look_that_panics_is_that_look_alone_and_is_made_again_later() {
    let fleet = Fleet::new().await;
    fleet.credentials.set_call_behaviour(CallBehaviour::Panics);
    fleet
        .db
        .execute("mw_worker", "UPDATE cluster_probes SET due_at = now()")
        .await
        .expect("every cluster is due");
    let worker = fleet.build_worker("worker", Duration::from_secs(30));
    while worker.monitor_due().await.expect("a readable database") {}
    assert_eq!(
        fleet.credentials.check_count(),
        2,
        "each cluster was looked at, in spite of the first panic"
    );
    let failures = "SELECT failures::text FROM cluster_probes";
    assert_eq!(fleet.db.query_text("mw_worker", failures).await, ["1", "1"]);
}

#[tokio::test]
async fn a_mesh_that_cannot_be_observed_is_looked_at_ever_more_rarely() {
    let fleet = Fleet::new().await;
    let worker = fleet.build_worker("worker", Duration::from_secs(30));
    fleet.clusters.set_unreachable("c1", true);
    for _ in 0..3 {
        fleet
            .db
            .execute("mw_worker", "UPDATE probes SET due_at = now()")
            .await
            .expect("the mesh is due");
        assert!(worker.observe_due().await.expect("a readable database"));
    }
    let rest = "SELECT failures || ' ' || (due_at > now() + interval '15 seconds') FROM probes";
    assert_eq!(fleet.db.query_text("mw_worker", rest).await, ["3 true"]);
    fleet.clusters.set_unreachable("c1", false);
    fleet
        .db
        .execute("mw_worker", "UPDATE probes SET due_at = now()")
        .await
        .expect("the mesh is due");
    worker.observe_due().await.expect("a readable database");
    assert_eq!(
        fleet
            .db
            .query_text("mw_worker", "SELECT failures::text FROM probes")
            .await,
        ["0"]
    );
}

#[tokio::test]
async fn a_mesh_and_a_cluster_are_looked_at_once_at_a_time_however_long_a_look_takes() {
    let fleet = Fleet::new().await;
    fleet.clusters.set_call_delay(LIMIT * 2);
    fleet.credentials.set_call_behaviour(CallBehaviour::Hangs);
    let (observer, tender) = (
        fleet.build_worker("a", Duration::from_secs(30)),
        fleet.build_worker("b", Duration::from_secs(30)),
    );
    for table in ["probes", "cluster_probes"] {
        let all_due = format!("UPDATE {table} SET due_at = now()");
        fleet
            .db
            .execute("mw_worker", &all_due)
            .await
            .expect("everything is due");
    }
    let first = observer.clone();
    let observing = tokio::spawn(async move { first.observe_due().await });
    let tending = [tender.clone(), tender.clone()]
        .map(|tender| tokio::spawn(async move { tender.monitor_due().await }));
    for table in ["probes", "cluster_probes"] {
        let due = format!("SELECT count(*)::text FROM {table} WHERE due_at <= now()");
        until("a look is under way", async || {
            fleet.db.query_text("mw_worker", &due).await == ["0"]
        })
        .await;
        let later = format!("UPDATE {table} SET due_at = due_at - interval '3 minutes'");
        fleet
            .db
            .execute("mw_worker", &later)
            .await
            .expect("time passes");
    }
    let again = async { (observer.observe_due().await, tender.monitor_due().await) };
    let (mesh, cluster) = tokio::time::timeout(LIMIT, again)
        .await
        .expect("no second look begins");
    assert!(!mesh.expect("a readable database") && !cluster.expect("a readable database"));
    observing.abort();
    tending.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_mesh_rests_as_long_as_a_look_at_it_took_and_shows_the_time_at_which_the_look_began() {
    let fleet = Fleet::new().await;
    fleet.clusters.set_call_delay(Duration::from_millis(200));
    let _clock = fleet.run_clock(1000);
    fleet
        .db
        .execute("mw_worker", "UPDATE probes SET due_at = now()")
        .await
        .expect("the mesh is due");
    assert!(
        fleet
            .build_worker("worker", Duration::from_secs(30))
            .observe_due()
            .await
            .expect("a readable database")
    );
    let rests = "SELECT (due_at > now() + interval '100 seconds')::text FROM probes";
    assert_eq!(fleet.db.query_text("mw_worker", rests).await, ["true"]);
    let mut tx = fleet.db.begin_beside_workers().await;
    let (at, _) = tx
        .meshes()
        .last_observation(fleet.mesh)
        .await
        .expect("a survey")
        .expect("a look");
    assert!(fleet.clock.now().duration_since(at) >= SignedDuration::from_secs(100));
}

#[tokio::test]
async fn an_older_look_does_not_replace_a_newer_one() {
    let fleet = Fleet::new().await;
    let now = fleet.clock.now();
    let seen = |revision: &str| Observation {
        sidecars: vec![Sidecar {
            revision: revision.parse().expect("a revision name"),
            image: "proxyv2".into(),
        }],
        ..Observation::default()
    };
    let mut tx = fleet
        .db
        .worker
        .begin(fleet.db.tenant)
        .await
        .expect("a transaction");
    for (revision, age, kept) in [("1-27-9", 0, true), ("1-25-1", 10, false)] {
        let at = now - SignedDuration::from_secs(age);
        assert_eq!(
            tx.meshes()
                .store_observation(fleet.mesh, &seen(revision), at)
                .await
                .expect("a mesh"),
            kept,
            "{revision}"
        );
    }
    assert_eq!(
        tx.meshes()
            .last_observation(fleet.mesh)
            .await
            .expect("a survey"),
        Some((now, seen("1-27-9")))
    );
}

#[tokio::test]
async fn a_registration_that_hangs_ends_after_the_longest_look() {
    let fleet = Fleet {
        cluster_timeout: Duration::from_millis(200),
        ..Fleet::new().await
    };
    fleet.credentials.set_call_behaviour(CallBehaviour::Hangs);
    let (_, registration) = fleet.register_cluster("c3").await;
    fleet.run_due().await;
    let state = fleet.operation(registration).await.state;
    assert!(
        matches!(&state, OperationState::Failed { problem } if problem.code == "cluster_unreachable"),
        "{state:?}"
    );
}
