//! Clusters are looked after: credentials are renewed in time, silent clusters are shown and left in peace.

use std::time::Duration;

use jiff::SignedDuration;
use meshwright_model::Clock;
use meshwright_model::ids::ClusterId;
use meshwright_model::operation::{OperationKind, OperationState, Problem};
use meshwright_model::problem::ProblemCode;
use meshwright_store::{AccessFilter, Cluster, ClusterState, ListFilter, Operation, Page};
use meshwright_testkit::Fleet;

const DAY: SignedDuration = SignedDuration::from_hours(24);

async fn clusters(fleet: &Fleet) -> Vec<Cluster> {
    let mut tx = fleet.db.begin_beside_workers().await;
    tx.clusters()
        .list_clusters(&AccessFilter::ALL, &ListFilter::default(), Page::ALL)
        .await
        .expect("clusters")
}

async fn renewals(fleet: &Fleet) -> Vec<Operation> {
    let mut tx = fleet.db.begin_beside_workers().await;
    let all = tx
        .operations()
        .list_operations(&AccessFilter::ALL, None, Page::ALL)
        .await
        .expect("operations");
    all.into_iter()
        .filter(|operation| operation.kind == OperationKind::RenewCredential)
        .collect()
}

async fn events(fleet: &Fleet, cluster: ClusterId) -> Vec<String> {
    let mut tx = fleet.db.begin_beside_workers().await;
    let all = tx
        .events()
        .list_events_after(&AccessFilter::ALL, 0, None, 1000)
        .await
        .expect("events");
    let of = |event: &meshwright_store::Event| event.body["cluster_id"] == cluster.to_string();
    all.into_iter().filter(of).map(|event| event.kind).collect()
}

/// Looks after every cluster once, as if it were due.
async fn round(fleet: &Fleet) {
    fleet
        .db
        .execute("mw_worker", "UPDATE cluster_probes SET due_at = now()")
        .await
        .expect("every cluster is due");
    let engine = fleet.build_worker("worker", Duration::from_secs(30));
    while engine.monitor_due().await.expect("the database answers") {}
    engine.run_due().await.expect("the database answers");
}

fn problem(code: ProblemCode) -> Problem {
    Problem::new(code, "It says so.", "Do something.")
}

#[tokio::test]
async fn a_credential_is_renewed_after_a_third_of_its_life_without_anybody_asking() {
    let fleet = Fleet::new().await;
    fleet.clock.advance(DAY * 29);
    round(&fleet).await;
    assert!(renewals(&fleet).await.is_empty());
    fleet.clock.advance(DAY * 2);
    round(&fleet).await;
    let renewed = renewals(&fleet).await;
    assert_eq!(renewed.len(), 2, "one for each cluster");
    assert!(
        renewed
            .iter()
            .all(|operation| operation.state == OperationState::Succeeded)
    );
    for cluster in clusters(&fleet).await {
        let life = cluster.credential_lifetime.expect("a credential");
        assert_eq!(life.serial, 2);
        assert_eq!(
            life.previous_until,
            Some(fleet.clock.now() + SignedDuration::from_hours(1))
        );
        assert_eq!(
            events(&fleet, cluster.id).await,
            ["cluster.credential_renewed", "cluster.credential_renewed"]
        );
    }
    round(&fleet).await;
    assert_eq!(renewals(&fleet).await.len(), 2, "what is new is left alone");
    fleet.clock.advance(SignedDuration::from_hours(2));
    round(&fleet).await;
    let gone = clusters(&fleet).await.iter().all(|cluster| {
        cluster
            .credential_lifetime
            .is_some_and(|life| life.previous_until.is_none())
    });
    assert!(
        gone,
        "after the overlap nothing of the old credential is left"
    );
}

#[tokio::test]
async fn a_renewal_that_fails_is_tried_again_later_and_warns_once() {
    let fleet = Fleet::new().await;
    fleet.clock.advance(DAY * 31);
    // The clusters answer, and let no client create a token.
    fleet
        .credentials
        .set_connect_problem(Some(problem(ProblemCode::PermissionMissing)));
    for _ in 0..3 {
        round(&fleet).await;
    }
    let failed = renewals(&fleet).await;
    assert_eq!(failed.len(), 2, "not again within the hour");
    assert!(
        failed
            .iter()
            .all(|operation| matches!(operation.state, OperationState::Failed { .. }))
    );
    fleet.clock.advance(DAY * 30);
    for _ in 0..3 {
        round(&fleet).await;
        fleet.clock.advance(SignedDuration::from_hours(2));
    }
    assert_eq!(
        renewals(&fleet).await.len(),
        2 + 3 * 2,
        "once for each cluster whenever an hour has passed"
    );
    for cluster in clusters(&fleet).await {
        assert_eq!(
            cluster.state,
            ClusterState::Ready,
            "what failed was the renewal"
        );
        let told = events(&fleet, cluster.id).await;
        assert_eq!(
            told,
            [
                "cluster.credential_renewed",
                "cluster.credential_expires_soon"
            ]
        );
    }
    fleet.credentials.set_connect_problem(None);
    fleet.clock.advance(DAY);
    round(&fleet).await;
    assert!(clusters(&fleet).await.iter().all(|cluster| {
        cluster
            .credential_lifetime
            .is_some_and(|life| life.serial == 2)
    }));
}

#[tokio::test]
async fn a_cluster_that_does_not_let_us_in_is_unreachable_with_the_reason_until_it_does() {
    let fleet = Fleet::new().await;
    round(&fleet).await;
    fleet
        .credentials
        .set_health_problem(Some(problem(ProblemCode::CredentialExpired)));
    round(&fleet).await;
    for cluster in clusters(&fleet).await {
        assert!(
            matches!(&cluster.state, ClusterState::Unreachable(problem) if problem.code == ProblemCode::CredentialExpired)
        );
        assert!(
            renewals(&fleet).await.is_empty(),
            "a credential that is dead renews nothing"
        );
    }
    fleet.credentials.set_health_problem(None);
    round(&fleet).await;
    for cluster in clusters(&fleet).await {
        assert_eq!(cluster.state, ClusterState::Ready);
        let told = events(&fleet, cluster.id).await;
        assert_eq!(
            told,
            [
                "cluster.credential_renewed",
                "cluster.unreachable",
                "cluster.reachable"
            ]
        );
    }
}

#[tokio::test]
async fn one_lost_answer_says_nothing_and_a_second_one_does() {
    let fleet = Fleet::new().await;
    fleet
        .credentials
        .set_health_problem(Some(problem(ProblemCode::ClusterUnreachable)));
    round(&fleet).await;
    assert!(
        clusters(&fleet)
            .await
            .iter()
            .all(|cluster| cluster.state == ClusterState::Ready)
    );
    round(&fleet).await;
    assert!(
        clusters(&fleet)
            .await
            .iter()
            .all(|cluster| matches!(cluster.state, ClusterState::Unreachable(_)))
    );
}

#[tokio::test]
async fn a_silent_cluster_is_never_asked_in_a_hot_loop() {
    let fleet = Fleet::new().await;
    fleet
        .credentials
        .set_health_problem(Some(problem(ProblemCode::CredentialExpired)));
    let engine = fleet.build_worker("worker", Duration::from_secs(30));
    for _ in 0..50 {
        while engine.monitor_due().await.expect("the database answers") {}
    }
    assert_eq!(
        fleet.credentials.check_count(),
        2,
        "each cluster once, and then not before it is due again"
    );
    for expected in [10_i64, 20, 40, 80, 160, 320, 600, 600] {
        round(&fleet).await;
        // The database's clock is compared, so the delay that was written counts, however slow the
        // machine is.
        let rests = "SELECT round(extract(epoch FROM due_at - now()) + 2)::text FROM cluster_probes WHERE failures > 1";
        let rests = fleet.db.query_text("mw_worker", rests).await;
        assert_eq!(rests.len(), 2, "both clusters");
        for rest in rests {
            let rest: i64 = rest.parse().expect("seconds");
            assert!(
                (expected - 8..=expected + 2).contains(&rest),
                "{rest} instead of {expected}"
            );
        }
    }
}
