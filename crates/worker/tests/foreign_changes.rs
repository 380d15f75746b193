//! Targets that others have changed or removed: a removed namespace needs no label, a changed label is left alone, a changed tag stops an operation.

use meshwright_model::ids::UpgradeId;
use meshwright_model::operation::Problem;
use meshwright_model::plan::Target;
use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::{UpgradeState, Verb};
use meshwright_testkit::Fleet;
use serde_json::{Value, json};

/// Returns the label of the namespace that names its revision.
fn label(member: &str) -> Target {
    Target::NamespaceLabel {
        member: member.parse().expect("a name"),
        namespace: "explicit".into(),
    }
}

async fn started() -> (Fleet, UpgradeId) {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    (fleet, upgrade)
}

/// Returns a fleet whose upgrade holds, with every namespace on the new revision.
async fn holding() -> (Fleet, UpgradeId) {
    let (fleet, upgrade) = started().await;
    let promoted = fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
    assert_eq!(promoted.state.as_str(), "holding", "{:?}", promoted.state);
    (fleet, upgrade)
}

fn paused(state: UpgradeState) -> Problem {
    match state {
        UpgradeState::Paused { problem, .. } => problem,
        state => panic!("it is not paused: {state:?}"),
    }
}

/// Stops a stage at the label of a namespace, deletes the namespace, and retries the stage.
async fn delete_namespace_in(verb: Verb, arguments: Value) -> UpgradeState {
    let (fleet, upgrade) = started().await;
    fleet.clusters.set_writes_refused(&label("c1"), true);
    fleet
        .apply_verb(upgrade, verb, arguments)
        .await
        .expect("a verb that fits");
    fleet.run_due().await;
    let problem = paused(fleet.upgrade(upgrade).await.state);
    assert_eq!(problem.code, "permission_missing", "{problem:?}");
    fleet.clusters.delete_namespace("c1", "explicit");
    fleet.clusters.set_writes_refused(&label("c1"), false);
    fleet.apply_verb_and_run(upgrade, Verb::Retry).await.state
}

#[tokio::test]
async fn a_deleted_namespace_does_not_stop_a_rollback() {
    let (fleet, upgrade) = holding().await;
    fleet.clusters.delete_namespace("c1", "explicit");
    let rolled = fleet.apply_verb_and_run(upgrade, Verb::Rollback).await;
    assert_eq!(rolled.state.as_str(), "rolled_back", "{:?}", rolled.state);
}

#[tokio::test]
async fn a_namespace_that_is_deleted_during_the_roll_out_does_not_stop_it() {
    let rolled = delete_namespace_in(Verb::Promote, Value::Null).await;
    assert_eq!(rolled.as_str(), "holding", "{rolled:?}");
}

#[tokio::test]
async fn a_namespace_that_is_deleted_during_its_move_does_not_stop_it() {
    let namespaces = json!({ "namespaces": [["c1", "explicit"]] });
    let moved = delete_namespace_in(Verb::Move, namespaces).await;
    assert_eq!(moved.as_str(), "verifying", "{moved:?}");
}

/// A label that another party has changed is theirs: it is not written back, and it holds nothing else up. Its pods would
/// start without a sidecar by now, so the rollback names them and restarts all others.
#[tokio::test]
async fn a_namespace_without_its_label_stops_no_other_part_of_a_rollback() {
    let (fleet, upgrade) = holding().await;
    fleet.clusters.change_externally(label("c1"), None);
    let stopped = fleet.apply_verb_and_run(upgrade, Verb::Rollback).await;
    let problem = paused(stopped.state);
    assert_eq!(problem.code, "rollout_partial");
    assert!(
        problem.message.contains("explicit/deployment/web in c1")
            && !problem.message.contains("stable/deployment/web"),
        "{}",
        problem.message
    );
    let written = |write: &meshwright_testkit::world::AcceptedWrite| {
        write.target == label("c1") && write.to.as_deref() == Some("istio.io/rev=1-25-1")
    };
    assert!(!fleet.clusters.journal().iter().any(written));
    fleet
        .clusters
        .change_externally(label("c1"), Some("istio.io/rev=stable"));
    let rolled = fleet.apply_verb_and_run(upgrade, Verb::Retry).await.state;
    assert_eq!(rolled.as_str(), "rolled_back", "{rolled:?}");
}

#[tokio::test]
async fn an_operation_that_is_paused_names_every_step_that_is_blocked() {
    let (fleet, upgrade) = holding().await;
    let tag = |member: &str| Target::Tag {
        member: member.parse().expect("a name"),
        tag: "stable".into(),
    };
    for member in ["c1", "c2"] {
        fleet
            .clusters
            .change_externally(tag(member), Some("1-24-0"));
    }
    let stopped = fleet.apply_verb_and_run(upgrade, Verb::Rollback).await;
    let problem = paused(stopped.state);
    assert_eq!(problem.code, "changed_by_someone_else");
    let message = problem.message;
    assert!(
        message.contains("And 1 more step is blocked: "),
        "{message}"
    );
    for member in ["c1", "c2"] {
        let named = format!("tag stable in {member}");
        assert!(message.contains(&named), "{message}");
    }
}
