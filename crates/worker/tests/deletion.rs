//! A forced deletion leaves a member behind only as long as that member does not answer.

use std::time::Duration;

use jiff::SignedDuration;
use meshwright_model::Clock;
use meshwright_model::ids::OperationId;
use meshwright_model::leftover::Leftover;
use meshwright_model::operation::{OperationKind, OperationState};
use meshwright_model::plan::Target;
use meshwright_model::problem::ProblemCode;
use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::{LabelPolicy, UpgradeState, Verb};
use meshwright_rollout::ports::{ClusterError, MeshClusters};
use meshwright_store::{MeshState, StoreError, force_arguments};
use meshwright_testkit::Fleet;
use serde_json::json;
use tokio::task::JoinHandle;

/// Queues a forced deletion of the mesh, and runs it until it waits.
async fn delete_by_force(fleet: &Fleet) -> OperationId {
    let reason = force_arguments(Some("the region is gone"));
    let id = fleet
        .queue_operation(OperationKind::DeleteMesh, reason)
        .await;
    fleet.run_due().await;
    id
}

/// Makes everything due again after so many seconds, without running it.
async fn pass(fleet: &Fleet, seconds: i64) {
    fleet.clock.advance(SignedDuration::from_secs(seconds));
    fleet
        .db
        .execute("mw_worker", "UPDATE work_queue SET due_at = now()")
        .await
        .expect("it is due");
}

/// Looks again after so many seconds.
async fn later(fleet: &Fleet, seconds: i64) {
    pass(fleet, seconds).await;
    fleet.run_due().await;
}

async fn paused_with(fleet: &Fleet, operation: OperationId) -> (String, String) {
    match fleet.operation(operation).await.state {
        OperationState::Paused { problem } => (problem.code.to_string(), problem.hint),
        state => panic!("it is not paused: {state:?}"),
    }
}

/// Runs a worker, and waits until the operation waits for something that contains these words.
async fn run_until_waiting_for(
    fleet: &Fleet,
    operation: OperationId,
    words: &str,
) -> JoinHandle<Result<(), StoreError>> {
    let worker = fleet.build_worker("worker", Duration::from_secs(30));
    let running = tokio::spawn(async move { worker.run_due().await.map(drop) });
    let waits = async {
        while !fleet
            .operation(operation)
            .await
            .waiting_for
            .is_some_and(|reason| reason.contains(words))
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waits)
        .await
        .unwrap_or_else(|_| panic!("it does not wait for {words}"));
    running
}

#[tokio::test]
async fn a_member_that_comes_back_while_the_mesh_is_in_use_is_seen_before_the_first_removal() {
    let fleet = Fleet::new().await;
    fleet.clusters.set_unreachable("c2", true);
    let deletion = delete_by_force(&fleet).await;
    pass(&fleet, 180).await;
    let running = run_until_waiting_for(&fleet, deletion, "still in use").await;
    let writes = fleet.clusters.journal().len();
    fleet.clusters.set_unreachable("c2", false);
    fleet.clusters.clear_workloads();
    running.await.expect("no panic").expect("a readable queue");
    let (code, hint) = paused_with(&fleet, deletion).await;
    assert_eq!(code, "member_answers");
    for way in ["--force", "operation cancel", "mesh retry"] {
        assert!(hint.contains(way), "{way}: {hint}");
    }
    assert_eq!(
        fleet.clusters.journal().len(),
        writes,
        "nothing was removed under it"
    );
}

#[tokio::test]
async fn patience_that_ends_during_the_look_leaves_the_member_behind() {
    let fleet = Fleet::new().await;
    fleet.clusters.set_unreachable("c2", true);
    fleet
        .clusters
        .set_silence_duration(&fleet.clock, SignedDuration::from_secs(5));
    fleet.clusters.clear_workloads();
    let deletion = delete_by_force(&fleet).await;
    assert_eq!(fleet.operation(deletion).await.state.as_str(), "waiting");
    later(&fleet, 118).await;
    assert_eq!(
        fleet.operation(deletion).await.state,
        OperationState::Succeeded
    );
}

#[tokio::test]
async fn a_member_that_refuses_our_credential_is_waited_for_and_then_left_behind() {
    for code in [ProblemCode::CredentialExpired, ProblemCode::AddressRefused] {
        let fleet = Fleet::new().await;
        let refusal = ClusterError::Refused {
            place: "c2".into(),
            code,
            cause: "it no longer knows the token".into(),
        };
        fleet.clusters.set_member_error("c2", Some(refusal));
        fleet.clusters.clear_workloads();
        let deletion = delete_by_force(&fleet).await;
        let state = fleet.operation(deletion).await.state;
        assert_eq!(state.as_str(), "waiting", "{state:?}");
        later(&fleet, 60).await;
        let state = fleet.operation(deletion).await.state;
        assert_eq!(state.as_str(), "waiting", "{state:?}");
        later(&fleet, 120).await;
        let deleted = fleet.operation(deletion).await;
        assert_eq!(deleted.state, OperationState::Succeeded);
        let behind = |left: &Leftover| left.cluster.as_str() == "c2";
        assert!(deleted.leftovers.iter().any(behind), "{code:?}");
    }
}

/// Names of the objects that a forced deletion lists for the silent member c2.
async fn leftovers_in_c2(fleet: &Fleet) -> Vec<String> {
    fleet.clusters.set_unreachable("c2", true);
    fleet.clusters.clear_workloads();
    let deletion = delete_by_force(fleet).await;
    later(fleet, 180).await;
    let deleted = fleet.operation(deletion).await;
    assert_eq!(deleted.state, OperationState::Succeeded);
    let there = deleted.leftovers.into_iter();
    there
        .filter(|left| left.cluster.as_str() == "c2")
        .map(|left| left.name)
        .collect()
}

#[tokio::test]
async fn leftovers_name_the_alias_that_an_upgrade_has_left() {
    let fleet = Fleet {
        labels: LabelPolicy::Alias,
        ..Fleet::new().await
    };
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 0).await;
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    let ended = fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
    assert_eq!(ended.state, UpgradeState::Succeeded);
    let left = leftovers_in_c2(&fleet).await;
    assert!(left.contains(&"tag 1-25-1 in c2".into()), "{left:?}");
}

#[tokio::test]
async fn leftovers_name_the_alias_that_was_last_observed() {
    let fleet = Fleet::new().await;
    let alias = Target::Tag {
        member: "c2".parse().expect("a name"),
        tag: "1-24-0".into(),
    };
    fleet.clusters.change_externally(alias, Some("1-25-1"));
    let survey = fleet.clusters.observe_mesh().await.expect("an observation");
    let mut tx = fleet
        .db
        .worker
        .begin(fleet.db.tenant)
        .await
        .expect("a transaction");
    tx.meshes()
        .store_observation(fleet.mesh, &survey, fleet.clock.now())
        .await
        .expect("a newer observation");
    tx.commit().await.expect("a commit");
    let left = leftovers_in_c2(&fleet).await;
    assert!(left.contains(&"tag 1-24-0 in c2".into()), "{left:?}");
}

/// Deletes the mesh by force after an upgrade that the loss of c2 has stranded while both members had its revision and
/// its tags. Then c2 answers again.
async fn delete_after_abandoned_upgrade(fleet: &Fleet) {
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    let held = fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
    assert_eq!(held.state.as_str(), "holding");
    fleet.clusters.clear_workloads();
    fleet.clusters.set_unreachable("c2", true);
    fleet.apply_verb_and_run(upgrade, Verb::Rollback).await;
    later(fleet, 180).await;
    let abandoned = fleet.apply_verb_and_run(upgrade, Verb::Abandon).await;
    assert_eq!(abandoned.state.as_str(), "abandoned");
    let deletion = delete_by_force(fleet).await;
    later(fleet, 180).await;
    let deleted = fleet.operation(deletion).await.state;
    assert_eq!(deleted, OperationState::Succeeded);
    fleet.clusters.set_unreachable("c2", false);
}

/// Restores the deleted mesh.
async fn undelete(fleet: &Fleet) {
    let mut tx = fleet.db.begin().await;
    let former = tx
        .meshes()
        .get_deleted_mesh(fleet.mesh)
        .await
        .expect("it is deleted");
    tx.meshes()
        .undelete_mesh(fleet.mesh, &former.members)
        .await
        .expect("free members");
    tx.commit().await.expect("a commit");
    let creation = fleet
        .queue_operation(OperationKind::CreateMesh, json!(null))
        .await;
    fleet.run_due().await;
    let created = fleet.operation(creation).await.state;
    assert_eq!(created, OperationState::Succeeded);
}

#[tokio::test]
async fn a_mesh_is_restored_where_an_abandoned_upgrade_has_left_its_tags_and_has_no_target() {
    let fleet = Fleet::new().await;
    delete_after_abandoned_upgrade(&fleet).await;
    let deleted = fleet.db.begin().await.meshes().get_mesh(fleet.mesh).await;
    assert_eq!(deleted.expect("the mesh").target, None);
    undelete(&fleet).await;
    let restored = fleet.db.begin().await.meshes().get_mesh(fleet.mesh).await;
    let restored = restored.expect("the mesh");
    assert_eq!((restored.state, restored.target), (MeshState::Ready, None));
    let picture = fleet.clusters.snapshot();
    for tag in ["stable", "default"] {
        let line = format!("tag {tag} in c2 = 1-25-1");
        assert!(picture.contains(&line), "{picture}");
    }
}

#[tokio::test]
async fn a_restored_mesh_is_deleted_with_the_revision_that_an_abandoned_upgrade_has_left() {
    let fleet = Fleet::new().await;
    delete_after_abandoned_upgrade(&fleet).await;
    undelete(&fleet).await;
    let picture = fleet.clusters.snapshot();
    assert!(picture.contains("objects of 1-27-9 in c2"), "{picture}");
    let deletion = fleet
        .queue_operation(OperationKind::DeleteMesh, json!(null))
        .await;
    tokio::time::timeout(Duration::from_secs(30), fleet.run_due())
        .await
        .expect("nothing is waited for");
    let deleted = fleet.operation(deletion).await.state;
    assert_eq!(deleted, OperationState::Succeeded);
}
