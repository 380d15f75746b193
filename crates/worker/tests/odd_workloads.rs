//! One workload never stops another: a roll-out moves what it can, names what is left with its reason, and goes on when a
//! person says so. A rollback finds every pod of the new revision, whichever way it was born.

use jiff::SignedDuration;
use meshwright_model::ids::UpgradeId;
use meshwright_model::operation::{OperationKind, OperationState, Problem, StepState};
use meshwright_model::plan::{Step, Target, WorkloadKind, WorkloadRef};
use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::{UpgradeState, Verb};
use meshwright_rollout::ports::NextPod;
use meshwright_store::PlannedStep;
use meshwright_testkit::Fleet;
use meshwright_testkit::world::RolloutBehaviour;
use serde_json::json;

const OLD_IMAGE: &str = "lab/proxyv2:1.25.1";
const NEW_IMAGE: &str = "lab/proxyv2:1.27.9";

fn web(namespace: &str) -> WorkloadRef {
    WorkloadRef {
        namespace: namespace.into(),
        kind: WorkloadKind::Deployment,
        name: "web".into(),
    }
}

async fn verifying(hold_seconds: u32) -> (Fleet, UpgradeId) {
    let fleet = Fleet::new().await;
    let upgrade = fleet
        .plan_upgrade("1.27.9.1", Strategy::Canary, hold_seconds)
        .await;
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    (fleet, upgrade)
}

fn paused(state: UpgradeState) -> Problem {
    match state {
        UpgradeState::Paused { problem, .. } => problem,
        state => panic!("it is not paused: {state:?}"),
    }
}

/// Returns the images of a workload's pods.
fn images(fleet: &Fleet, member: &str, namespace: &str) -> String {
    let picture = fleet.clusters.snapshot();
    let start = format!("{namespace}/deployment/web in {member}: ");
    picture
        .lines()
        .find_map(|line| line.strip_prefix(&start))
        .unwrap_or_else(|| panic!("{picture}"))
        .to_owned()
}

/// Returns the steps of the upgrade's current stage.
async fn list_steps(fleet: &Fleet, upgrade: UpgradeId) -> Vec<PlannedStep> {
    let operation = fleet.upgrade(upgrade).await.operation.expect("a stage");
    let mut tx = fleet.db.begin_beside_workers().await;
    let steps = tx.operations().list_steps(operation).await;
    steps.expect("a stored plan")
}

/// Returns the states of the restarts of a workload in the upgrade's current stage.
async fn restart_states(fleet: &Fleet, upgrade: UpgradeId, namespace: &str) -> Vec<StepState> {
    list_steps(fleet, upgrade)
        .await
        .iter()
        .filter(|item| matches!(&item.step, Step::Restart { workload, .. } if workload.namespace == namespace))
        .map(|item| item.progress.state())
        .collect()
}

/// Promotes a canary whose workload `stable/web` in c2 never becomes ready.
async fn promoted_with_a_broken_workload(hold_seconds: u32) -> (Fleet, UpgradeId) {
    let (fleet, upgrade) = verifying(hold_seconds).await;
    fleet
        .clusters
        .set_rollout_behaviour("c2", &web("stable"), RolloutBehaviour::NeverReady);
    let problem = paused(fleet.apply_verb_and_run(upgrade, Verb::Promote).await.state);
    assert_eq!(problem.code, "rollout_partial");
    assert!(
        problem.message.contains("stable/deployment/web in c2"),
        "{}",
        problem.message
    );
    (fleet, upgrade)
}

#[tokio::test]
async fn d4_a_workload_that_never_becomes_ready_stops_no_other_one() {
    let (fleet, upgrade) = promoted_with_a_broken_workload(3600).await;
    for namespace in ["canary", "enabled", "explicit"] {
        for member in ["c1", "c2"] {
            assert!(!images(&fleet, member, namespace).contains(OLD_IMAGE));
        }
    }
    assert!(!images(&fleet, "c1", "stable").contains(OLD_IMAGE));
    fleet
        .clusters
        .set_rollout_behaviour("c2", &web("stable"), RolloutBehaviour::Healthy);
    let held = fleet.apply_verb_and_run(upgrade, Verb::Retry).await.state;
    assert_eq!(held.as_str(), "holding", "{held:?}");
    assert!(!images(&fleet, "c2", "stable").contains(OLD_IMAGE));
}

/// Changes the behaviour of every workload in the mesh.
fn set_behaviour_of_all(fleet: &Fleet, behaviour: RolloutBehaviour) {
    for member in ["c1", "c2"] {
        for namespace in ["canary", "enabled", "explicit", "stable"] {
            fleet
                .clusters
                .set_rollout_behaviour(member, &web(namespace), behaviour);
        }
    }
}

/// A broken release must not go through the whole mesh.
#[tokio::test]
async fn d4_after_three_failures_no_further_restart_begins() {
    let (fleet, upgrade) = verifying(3600).await;
    set_behaviour_of_all(&fleet, RolloutBehaviour::NeverReady);
    let problem = paused(fleet.apply_verb_and_run(upgrade, Verb::Promote).await.state);
    assert_eq!(problem.code, "rollout_partial");
    assert!(
        problem.message.contains("were not begun"),
        "{}",
        problem.message
    );
    let restarted = fleet
        .clusters
        .journal()
        .iter()
        .filter(|write| matches!(write.target, Target::Workload { .. }))
        .count();
    assert!(restarted < 8, "{restarted} of 8 were restarted");
    set_behaviour_of_all(&fleet, RolloutBehaviour::Healthy);
    let held = fleet.apply_verb_and_run(upgrade, Verb::Retry).await.state;
    assert_eq!(held.as_str(), "holding", "{held:?}");
    assert!(!fleet.clusters.snapshot().contains(OLD_IMAGE));
}

#[tokio::test]
async fn d4_a_person_can_go_on_without_a_workload_and_the_old_revision_stays_protected() {
    let (fleet, upgrade) = promoted_with_a_broken_workload(3600).await;
    let held = fleet.apply_verb_and_run(upgrade, Verb::Skip).await.state;
    assert_eq!(held.as_str(), "holding", "{held:?}");
    assert!(images(&fleet, "c2", "stable").contains(OLD_IMAGE));
    let _ticking = fleet.run_clock(600);
    let problem = paused(fleet.apply_verb_and_run(upgrade, Verb::Retire).await.state);
    assert_eq!(problem.code, "revision_in_use", "{}", problem.message);
    assert!(
        problem.message.contains("pod stable/web-"),
        "{}",
        problem.message
    );
}

#[tokio::test]
async fn d4_skip_is_offered_only_when_workloads_are_left() {
    let (fleet, upgrade) = promoted_with_a_broken_workload(3600).await;
    let offered = |state: &UpgradeState| state.allowed_verbs().contains(&Verb::Skip);
    assert!(offered(&fleet.upgrade(upgrade).await.state));
    let (other, stopped) = verifying(3600).await;
    other.clusters.set_unreachable("c2", true);
    let _ticking = other.run_clock(600);
    let state = other.apply_verb_and_run(stopped, Verb::Promote).await.state;
    assert!(matches!(state, UpgradeState::Paused { .. }), "{state:?}");
    assert!(!offered(&state));
}

#[tokio::test]
async fn d3_workloads_whose_pods_would_not_come_back_are_listed_and_not_restarted() {
    let (fleet, upgrade) = verifying(3600).await;
    let refused = NextPod::Refused("the quota pods is used up".into());
    fleet.clusters.set_next_pod("c1", &web("stable"), refused);
    fleet
        .clusters
        .set_next_pod("c1", &web("enabled"), NextPod::NotInjected);
    let problem = paused(fleet.apply_verb_and_run(upgrade, Verb::Promote).await.state);
    assert_eq!(problem.code, "rollout_partial");
    for reason in ["the quota pods is used up", "would start without a sidecar"] {
        assert!(problem.message.contains(reason), "{}", problem.message);
    }
    assert!(!images(&fleet, "c1", "stable").contains(NEW_IMAGE));
    assert!(
        restart_states(&fleet, upgrade, "stable")
            .await
            .contains(&StepState::Excluded)
    );
    let stamped = fleet.clusters.journal().into_iter().any(|write| {
        matches!(&write.target, Target::Workload { member, workload }
            if member.as_str() == "c1" && (workload.namespace == "stable" || workload.namespace == "enabled"))
    });
    assert!(!stamped, "an excluded workload was restarted");
}

#[tokio::test]
async fn d1_a_workload_that_opts_out_by_an_annotation_is_never_restarted() {
    let fleet = Fleet::new().await;
    fleet
        .clusters
        .set_next_pod("c1", &web("plain"), NextPod::NotInjected);
    let operation = fleet
        .queue_operation(OperationKind::Restart, json!(null))
        .await;
    fleet.run_due().await;
    assert_eq!(
        fleet.operation(operation).await.state,
        OperationState::Succeeded
    );
    assert_eq!(images(&fleet, "c1", "plain"), "- - -");
}

#[tokio::test]
async fn b7_a_workload_that_failed_in_the_roll_out_comes_back_with_all_others() {
    let (fleet, upgrade) = promoted_with_a_broken_workload(3600).await;
    fleet
        .clusters
        .set_rollout_behaviour("c2", &web("stable"), RolloutBehaviour::Healthy);
    let state = fleet
        .apply_verb_and_run(upgrade, Verb::Rollback)
        .await
        .state;
    assert_eq!(state.as_str(), "rolled_back", "{state:?}");
    assert!(!fleet.clusters.snapshot().contains(NEW_IMAGE));
}

#[tokio::test]
async fn b7_a_rollback_from_holding_takes_back_pods_that_were_born_meanwhile() {
    let (fleet, upgrade) = verifying(3600).await;
    fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
    fleet
        .clusters
        .add_workload("c1", "late", Some("istio.io/rev=stable"), 2);
    assert!(images(&fleet, "c1", "late").contains(NEW_IMAGE));
    let state = fleet
        .apply_verb_and_run(upgrade, Verb::Rollback)
        .await
        .state;
    assert_eq!(state.as_str(), "rolled_back", "{state:?}");
    assert!(!fleet.clusters.snapshot().contains(NEW_IMAGE));
}

#[tokio::test]
async fn steps_of_a_rollback_advise_neither_a_rollback_nor_a_skip() {
    let (fleet, upgrade) = verifying(3600).await;
    fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
    let refused = Target::Workload {
        member: "c1".parse().expect("a name"),
        workload: web("stable"),
    };
    fleet.clusters.set_writes_refused(&refused, true);
    fleet
        .clusters
        .set_next_pod("c2", &web("stable"), NextPod::NotInjected);
    let rolled = fleet.apply_verb_and_run(upgrade, Verb::Rollback).await;
    assert_eq!(paused(rolled.state).code, "rollout_partial");
    let steps = list_steps(&fleet, upgrade).await;
    let problems: Vec<&Problem> = steps
        .iter()
        .flat_map(|item| item.progress.failed.iter().chain(&item.progress.excluded))
        .collect();
    let codes = ["permission_missing", "not_injected", "rollout_partial"];
    for code in codes {
        let of = problems.iter().find(|problem| problem.code == code);
        let hint = &of.unwrap_or_else(|| panic!("{problems:?}")).hint;
        assert!(
            !hint.contains("roll back") && !hint.contains("skip"),
            "{hint}"
        );
    }
}

/// Stops a retirement at its first removal, which is refused, after the revision was seen unused.
async fn stopped_before_the_first_removal() -> (Fleet, UpgradeId, Target) {
    let (fleet, upgrade) = verifying(3600).await;
    fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
    let control_plane = Target::ControlPlane {
        revision: "1-25-1".parse().expect("a revision name"),
    };
    fleet.clusters.set_writes_refused(&control_plane, true);
    let problem = paused(fleet.apply_verb_and_run(upgrade, Verb::Retire).await.state);
    assert_eq!(problem.code, "permission_missing", "{problem:?}");
    fleet.clusters.set_writes_refused(&control_plane, false);
    (fleet, upgrade, control_plane)
}

/// A proof does not outlive the look that it was made in, however long the pause was. The search is
/// as expensive as the one before it, so it is not repeated more often.
#[tokio::test]
async fn b8_nothing_is_removed_when_a_tag_was_moved_back_during_a_pause() {
    let (mut fleet, upgrade, control_plane) = stopped_before_the_first_removal().await;
    fleet.user_search_interval = SignedDuration::from_mins(1);
    let tag = Target::Tag {
        member: "c1".parse().expect("a name"),
        tag: "canary".into(),
    };
    fleet
        .clusters
        .change_externally(tag.clone(), Some("1-25-1"));
    let before = fleet.clusters.count_user_searches();
    let ticking = fleet.run_clock(600);
    let problem = paused(fleet.apply_verb_and_run(upgrade, Verb::Retry).await.state);
    drop(ticking);
    let searches = fleet.clusters.count_user_searches() - before;
    assert!(
        searches <= 12,
        "{searches} searches in the ten minutes of the limit"
    );
    assert_eq!(problem.code, "revision_in_use", "{}", problem.message);
    assert!(
        problem.message.contains("tag canary in c1"),
        "{}",
        problem.message
    );
    assert!(!was_removed(&fleet, &control_plane));
    fleet.clusters.change_externally(tag, Some("1-27-9"));
    let state = fleet.apply_verb_and_run(upgrade, Verb::Retry).await.state;
    assert_eq!(state.as_str(), "succeeded", "{state:?}");
}

#[tokio::test]
async fn b8_nothing_is_removed_when_a_pod_of_the_old_revision_appeared_during_a_pause() {
    let (fleet, upgrade, control_plane) = stopped_before_the_first_removal().await;
    fleet
        .clusters
        .add_workload("c2", "late", Some("istio.io/rev=1-25-1"), 1);
    let _ticking = fleet.run_clock(600);
    let problem = paused(fleet.apply_verb_and_run(upgrade, Verb::Retry).await.state);
    assert_eq!(problem.code, "revision_in_use", "{}", problem.message);
    assert!(problem.message.contains("late"), "{}", problem.message);
    assert!(!was_removed(&fleet, &control_plane));
}

fn was_removed(fleet: &Fleet, target: &Target) -> bool {
    let journal = fleet.clusters.journal();
    journal
        .iter()
        .any(|write| write.target == *target && write.from.is_some() && write.to.is_none())
}

/// Sends a signal to one step of the upgrade's current stage, as the API does, and runs all work
/// that follows.
async fn ask_step(fleet: &Fleet, upgrade: UpgradeId, verb: Verb, number: i32) -> UpgradeState {
    let mut tx = fleet.db.begin_beside_workers().await;
    tx.upgrades()
        .apply_verb_to_item(upgrade, (verb, "key:test"), number, fleet.clock.as_ref())
        .await
        .expect("a verb that fits");
    tx.commit().await.expect("a commit");
    fleet.run_due().await;
    fleet.upgrade(upgrade).await.state
}

/// Returns the numbers of the steps of the upgrade's current stage that are in a state.
async fn steps_in(fleet: &Fleet, upgrade: UpgradeId, state: StepState) -> Vec<i32> {
    let operation = fleet.upgrade(upgrade).await.operation.expect("a stage");
    let mut tx = fleet.db.begin_beside_workers().await;
    let steps = tx.operations().list_steps(operation).await.expect("steps");
    let restarts = steps
        .iter()
        .filter(|item| matches!(item.step, Step::Restart { .. }));
    restarts
        .filter(|item| item.progress.state() == state)
        .map(|item| item.number)
        .collect()
}

/// Promotes a canary of which the workloads in `stable` never become ready in c1 and in c2.
async fn promoted_with_two_broken_workloads() -> (Fleet, UpgradeId) {
    let (fleet, upgrade) = verifying(3600).await;
    for member in ["c1", "c2"] {
        fleet
            .clusters
            .set_rollout_behaviour(member, &web("stable"), RolloutBehaviour::NeverReady);
    }
    paused(fleet.apply_verb_and_run(upgrade, Verb::Promote).await.state);
    (fleet, upgrade)
}

fn restarts_of(fleet: &Fleet, member: &str) -> usize {
    let journal = fleet.clusters.journal();
    let of = |target: &Target| matches!(target, Target::Workload { member: at, workload } if at.as_str() == member && workload.namespace == "stable");
    journal.iter().filter(|write| of(&write.target)).count()
}

#[tokio::test]
async fn d2_a_retry_of_one_workload_restarts_that_one_only() {
    let (fleet, upgrade) = promoted_with_two_broken_workloads().await;
    let failed = steps_in(&fleet, upgrade, StepState::Failed).await;
    assert_eq!(failed.len(), 2);
    for member in ["c1", "c2"] {
        fleet
            .clusters
            .set_rollout_behaviour(member, &web("stable"), RolloutBehaviour::Healthy);
    }
    let before = (restarts_of(&fleet, "c1"), restarts_of(&fleet, "c2"));
    let problem = paused(ask_step(&fleet, upgrade, Verb::Retry, failed[0]).await);
    assert_eq!(problem.code, "rollout_partial", "{}", problem.message);
    assert_eq!(
        steps_in(&fleet, upgrade, StepState::Failed).await,
        failed[1..]
    );
    let after = (restarts_of(&fleet, "c1"), restarts_of(&fleet, "c2"));
    assert_eq!(after.0 + after.1, before.0 + before.1 + 1);
    let held = ask_step(&fleet, upgrade, Verb::Retry, failed[1]).await;
    assert_eq!(held.as_str(), "holding", "{held:?}");
}

#[tokio::test]
async fn d2_a_roll_out_ends_when_its_last_workload_is_skipped() {
    let (fleet, upgrade) = promoted_with_two_broken_workloads().await;
    let failed = steps_in(&fleet, upgrade, StepState::Failed).await;
    let problem = paused(ask_step(&fleet, upgrade, Verb::Skip, failed[0]).await);
    assert_eq!(problem.code, "rollout_partial", "{}", problem.message);
    let held = ask_step(&fleet, upgrade, Verb::Skip, failed[1]).await;
    assert_eq!(held.as_str(), "holding", "{held:?}");
    for member in ["c1", "c2"] {
        assert!(images(&fleet, member, "stable").contains(OLD_IMAGE));
    }
}

/// A restart that was excluded would start pods without their sidecar, so it is not begun as it is.
#[tokio::test]
async fn d2_a_retry_of_an_excluded_workload_looks_again_before_it_restarts() {
    let (fleet, upgrade) = verifying(3600).await;
    let next = |pod: NextPod| fleet.clusters.set_next_pod("c1", &web("stable"), pod);
    next(NextPod::NotInjected);
    paused(fleet.apply_verb_and_run(upgrade, Verb::Promote).await.state);
    let excluded = steps_in(&fleet, upgrade, StepState::Excluded).await;
    paused(ask_step(&fleet, upgrade, Verb::Retry, excluded[0]).await);
    assert_eq!(
        restarts_of(&fleet, "c1"),
        0,
        "its next pod would have no sidecar"
    );
    next(NextPod::Injected(meshwright_model::plan::Sidecar {
        revision: "1-27-9".parse().expect("a revision name"),
        image: NEW_IMAGE.into(),
    }));
    let held = ask_step(&fleet, upgrade, Verb::Retry, excluded[0]).await;
    assert_eq!(held.as_str(), "holding", "{held:?}");
    assert!(images(&fleet, "c1", "stable").contains(NEW_IMAGE));
}
