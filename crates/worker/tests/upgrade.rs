//! Upgrades through the engine, on a real Postgres and imagined clusters.

use std::sync::Arc;
use std::time::Duration;

use meshwright_model::ids::UpgradeId;
use meshwright_model::operation::{OperationKind, OperationState};
use meshwright_model::plan::{Target, WorkloadKind, WorkloadRef};
use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::{LabelPolicy, UpgradeState, Verb};
use meshwright_testkit::Fleet;
use meshwright_testkit::world::{Cut, RolloutBehaviour};
use serde_json::json;
use tokio::sync::Notify;

fn state(upgrade: &meshwright_store::Upgrade) -> &'static str {
    upgrade.state.as_str()
}

fn web(namespace: &str) -> WorkloadRef {
    WorkloadRef {
        namespace: namespace.into(),
        kind: WorkloadKind::Deployment,
        name: "web".into(),
    }
}

/// How often each workload's stamp was written.
fn restarts(fleet: &Fleet) -> Vec<String> {
    let journal = fleet.clusters.journal();
    journal
        .iter()
        .filter(|write| matches!(write.target, Target::Workload { .. }))
        .map(|write| write.target.to_string())
        .collect()
}

#[tokio::test]
async fn a_canary_moves_every_labelled_workload_once_and_leaves_the_others_alone() {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 0).await;
    assert_eq!(
        state(&fleet.apply_verb_and_run(upgrade, Verb::Start).await),
        "verifying"
    );
    assert_eq!(
        state(&fleet.apply_verb_and_run(upgrade, Verb::Promote).await),
        "succeeded"
    );
    let picture = fleet.clusters.snapshot();
    for namespace in ["canary", "enabled", "explicit", "stable"] {
        assert!(
            picture.contains(&format!(
                "{namespace}/deployment/web in c1: lab/proxyv2:1.27.9 lab/proxyv2:1.27.9 lab/proxyv2:1.27.9\n"
            )),
            "{picture}"
        );
    }
    assert!(
        picture.contains("plain/deployment/web in c1: - - -\n"),
        "{picture}"
    );
    assert!(
        !picture.contains("1-25-1 = "),
        "the old revision is gone: {picture}"
    );
    let mut restarted = restarts(&fleet);
    restarted.sort();
    let unique = restarted.len();
    restarted.dedup();
    assert_eq!(
        (restarted.len(), unique),
        (8, 8),
        "four workloads in two clusters, once each"
    );
}

#[tokio::test]
async fn b4_namespaces_that_named_the_old_revision_name_the_new_one() {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 0).await;
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
    assert!(
        fleet
            .clusters
            .snapshot()
            .contains("label of namespace explicit in c1 = istio.io/rev=1-27-9")
    );
}

#[tokio::test]
async fn b4_labels_that_somebody_else_owns_become_an_alias_of_the_new_revision_and_of_the_one_after()
 {
    let fleet = Fleet {
        labels: LabelPolicy::Alias,
        ..Fleet::new().await
    };
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 0).await;
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    assert_eq!(
        state(&fleet.apply_verb_and_run(upgrade, Verb::Promote).await),
        "succeeded"
    );
    let picture = fleet.clusters.snapshot();
    assert!(
        picture.contains("label of namespace explicit in c1 = istio.io/rev=1-25-1"),
        "{picture}"
    );
    assert!(picture.contains("tag 1-25-1 in c1 = 1-27-9"), "{picture}");
    assert!(
        picture.contains("explicit/deployment/web in c1: lab/proxyv2:1.27.9"),
        "{picture}"
    );
    assert!(!picture.contains("objects of 1-25-1"), "{picture}");
    let mut restarted = restarts(&fleet);
    restarted.sort();
    restarted.dedup();
    assert_eq!(
        (restarted.len(), restarts(&fleet).len()),
        (8, 8),
        "four workloads in two clusters, once each"
    );
}

#[tokio::test]
async fn b7_rollback_takes_an_alias_back() {
    let fleet = Fleet {
        labels: LabelPolicy::Alias,
        ..Fleet::new().await
    };
    let before = fleet.clusters.snapshot();
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    assert_eq!(
        state(&fleet.apply_verb_and_run(upgrade, Verb::Promote).await),
        "holding"
    );
    assert_eq!(
        state(&fleet.apply_verb_and_run(upgrade, Verb::Rollback).await),
        "rolled_back"
    );
    let changed: Vec<_> = fleet
        .clusters
        .snapshot()
        .lines()
        .filter(|line| !before.contains(line))
        .map(str::to_owned)
        .collect();
    assert!(
        changed
            .iter()
            .all(|line| line.starts_with("custom resource")),
        "{changed:?}"
    );
}

#[tokio::test]
async fn b4_labels_can_block_and_resources_that_name_the_revision_always_do() {
    let fleet = Fleet {
        labels: LabelPolicy::Block,
        ..Fleet::new().await
    };
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 0).await;
    fleet
        .clusters
        .add_revision_pin("virtualservices shop/web in c1");
    let blocked = fleet.apply_verb_and_run(upgrade, Verb::Start).await.state;
    let UpgradeState::Blocked { findings } = &blocked else {
        panic!("{blocked:?}")
    };
    let codes: Vec<(&str, &str)> = findings
        .iter()
        .map(|finding| (finding.code.as_str(), finding.object.as_str()))
        .collect();
    assert_eq!(
        codes,
        [
            ("resource_names_revision", "virtualservices shop/web in c1"),
            ("label_names_revision", "c1: namespace explicit"),
            ("label_names_revision", "c2: namespace explicit"),
            ("services_stay_local", "c1, c2")
        ]
    );
}

/// Rolls back from wherever `reach` leads, and answers what is not as it was. Definitions stay newer by design.
async fn differs_after(
    reach: impl AsyncFn(&Fleet, meshwright_model::ids::UpgradeId),
) -> Vec<String> {
    let fleet = Fleet::new().await;
    let before = fleet.clusters.snapshot();
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    reach(&fleet, upgrade).await;
    let after = fleet.apply_verb_and_run(upgrade, Verb::Rollback).await;
    assert_eq!(state(&after), "rolled_back", "{:?}", after.state);
    let picture = fleet.clusters.snapshot();
    let lost = before.lines().filter(|line| !picture.contains(line));
    let gained = picture.lines().filter(|line| !before.contains(line));
    lost.chain(gained)
        .filter(|line| !line.starts_with("custom resource"))
        .map(str::to_owned)
        .collect()
}

async fn comes_back_from(reach: impl AsyncFn(&Fleet, meshwright_model::ids::UpgradeId)) {
    assert_eq!(differs_after(reach).await, Vec::<String>::new());
}

#[tokio::test]
async fn b7_rollback_after_the_deployment_restores_everything() {
    comes_back_from(async |fleet, upgrade| {
        fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    })
    .await;
}

#[tokio::test]
async fn b7_rollback_with_a_namespace_on_the_canary_restores_everything() {
    comes_back_from(async |fleet, upgrade| {
        fleet.apply_verb_and_run(upgrade, Verb::Start).await;
        fleet
            .apply_verb(
                upgrade,
                Verb::Move,
                json!({ "namespaces": [["c1", "enabled"]] }),
            )
            .await
            .expect("move fits");
        fleet.run_due().await;
        assert!(
            fleet
                .clusters
                .snapshot()
                .contains("enabled/deployment/web in c1: lab/proxyv2:1.27.9")
        );
    })
    .await;
}

#[tokio::test]
async fn b7_rollback_in_the_middle_of_the_promotion_strands_no_pod_of_the_mixed_window() {
    let differs = differs_after(async |fleet, upgrade| {
        fleet.apply_verb_and_run(upgrade, Verb::Start).await;
        lose_c2_in_the_promotion(fleet, upgrade).await;
        // A pod that is created now has the new sidecar, although its template was not patched.
        fleet.clusters.evict_pod("c1", &web("stable"));
        fleet.clusters.set_unreachable("c2", false);
    })
    .await;
    // The stray pod had to be restarted through a template that was unchanged: the one exception,
    // by name.
    assert!(
        matches!(&differs[..], [stamp] if stamp.starts_with("stable/deployment/web in c1 = op_")),
        "{differs:?}"
    );
}

#[tokio::test]
async fn b5_a_promotion_that_a_member_refuses_is_restored_and_can_be_asked_again() {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    let before = fleet.clusters.snapshot();
    let tag = Target::Tag {
        member: "c2".parse().expect("a name"),
        tag: "stable".into(),
    };
    fleet.clusters.set_writes_refused(&tag, true);
    let restored = fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
    assert!(
        matches!(&restored.state, UpgradeState::Verifying { problem: Some(problem), .. } if problem.code == "permission_missing"),
        "{:?}",
        restored.state
    );
    assert_eq!(fleet.clusters.snapshot(), before);
    let stable = Target::Tag {
        member: "c1".parse().expect("a name"),
        tag: "stable".into(),
    };
    let moves = fleet
        .clusters
        .journal()
        .into_iter()
        .filter(|write| write.target == stable && write.from.is_some());
    assert_eq!(
        moves
            .map(|write| write.to.unwrap_or_default())
            .collect::<Vec<_>>(),
        ["1-27-9", "1-25-1"]
    );
    fleet.clusters.set_writes_refused(&tag, false);
    assert_eq!(
        state(&fleet.apply_verb_and_run(upgrade, Verb::Promote).await),
        "holding"
    );
    assert_eq!(
        state(&fleet.apply_verb_and_run(upgrade, Verb::Rollback).await),
        "rolled_back"
    );
}

#[tokio::test]
async fn b7_rollback_in_the_middle_of_the_roll_out_restores_everything() {
    comes_back_from(async |fleet, upgrade| {
        fleet.apply_verb_and_run(upgrade, Verb::Start).await;
        fleet.clusters.set_rollout_behaviour("c2", &web("stable"), RolloutBehaviour::NeverReady);
        let paused = fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
        assert!(
            matches!(&paused.state, UpgradeState::Paused { problem, .. } if problem.code == "rollout_partial"),
            "{:?}",
            paused.state
        );
        fleet.clusters.set_rollout_behaviour("c2", &web("stable"), RolloutBehaviour::Healthy);
    })
    .await;
}

#[tokio::test]
async fn b7_rollback_while_holding_restores_everything() {
    comes_back_from(async |fleet, upgrade| {
        fleet.apply_verb_and_run(upgrade, Verb::Start).await;
        assert_eq!(
            state(&fleet.apply_verb_and_run(upgrade, Verb::Promote).await),
            "holding"
        );
    })
    .await;
}

#[tokio::test]
async fn holding_ends_at_once_when_asked() {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
    assert_eq!(
        state(&fleet.apply_verb_and_run(upgrade, Verb::Retire).await),
        "succeeded"
    );
    let refused = fleet
        .apply_verb(upgrade, Verb::Rollback, json!(null))
        .await
        .expect_err("it is over");
    assert!(matches!(
        refused,
        meshwright_store::StoreError::Transition(_)
    ));
}

/// The member falls silent at its own first tag, and the promotion pauses.
async fn lose_c2_in_the_promotion(fleet: &Fleet, upgrade: UpgradeId) {
    // The third write of the promotion.
    let go_on = Arc::new(Notify::new());
    fleet.clusters.cut_at(3, Cut::Frozen(go_on.clone()));
    fleet
        .apply_verb(upgrade, Verb::Promote, json!(null))
        .await
        .expect("promote fits");
    let worker = fleet.build_worker("w", Duration::from_secs(30));
    let running = tokio::spawn(async move { worker.run_due().await });
    assert!(fleet.clusters.wait_for_cut(Duration::from_secs(10)).await);
    fleet.clusters.set_unreachable("c2", true);
    go_on.notify_one();
    // Time passes beyond the patience while the worker looks again and again.
    let silent = async {
        while !matches!(
            fleet.upgrade(upgrade).await.state,
            UpgradeState::Paused { .. }
        ) {
            fleet.clock.advance(jiff::SignedDuration::from_secs(30));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), silent)
        .await
        .expect("it pauses");
    running.await.expect("no panic").expect("a readable queue");
    let paused = fleet.upgrade(upgrade).await;
    assert!(
        matches!(&paused.state, UpgradeState::Paused { problem, .. } if problem.code == "tag_split"),
        "{:?}",
        paused.state
    );
}

#[tokio::test]
async fn e2_a_member_lost_during_the_promotion_splits_the_tags_and_both_revisions_stay() {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 0).await;
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    lose_c2_in_the_promotion(&fleet, upgrade).await;
    let picture = fleet.clusters.snapshot();
    assert!(
        picture.contains("control plane 1-25-1 = ") && picture.contains("control plane 1-27-9 = "),
        "{picture}"
    );
    fleet.clusters.set_unreachable("c2", false);
    assert_eq!(
        state(&fleet.apply_verb_and_run(upgrade, Verb::Retry).await),
        "succeeded"
    );
}

#[tokio::test]
async fn somebody_elses_change_stops_the_step_and_is_not_overwritten() {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 0).await;
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    let tag = Target::Tag {
        member: "c1".parse().expect("a name"),
        tag: "stable".into(),
    };
    fleet
        .clusters
        .change_externally(tag.clone(), Some("1-26-0"));
    let paused = fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
    assert!(
        matches!(&paused.state, UpgradeState::Paused { .. }),
        "{:?}",
        paused.state
    );
    assert!(
        fleet
            .clusters
            .snapshot()
            .contains("tag stable in c1 = 1-26-0")
    );
    fleet.clusters.change_externally(tag, Some("1-25-1"));
    assert_eq!(
        state(&fleet.apply_verb_and_run(upgrade, Verb::Retry).await),
        "succeeded"
    );
}

#[tokio::test]
async fn a_second_upgrade_is_refused_while_one_runs_and_welcome_afterwards() {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 0).await;
    let mut tx = fleet.db.begin_beside_workers().await;
    let refused = tx
        .meshes()
        .acquire_mesh_lock(fleet.mesh, "another")
        .await
        .expect_err("the slot is taken");
    assert!(
        matches!(refused, meshwright_store::StoreError::MeshLocked { holder } if holder == upgrade.to_string())
    );
    drop(tx);
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
    let next = fleet.plan_upgrade("1.27.9.2", Strategy::InPlace, 0).await;
    assert_eq!(
        state(&fleet.apply_verb_and_run(next, Verb::Start).await),
        "succeeded"
    );
    assert_eq!(
        restarts(&fleet).len(),
        8,
        "equal proxy image: nothing was restarted for the new build"
    );
}

#[tokio::test]
async fn in_place_across_a_patch_restarts_once_and_the_old_name_still_injects() {
    let fleet = Fleet::new().await;
    let canary = fleet.plan_upgrade("1.27.8.1", Strategy::Canary, 0).await;
    fleet.apply_verb_and_run(canary, Verb::Start).await;
    fleet.apply_verb_and_run(canary, Verb::Promote).await;
    let before = restarts(&fleet).len();
    let patch = fleet.plan_upgrade("1.27.9.1", Strategy::InPlace, 0).await;
    assert_eq!(
        state(&fleet.apply_verb_and_run(patch, Verb::Start).await),
        "succeeded"
    );
    assert_eq!(
        restarts(&fleet).len() - before,
        8,
        "another proxy image: one restart each"
    );
    let picture = fleet.clusters.snapshot();
    assert!(
        picture.contains("tag 1-27-9 in c1 = 1-27-8"),
        "the new name is an alias of the slot: {picture}"
    );
    assert!(
        picture.contains("explicit/deployment/web in c1: lab/proxyv2:1.27.9"),
        "{picture}"
    );
}

#[tokio::test]
async fn pause_resume_and_retry_are_heeded() {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 0).await;
    fleet
        .apply_verb(upgrade, Verb::Start, json!(null))
        .await
        .expect("start fits");
    let worker = fleet.build_worker("w", Duration::from_secs(30));
    assert_eq!(state(&fleet.upgrade(upgrade).await), "prechecking");
    worker.run_due().await.expect("a readable queue");
    fleet
        .apply_verb(upgrade, Verb::Promote, json!(null))
        .await
        .expect("promote fits");
    fleet
        .apply_verb(upgrade, Verb::Pause, json!(null))
        .await
        .expect("pause fits");
    let writes = fleet.clusters.journal().len();
    fleet.run_due().await;
    assert_eq!(state(&fleet.upgrade(upgrade).await), "paused");
    assert_eq!(
        fleet.clusters.journal().len(),
        writes,
        "nothing is written after the pause is visible"
    );
    fleet
        .apply_verb(upgrade, Verb::Resume, json!(null))
        .await
        .expect("resume fits");
    fleet.run_due().await;
    assert_eq!(state(&fleet.upgrade(upgrade).await), "succeeded");
}

#[tokio::test]
async fn deleting_a_mesh_leaves_nothing_but_definitions() {
    let fleet = Fleet::new().await;
    for member in ["c1", "c2"] {
        for namespace in ["canary", "enabled", "explicit", "stable"] {
            fleet.clusters.change_externally(
                Target::NamespaceLabel {
                    member: member.parse().expect("a name"),
                    namespace: namespace.into(),
                },
                None,
            );
            for _ in 0..3 {
                fleet.clusters.evict_pod(member, &web(namespace));
            }
        }
    }
    let operation = fleet
        .queue_operation(OperationKind::DeleteMesh, json!(null))
        .await;
    fleet.run_due().await;
    assert_eq!(
        fleet.operation(operation).await.state,
        OperationState::Succeeded
    );
    let left: Vec<String> = fleet
        .clusters
        .snapshot()
        .lines()
        .filter(|line| line.contains(" = "))
        .map(str::to_owned)
        .collect();
    assert_eq!(
        left,
        [
            "custom resource definitions in c1 = 1.25.1.1",
            "custom resource definitions in c2 = 1.25.1.1"
        ]
    );
}
