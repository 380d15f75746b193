//! Every operation ends: a defect, a damaged row, text that cannot be stored and a cluster that is gone end in `failed`
//! with a problem, and free what the operation held.

use std::sync::atomic::Ordering;
use std::time::Duration;

use meshwright_model::ids::{ClusterId, OperationId};
use meshwright_model::operation::{OperationKind, OperationState};
use meshwright_model::plan::Target;
use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::{UpgradeState, Verb};
use meshwright_store::ClusterState;
use meshwright_store::embedded_postgres::SUPERUSER;
use meshwright_testkit::Fleet;
use meshwright_testkit::credentials::CallBehaviour;
use meshwright_testkit::world::Cut;
use serde_json::json;
use tokio::sync::Notify;

/// More claims than an operation gets that records nothing.
const CLAIMS: usize = 30;

/// Claims what is due again and again, as if all rests were over.
async fn claim_until_it_ends(fleet: &Fleet) {
    let worker = fleet.build_worker("worker", Duration::from_secs(30));
    for _ in 0..CLAIMS {
        let due = "UPDATE work_queue SET due_at = now(), lease_until = now() - interval '1 second'";
        if fleet.db.execute("mw_worker", due).await.expect("a queue") == 0 {
            return;
        }
        worker.run_due().await.expect("a readable queue");
    }
}

async fn cluster(fleet: &Fleet, id: ClusterId) -> ClusterState {
    let mut tx = fleet.db.begin_beside_workers().await;
    tx.clusters()
        .get_cluster(id)
        .await
        .expect("the cluster")
        .state
}

/// An outage of ours says nothing about the operation, so it is tried for about six hours; and then it ends all the same.
#[tokio::test]
async fn an_outage_of_the_database_is_waited_out_for_hours_and_not_for_ever() {
    let fleet = Fleet::new().await;
    let operation = fleet
        .queue_operation(OperationKind::Restart, json!(null))
        .await;
    fleet.fail_mesh_reads.store(true, Ordering::Relaxed);
    claim_until_it_ends(&fleet).await;
    assert!(
        !fleet.operation(operation).await.state.is_terminal(),
        "after {CLAIMS} claims"
    );
    claim_until_it_ends(&fleet).await;
    assert_eq!(failed_with(&fleet, operation).await, "attempts_exhausted");
    let next = fleet
        .queue_operation(OperationKind::Restart, json!(null))
        .await;
    claim_until_it_ends(&fleet).await;
    fleet.fail_mesh_reads.store(false, Ordering::Relaxed);
    claim_until_it_ends(&fleet).await;
    assert_eq!(fleet.operation(next).await.state, OperationState::Succeeded);
}

/// The code of the problem that an operation failed with.
async fn failed_with(fleet: &Fleet, id: OperationId) -> String {
    match fleet.operation(id).await.state {
        OperationState::Failed { problem } => problem.code.to_string(),
        state => panic!("it did not fail: {state:?}"),
    }
}

#[tokio::test]
async fn a_panic_in_a_registration_ends_in_failed() {
    let fleet = Fleet::new().await;
    let (id, operation) = fleet.register_cluster("c3").await;
    fleet.credentials.set_call_behaviour(CallBehaviour::Panics);
    claim_until_it_ends(&fleet).await;
    assert_eq!(failed_with(&fleet, operation).await, "attempts_exhausted");
    assert!(
        matches!(cluster(&fleet, id).await, ClusterState::Refused(problem) if problem.code == "attempts_exhausted")
    );
}

#[tokio::test]
async fn a_version_that_the_database_cannot_hold_ends_in_failed() {
    let fleet = Fleet::new().await;
    let (id, operation) = fleet.register_cluster("c3").await;
    fleet.credentials.set_kubernetes_version("v1.33\0");
    claim_until_it_ends(&fleet).await;
    assert_eq!(failed_with(&fleet, operation).await, "attempts_exhausted");
    assert!(matches!(
        cluster(&fleet, id).await,
        ClusterState::Refused(_)
    ));
}

#[tokio::test]
async fn a_cluster_that_was_deleted_meanwhile_ends_its_registration() {
    let fleet = Fleet::new().await;
    let (id, operation) = fleet.register_cluster("c3").await;
    let gone = format!("DELETE FROM clusters WHERE cluster_id = '{}'", id.0);
    let deleted = fleet.db.execute(SUPERUSER, &gone).await;
    assert_eq!(deleted, Ok(1), "the row is gone");
    claim_until_it_ends(&fleet).await;
    assert_eq!(failed_with(&fleet, operation).await, "cluster_gone");
}

#[tokio::test]
async fn a_damaged_operation_ends_in_failed_and_frees_its_mesh() {
    let fleet = Fleet::new().await;
    let operation = fleet
        .queue_operation(OperationKind::Restart, json!(null))
        .await;
    damage(&fleet, "operations", operation).await;
    claim_until_it_ends(&fleet).await;
    assert_eq!(failed_with(&fleet, operation).await, "attempts_exhausted");
    let mut tx = fleet.db.begin_beside_workers().await;
    assert_eq!(
        tx.meshes()
            .get_mesh(fleet.mesh)
            .await
            .expect("the mesh")
            .lock_holder,
        None
    );
}

/// Writes a state into the rows of an operation that no server knows.
async fn damage(fleet: &Fleet, table: &str, operation: OperationId) {
    let id = operation.0;
    let damage = format!(
        "UPDATE {table} SET state_body = '{{\"state\":\"unheard_of\"}}' WHERE operation_id = '{id}'"
    );
    assert_eq!(
        fleet.db.execute(SUPERUSER, &damage).await,
        Ok(1),
        "the row is damaged"
    );
}

#[tokio::test]
async fn a_damaged_stage_leaves_an_upgrade_that_can_be_retried() {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 0).await;
    let started = fleet
        .apply_verb(upgrade, Verb::Start, json!(null))
        .await
        .expect("start fits");
    damage(&fleet, "operations", started.operation.expect("a stage")).await;
    claim_until_it_ends(&fleet).await;
    let blocked = fleet.upgrade(upgrade).await.state;
    assert!(
        matches!(&blocked, UpgradeState::Blocked { findings } if findings[0].code == "attempts_exhausted"),
        "{blocked:?}"
    );
    assert_eq!(
        fleet
            .apply_verb_and_run(upgrade, Verb::Retry)
            .await
            .state
            .as_str(),
        "verifying"
    );
}

#[tokio::test]
async fn a_damaged_upgrade_is_given_up_and_frees_its_mesh() {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 0).await;
    let started = fleet
        .apply_verb(upgrade, Verb::Start, json!(null))
        .await
        .expect("start fits");
    let operation = started.operation.expect("a stage");
    damage(&fleet, "upgrades", operation).await;
    claim_until_it_ends(&fleet).await;
    assert_eq!(failed_with(&fleet, operation).await, "attempts_exhausted");
    assert_eq!(fleet.upgrade(upgrade).await.state.as_str(), "abandoned");
    let mut tx = fleet.db.begin_beside_workers().await;
    assert_eq!(
        tx.meshes()
            .get_mesh(fleet.mesh)
            .await
            .expect("the mesh")
            .lock_holder,
        None
    );
}

#[tokio::test]
async fn a_registration_under_way_is_shown_as_running() {
    let fleet = Fleet::new().await;
    let (_, operation) = fleet.register_cluster("c3").await;
    fleet.credentials.set_call_behaviour(CallBehaviour::Hangs);
    let worker = fleet.build_worker("worker", Duration::from_secs(30));
    let running = tokio::spawn(async move { worker.run_due().await });
    let shown = async {
        while fleet.operation(operation).await.state == OperationState::Queued {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), shown)
        .await
        .expect("it is shown");
    assert_eq!(
        fleet.operation(operation).await.state,
        OperationState::Running
    );
    running.abort();
}

/// A person's pause and a failure in one look: the upgrade stands still once, with the failure, and goes on once.
#[tokio::test]
async fn a_pause_and_a_failure_in_one_look_stand_still_once() {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    let label = Target::NamespaceLabel {
        member: "c1".parse().expect("a name"),
        namespace: "explicit".into(),
    };
    fleet.clusters.set_writes_refused(&label, true);
    assert_eq!(
        fleet
            .apply_verb_and_run(upgrade, Verb::Promote)
            .await
            .state
            .as_str(),
        "paused",
        "the roll-out is refused"
    );
    let go_on = std::sync::Arc::new(Notify::new());
    fleet.clusters.cut_at(1, Cut::Frozen(go_on.clone()));
    fleet
        .apply_verb(upgrade, Verb::Retry, json!(null))
        .await
        .expect("retry fits");
    let worker = fleet.build_worker("worker", Duration::from_secs(30));
    let running = tokio::spawn(async move { worker.run_due().await });
    assert!(fleet.clusters.wait_for_cut(Duration::from_secs(10)).await);
    fleet
        .apply_verb(upgrade, Verb::Pause, json!(null))
        .await
        .expect("pause fits");
    go_on.notify_one();
    running.await.expect("no panic").expect("a readable queue");
    fleet.run_due().await;
    let paused = fleet.upgrade(upgrade).await.state;
    let UpgradeState::Paused { from, problem } = &paused else {
        panic!("{paused:?}")
    };
    assert_eq!(
        (&**from, problem.code.as_str()),
        (&UpgradeState::Rolling, "permission_missing")
    );
    let writes = fleet.clusters.journal().len();
    fleet.run_due().await;
    assert_eq!(
        fleet.clusters.journal().len(),
        writes,
        "no write is accepted while the pause is visible"
    );
    fleet.clusters.set_writes_refused(&label, false);
    assert_eq!(
        fleet
            .apply_verb_and_run(upgrade, Verb::Retry)
            .await
            .state
            .as_str(),
        "holding"
    );
}
