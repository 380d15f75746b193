//! A cluster has one registration, in whichever tenants the attempts are made.

use std::time::Duration;

use meshwright_model::Clock;
use meshwright_model::ids::{OperationId, TenantId};
use meshwright_model::operation::{OperationKind, OperationState, Problem, Signal};
use meshwright_model::problem::ProblemCode;
use meshwright_model::rules::Severity;
use meshwright_model::upgrade::Finding;
use meshwright_store::ClusterState;
use meshwright_testkit::Fleet;
use uuid::Uuid;

const SHARED: &str = "5b0f6a3e-0000-4000-8000-000000000001";

async fn two_tenants() -> (Fleet, Fleet) {
    let one = Fleet::new().await;
    let mut other = one
        .for_new_tenant(TenantId(Uuid::from_u128(9)), "other")
        .await;
    // Any worker takes any tenant's operation, so both see the same clusters.
    other.credentials = one.credentials.clone();
    (one, other)
}

async fn problem(fleet: &Fleet, operation: OperationId) -> Problem {
    match fleet.operation(operation).await.state {
        OperationState::Failed { problem } => problem,
        state => panic!("the registration is {}", state.as_str()),
    }
}

#[tokio::test]
async fn a_cluster_is_registered_once_across_tenants_and_the_refusal_does_not_tell_whose_it_is() {
    let (one, other) = two_tenants().await;
    let (first, accepted) = one.register_cluster("mine").await;
    one.credentials.set_cluster_uid(first, SHARED);
    one.run_due().await;
    assert_eq!(
        one.operation(accepted).await.state,
        OperationState::Succeeded
    );
    let (second, refused) = other.register_cluster("theirs").await;
    other.credentials.set_cluster_uid(second, SHARED);
    other.run_due().await;
    let said = problem(&other, refused).await;
    assert_eq!(said.code, ProblemCode::ClusterRegisteredAlready);
    let words = format!("{} {}", said.message, said.hint);
    let telling = ["mine", "acme", &first.to_string(), SHARED];
    assert!(telling.iter().all(|word| !words.contains(word)), "{words}");
    assert!(
        !other.credentials.created_accounts().contains(&second),
        "nothing was written into the cluster for the second one"
    );
    assert_eq!(one.cluster(first).await.uid.as_deref(), Some(SHARED));
}

#[tokio::test]
async fn of_two_registrations_at_once_exactly_one_wins() {
    let (one, other) = two_tenants().await;
    for round in 0..5 {
        let (mine, first) = one.register_cluster(&format!("mine-{round}")).await;
        let (theirs, second) = other.register_cluster(&format!("theirs-{round}")).await;
        let shared = format!("shared-{round}");
        one.credentials.set_cluster_uid(mine, &shared);
        other.credentials.set_cluster_uid(theirs, &shared);
        let workers = [
            one.build_worker("a", Duration::from_secs(30)),
            other.build_worker("b", Duration::from_secs(30)),
        ];
        let (a, b) = tokio::join!(workers[0].run_due(), workers[1].run_due());
        a.and(b).expect("a readable queue");
        let states = [
            one.operation(first).await.state,
            other.operation(second).await.state,
        ];
        let won = states
            .iter()
            .filter(|state| **state == OperationState::Succeeded)
            .count();
        assert_eq!(won, 1, "{states:?}");
    }
}

#[tokio::test]
async fn a_cluster_that_was_deregistered_or_refused_can_be_registered_by_another_tenant() {
    let (one, other) = two_tenants().await;
    let (first, _) = one.register_cluster("first").await;
    one.credentials.set_cluster_uid(first, SHARED);
    one.run_due().await;
    one.deregister_cluster(first).await;
    let (second, refused) = one.register_cluster("second").await;
    one.credentials.set_cluster_uid(second, SHARED);
    one.credentials.set_connect_problem(Some(Problem::new(
        ProblemCode::PermissionMissing,
        "It says so.",
        "Do something.",
    )));
    one.run_due().await;
    assert_eq!(
        problem(&one, refused).await.code,
        ProblemCode::PermissionMissing
    );
    one.credentials.set_connect_problem(None);
    let (third, accepted) = other.register_cluster("third").await;
    other.credentials.set_cluster_uid(third, SHARED);
    other.run_due().await;
    assert_eq!(
        other.operation(accepted).await.state,
        OperationState::Succeeded
    );
}

#[tokio::test]
async fn a_cluster_that_is_deleted_while_it_is_registered_ends_the_registration() {
    let fleet = Fleet::new().await;
    let (cluster, operation) = fleet.register_cluster("short-lived").await;
    fleet.deregister_cluster(cluster).await;
    fleet.run_due().await;
    assert_eq!(
        problem(&fleet, operation).await.code,
        ProblemCode::ClusterGone
    );
}

async fn cancel(fleet: &Fleet, operation: OperationId) {
    let mut tx = fleet.db.begin_beside_workers().await;
    tx.operations()
        .signal_operation(operation, Signal::Cancel, fleet.clock.now())
        .await
        .expect("an operation under way");
    tx.commit().await.expect("a commit");
    fleet.run_due().await;
    assert_eq!(
        fleet.operation(operation).await.state,
        OperationState::Cancelled
    );
}

#[tokio::test]
async fn a_registration_that_is_cancelled_refuses_its_cluster_and_holds_it_no_longer() {
    let (one, other) = two_tenants().await;
    let (first, cancelled) = one.register_cluster("mine").await;
    one.credentials.set_cluster_uid(first, SHARED);
    one.credentials.set_connect_problem(Some(Problem::new(
        meshwright_worker::DATABASE_CODE,
        "It is away.",
        "Wait.",
    )));
    one.run_due().await;
    assert!(
        one.cluster(first).await.holds_identity,
        "it was held before the account was made"
    );
    cancel(&one, cancelled).await;
    let ClusterState::Refused(problem) = one.cluster(first).await.state else {
        panic!("it goes on")
    };
    assert_eq!(problem.code, ProblemCode::RegistrationCancelled);
    one.credentials.set_connect_problem(None);
    let (second, accepted) = other.register_cluster("theirs").await;
    other.credentials.set_cluster_uid(second, SHARED);
    other.run_due().await;
    assert_eq!(
        other.operation(accepted).await.state,
        OperationState::Succeeded
    );
}

#[tokio::test]
async fn a_renewal_that_is_cancelled_or_superseded_forgets_the_kubeconfig_that_was_submitted() {
    for superseded in [false, true] {
        let fleet = Fleet::new().await;
        let (cluster, _) = fleet.register_cluster("renewed").await;
        fleet.run_due().await;
        let mut tx = fleet.db.begin_beside_workers().await;
        tx.clusters()
            .submit_kubeconfig(cluster, Some(b"an administrator's"))
            .await
            .expect("a cluster");
        tx.commit().await.expect("a commit");
        let renewal = fleet.renew_credential(cluster).await;
        if superseded {
            let mut tx = fleet.db.begin_beside_workers().await;
            tx.operations()
                .supersede_operation(renewal, &OperationState::Superseded, fleet.clock.now())
                .await
                .expect("an operation");
            tx.commit().await.expect("a commit");
        } else {
            cancel(&fleet, renewal).await;
        }
        let mut tx = fleet
            .db
            .worker
            .begin(fleet.db.tenant)
            .await
            .expect("a transaction");
        assert_eq!(
            tx.clusters()
                .submitted_kubeconfig(cluster)
                .await
                .expect("a cluster"),
            None,
            "superseded: {superseded}"
        );
        drop(tx);
        assert_eq!(fleet.cluster(cluster).await.state, ClusterState::Ready);
    }
}

#[tokio::test]
async fn a_renewal_without_an_overlap_ends_when_the_former_credential_was_seen_to_be_refused() {
    let fleet = Fleet::new().await;
    let (cluster, _) = fleet.register_cluster("renewed").await;
    fleet.run_due().await;
    fleet.credentials.set_accepts_former(true);
    let id = fleet.renew_credential(cluster).await;
    fleet.run_due().await;
    let OperationState::Waiting { reason, .. } = fleet.operation(id).await.state else {
        panic!("it does not wait")
    };
    assert!(reason.contains("former"), "{reason}");
    fleet.credentials.set_accepts_former(false);
    fleet
        .db
        .execute(
            "mw_worker",
            "UPDATE work_queue SET due_at = now() WHERE due_at IS NOT NULL",
        )
        .await
        .expect("due");
    fleet.run_due().await;
    assert_eq!(fleet.operation(id).await.state, OperationState::Succeeded);
    assert_eq!(
        fleet
            .cluster(cluster)
            .await
            .credential_lifetime
            .map(|life| life.serial),
        Some(2)
    );
}

#[tokio::test]
async fn a_mesh_is_not_made_where_another_istio_came_after_the_registration() {
    let fleet = Fleet::new().await;
    let leftovers = [
        "validatingwebhookconfiguration/istiod-default-validator",
        "validatingwebhookconfiguration/istio-validator-istio-system",
    ];
    fleet.clusters.set_foreign_webhooks("c2", &leftovers);
    let before = fleet.clusters.journal().len();
    let operation = fleet
        .queue_operation(OperationKind::CreateMesh, serde_json::Value::Null)
        .await;
    fleet.run_due().await;
    let OperationState::Paused { problem } = fleet.operation(operation).await.state else {
        panic!("it is not paused")
    };
    assert_eq!(problem.code, ProblemCode::ForeignIstio);
    let words = format!("{} {}", problem.message, problem.hint);
    assert!(
        words.contains("c2") && leftovers.iter().all(|name| words.contains(name)),
        "{words}"
    );
    assert_eq!(
        fleet.clusters.journal().len(),
        before,
        "nothing was written"
    );
}

#[tokio::test]
async fn what_a_look_notices_is_shown_until_a_later_look_does_not() {
    let fleet = Fleet::new().await;
    let (cluster, _) = fleet.register_cluster("noticed").await;
    fleet.run_due().await;
    let finding = Finding {
        severity: Severity::Warn,
        code: ProblemCode::WebhookSilent.into(),
        object: "mutatingwebhookconfiguration/image-scanner".into(),
        message: "It does not answer.".into(),
        hint: "Remove it.".into(),
    };
    let engine = fleet.build_worker("worker", Duration::from_secs(30));
    for findings in [vec![finding], Vec::new()] {
        fleet.credentials.set_findings(findings.clone());
        fleet
            .db
            .execute("mw_worker", "UPDATE cluster_probes SET due_at = now()")
            .await
            .expect("every cluster is due");
        while engine.monitor_due().await.expect("the database answers") {}
        assert_eq!(fleet.cluster(cluster).await.findings, findings);
    }
}

#[tokio::test]
async fn rows_that_share_a_cluster_from_before_are_kept_and_the_oldest_holds_it() {
    const MIGRATION: &str = include_str!("../../../migrations/0028_cluster_identity.sql");
    let (one, other) = two_tenants().await;
    let mut registrations = Vec::new();
    for fleet in [&one, &other] {
        let (cluster, _) = fleet.register_cluster("shared").await;
        fleet.run_due().await;
        registrations.push(cluster);
    }
    let long = "x".repeat(4000);
    let before = format!(
        "DO $$ BEGIN ALTER TABLE clusters DROP COLUMN identity, DROP COLUMN former; UPDATE clusters SET uid = '{long}';
         UPDATE clusters SET uid = '{SHARED}' WHERE cluster_id IN ('{}', '{}'); END $$",
        registrations[0].0, registrations[1].0
    );
    one.db
        .execute(meshwright_store::embedded_postgres::SUPERUSER, &before)
        .await
        .expect("a database of an earlier version");
    one.db
        .execute_script("mw_owner", MIGRATION)
        .await
        .expect("a migration that cannot fail on what exists");
    let held = [
        one.cluster(registrations[0]).await.holds_identity,
        other.cluster(registrations[1]).await.holds_identity,
    ];
    assert_eq!(held, [true, false]);
}
