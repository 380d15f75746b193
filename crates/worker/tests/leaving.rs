//! Clusters are left only after patience: one lost or refused answer neither leaves a cluster behind nor forgets it.

use std::time::Duration;

use jiff::SignedDuration;
use meshwright_model::Clock;
use meshwright_model::ids::{ClusterId, OperationId};
use meshwright_model::leftover::AccountRemoval;
use meshwright_model::operation::{OperationKind, OperationState, Problem};
use meshwright_model::problem::ProblemCode;
use meshwright_store::{ClusterState, NewOperation, StoreError};
use meshwright_testkit::Fleet;

/// The codes of a cluster that is lost to us, by its silence, its slowness or its refusal of every call.
const LOST: [ProblemCode; 7] = [
    ProblemCode::AddressRefused,
    ProblemCode::AnswerTooSlow,
    ProblemCode::ClusterUnreachable,
    ProblemCode::ContactTooSlow,
    ProblemCode::CredentialExpired,
    ProblemCode::ListTooSlow,
    ProblemCode::LookTooSlow,
];

fn problem(code: ProblemCode) -> Problem {
    Problem::new(code, "It says so.", "Do something.")
}

async fn registered(fleet: &Fleet) -> ClusterId {
    let (cluster, _) = fleet.register_cluster("c3").await;
    fleet.run_due().await;
    cluster
}

/// Begins a deregistration, and runs what is due.
async fn leave(fleet: &Fleet, cluster: ClusterId, reason: Option<&str>) -> OperationId {
    let id = OperationId(fleet.clock.new_uuid());
    let new = NewOperation {
        id,
        kind: OperationKind::DeregisterCluster,
        mesh: None,
        cluster: Some(cluster),
        upgrade: None,
        arguments: meshwright_store::force_arguments(reason),
        due_in: Duration::ZERO,
    };
    let mut tx = fleet.db.begin_beside_workers().await;
    tx.clusters()
        .begin_deregistration(cluster, id, fleet.clock.now())
        .await
        .expect("a cluster that no mesh uses");
    tx.operations()
        .create_operation(&new, fleet.clock.now())
        .await
        .expect("an operation");
    tx.commit().await.expect("a commit");
    fleet.run_due().await;
    id
}

/// Looks again after so many seconds.
async fn later(fleet: &Fleet, seconds: i64) {
    fleet.clock.advance(SignedDuration::from_secs(seconds));
    fleet
        .db
        .execute("mw_worker", "UPDATE work_queue SET due_at = now()")
        .await
        .expect("it is due");
    fleet.run_due().await;
}

async fn state(fleet: &Fleet, operation: OperationId) -> &'static str {
    fleet.operation(operation).await.state.as_str()
}

async fn forgotten(fleet: &Fleet, cluster: ClusterId) -> bool {
    let mut tx = fleet.db.begin_beside_workers().await;
    matches!(
        tx.clusters().get_cluster(cluster).await,
        Err(StoreError::NotFound { .. })
    )
}

#[tokio::test]
async fn a_forced_deregistration_waits_for_an_answer_and_removes_the_account_when_there_is_one() {
    let fleet = Fleet::new().await;
    let cluster = registered(&fleet).await;
    fleet
        .credentials
        .set_leave_problem(Some(problem(ProblemCode::ClusterUnreachable)));
    let operation = leave(&fleet, cluster, Some("the region is gone")).await;
    assert_eq!(
        state(&fleet, operation).await,
        "waiting",
        "one lost answer is none"
    );
    fleet.credentials.set_leave_problem(None);
    for _ in 0..3 {
        later(&fleet, 10).await;
    }
    assert_eq!(state(&fleet, operation).await, "succeeded");
    assert!(
        fleet.credentials.removal_count() > 0,
        "the account was removed"
    );
    assert_eq!(fleet.operation(operation).await.leftovers, Vec::new());
}

#[tokio::test]
async fn every_way_of_being_lost_is_waited_for_and_can_be_forced_away() {
    for code in LOST {
        let fleet = Fleet::new().await;
        let cluster = registered(&fleet).await;
        fleet.credentials.set_leave_problem(Some(problem(code)));
        let operation = leave(&fleet, cluster, None).await;
        assert_eq!(state(&fleet, operation).await, "waiting", "{code:?}");
        later(&fleet, 180).await;
        let OperationState::Failed { problem } = fleet.operation(operation).await.state else {
            panic!("{code:?}")
        };
        assert_eq!(problem.code, code);
        assert!(
            problem.hint.contains("--force"),
            "{code:?}: {}",
            problem.hint
        );
        assert_eq!(
            fleet.cluster(cluster).await.state,
            ClusterState::Ready,
            "{code:?}"
        );
        let forced = leave(&fleet, cluster, Some("the region is gone")).await;
        assert_eq!(state(&fleet, forced).await, "waiting", "{code:?}");
        later(&fleet, 180).await;
        assert_eq!(state(&fleet, forced).await, "succeeded", "{code:?}");
        assert!(
            !fleet.operation(forced).await.leftovers.is_empty(),
            "{code:?}"
        );
        assert!(forgotten(&fleet, cluster).await, "{code:?}");
    }
}

#[tokio::test]
async fn a_forced_deregistration_takes_the_place_of_one_that_waits() {
    let fleet = Fleet::new().await;
    let cluster = registered(&fleet).await;
    fleet
        .credentials
        .set_leave_problem(Some(problem(ProblemCode::ClusterUnreachable)));
    let first = leave(&fleet, cluster, None).await;
    let forced = leave(&fleet, cluster, Some("the region is gone")).await;
    assert_eq!(
        (state(&fleet, first).await, state(&fleet, forced).await),
        ("superseded", "waiting")
    );
    assert_eq!(
        fleet.cluster(cluster).await.state,
        ClusterState::Deregistering
    );
    let looked_after = "SELECT count(*)::text FROM cluster_probes";
    assert_eq!(
        fleet.db.query_text("mw_worker", looked_after).await,
        ["2"],
        "only the members of the mesh"
    );
    later(&fleet, 180).await;
    assert!(forgotten(&fleet, cluster).await);
}

#[tokio::test]
async fn an_account_counts_as_gone_after_two_refusals_with_seconds_in_between() {
    let fleet = Fleet::new().await;
    let cluster = registered(&fleet).await;
    let operation = leave(&fleet, cluster, None).await;
    assert_eq!(
        fleet.cluster(cluster).await.removal,
        AccountRemoval::Accepted
    );
    for seconds in [2, 2, 2] {
        later(&fleet, seconds).await;
        assert_eq!(
            state(&fleet, operation).await,
            "waiting",
            "the first refusal, and another one a moment later"
        );
    }
    later(&fleet, 2).await;
    assert_eq!(state(&fleet, operation).await, "succeeded");
    assert!(forgotten(&fleet, cluster).await);
}

#[tokio::test]
async fn a_silence_before_the_first_refusal_does_not_count_as_time_between_two_refusals() {
    let fleet = Fleet::new().await;
    let cluster = registered(&fleet).await;
    let operation = leave(&fleet, cluster, None).await;
    fleet
        .credentials
        .set_leave_problem(Some(problem(ProblemCode::ClusterUnreachable)));
    later(&fleet, 2).await;
    fleet.credentials.set_leave_problem(None);
    for seconds in [60, 2, 2] {
        later(&fleet, seconds).await;
        assert_eq!(
            state(&fleet, operation).await,
            "waiting",
            "the first refusal, and others a moment later"
        );
    }
    later(&fleet, 2).await;
    assert_eq!(state(&fleet, operation).await, "succeeded");
}

#[tokio::test]
async fn refusals_are_counted_anew_when_the_cluster_answered_in_between() {
    let fleet = Fleet::new().await;
    let cluster = registered(&fleet).await;
    let operation = leave(&fleet, cluster, None).await;
    for lingers in [false, true, false] {
        fleet.credentials.set_account_lingers(lingers);
        later(&fleet, 10).await;
        assert_eq!(state(&fleet, operation).await, "waiting");
    }
}

#[tokio::test]
async fn a_renewed_credential_ends_a_removal_that_was_begun() {
    let fleet = Fleet::new().await;
    let cluster = registered(&fleet).await;
    fleet.credentials.set_account_lingers(true);
    let operation = leave(&fleet, cluster, None).await;
    later(&fleet, 660).await;
    assert_eq!(state(&fleet, operation).await, "failed");
    assert_eq!(
        fleet.cluster(cluster).await.removal,
        AccountRemoval::Accepted
    );
    fleet.renew_credential(cluster).await;
    fleet.run_due().await;
    assert_eq!(
        fleet.cluster(cluster).await.removal,
        AccountRemoval::NotBegun
    );
}
