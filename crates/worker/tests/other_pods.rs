//! Pods that no restart of ours reaches: a rollback in place evicts those that a controller creates
//! again, and names the others.

use meshwright_model::ids::UpgradeId;
use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::{UpgradeState, Verb};
use meshwright_testkit::Fleet;

const OLD_IMAGE: &str = "lab/proxyv2:1.25.1";
const NEW_IMAGE: &str = "lab/proxyv2:1.27.9";

/// Upgrades in place to the end of the roll-out.
async fn holding_in_place(fleet: &Fleet) -> UpgradeId {
    fleet.allow_two_minors_in_place().await;
    let upgrade = fleet
        .plan_upgrade("1.27.9.1", Strategy::InPlace, 3600)
        .await;
    let state = fleet.apply_verb_and_run(upgrade, Verb::Start).await.state;
    assert_eq!(state.as_str(), "holding", "{state:?}");
    upgrade
}

/// Returns the line that shows a pod with its identity and its image.
fn line_of(fleet: &Fleet, pod: &str) -> String {
    let picture = fleet.clusters.snapshot();
    let found = picture
        .lines()
        .find(|line| line.starts_with(&format!("pod {pod}/")));
    found.unwrap_or_else(|| panic!("{picture}")).to_owned()
}

#[tokio::test]
async fn b7_a_rollback_in_place_evicts_pods_of_controllers_that_it_cannot_restart() {
    let fleet = Fleet::new().await;
    fleet
        .clusters
        .add_other_pod("c1", "stable", "from-before", true);
    let before = line_of(&fleet, "stable/from-before");
    assert!(before.ends_with(OLD_IMAGE), "{before}");
    let upgrade = holding_in_place(&fleet).await;
    for name in ["report-a", "report-b"] {
        fleet.clusters.add_other_pod("c1", "stable", name, true);
    }
    assert!(line_of(&fleet, "stable/report-a").ends_with(NEW_IMAGE));
    let rolled = fleet.apply_verb_and_run(upgrade, Verb::Rollback).await;
    assert_eq!(rolled.state.as_str(), "rolled_back", "{:?}", rolled.state);
    assert!(!fleet.clusters.snapshot().contains(NEW_IMAGE));
    assert_eq!(
        line_of(&fleet, "stable/from-before"),
        before,
        "a pod of the old release is not evicted"
    );
}

#[tokio::test]
async fn b7_a_rollback_in_place_names_a_pod_that_has_no_controller() {
    let fleet = Fleet::new().await;
    let upgrade = holding_in_place(&fleet).await;
    fleet.clusters.add_other_pod("c1", "stable", "debug", false);
    let state = fleet
        .apply_verb_and_run(upgrade, Verb::Rollback)
        .await
        .state;
    let UpgradeState::Paused { problem, .. } = state else {
        panic!("it is not paused: {state:?}")
    };
    assert_eq!(problem.code, "rollout_partial");
    assert!(
        problem.message.contains("pod stable/debug in c1"),
        "{}",
        problem.message
    );
}

/// The reason is a budget of the users, so the problem has to say so.
#[tokio::test]
async fn b7_an_eviction_that_a_budget_forbids_names_the_budget() {
    let fleet = Fleet::new().await;
    let upgrade = holding_in_place(&fleet).await;
    fleet.clusters.add_other_pod("c1", "stable", "report", true);
    fleet.clusters.set_evictions_forbidden(true);
    let _running = fleet.run_clock(600);
    let state = fleet
        .apply_verb_and_run(upgrade, Verb::Rollback)
        .await
        .state;
    let UpgradeState::Paused { problem, .. } = state else {
        panic!("it is not paused: {state:?}")
    };
    assert_eq!(problem.code, "rollout_partial");
    let operation = fleet.upgrade(upgrade).await.operation.expect("a stage");
    let mut tx = fleet.db.begin_beside_workers().await;
    let steps = tx.operations().list_steps(operation).await.expect("a plan");
    let failed = steps
        .iter()
        .filter_map(|item| item.progress.failed.as_ref());
    let named = failed.filter(|problem| problem.message.contains("disruption budget"));
    assert_eq!(named.count(), 1, "{steps:?}");
    drop(tx);
    fleet.clusters.set_evictions_forbidden(false);
    let rolled = fleet.apply_verb_and_run(upgrade, Verb::Retry).await;
    assert_eq!(rolled.state.as_str(), "rolled_back", "{:?}", rolled.state);
}
