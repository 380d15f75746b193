//! A cluster refuses one object of several, as a quota or a policy does: the way back leaves nothing, the way on finishes.

use meshwright_model::Name;
use meshwright_model::ids::UpgradeId;
use meshwright_model::operation::{OperationKind, OperationState};
use meshwright_model::plan::Target;
use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::{UpgradeState, Verb};
use meshwright_model::version::RevisionName;
use meshwright_testkit::Fleet;
use meshwright_testkit::world::target_parts;
use serde_json::Value;

fn name(text: &str) -> Name {
    text.parse().expect(text)
}

fn revision(text: &str) -> RevisionName {
    text.parse().expect(text)
}

/// What differs between two pictures. Definitions stay newer by design.
fn differs(before: &str, after: &str) -> Vec<String> {
    let lost = before.lines().filter(|line| !after.contains(line));
    let gained = after.lines().filter(|line| !before.contains(line));
    lost.chain(gained)
        .filter(|line| !line.starts_with("custom resource"))
        .map(str::to_owned)
        .collect()
}

/// Every object that a deployment of 1.27.9 beside 1.25.1, or in its place, writes.
fn every_object(line: &RevisionName) -> Vec<(Target, &'static str)> {
    let member = name("c2");
    let targets = [
        Target::Address {
            revision: line.clone(),
        },
        Target::Crds {
            member: member.clone(),
        },
        Target::MemberObjects {
            member,
            revision: line.clone(),
        },
        Target::ControlPlane {
            revision: line.clone(),
        },
    ];
    let of = |target: Target| {
        target_parts(&target, "1.27.9.1")
            .into_iter()
            .map(move |part| (target.clone(), part))
    };
    targets.into_iter().flat_map(of).collect()
}

async fn refused(fleet: &Fleet, upgrade: UpgradeId, (target, part): &(Target, &'static str)) {
    fleet.clusters.refuse_part(target, part, true);
    let state = fleet.apply_verb_and_run(upgrade, Verb::Start).await.state;
    let paused =
        matches!(&state, UpgradeState::Paused { problem, .. } if problem.code == "cluster_refused");
    assert!(paused, "{target}: {part}: {state:?}");
    fleet.clusters.refuse_part(target, part, false);
}

#[tokio::test]
async fn a_canary_of_which_any_object_was_refused_is_rolled_back_to_the_start() {
    let line = revision("1-27-9");
    for object in every_object(&line) {
        let fleet = Fleet::new().await;
        let before = fleet.clusters.snapshot();
        let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
        refused(&fleet, upgrade, &object).await;
        let (target, part) = &object;
        assert_eq!(
            fleet
                .apply_verb_and_run(upgrade, Verb::Rollback)
                .await
                .state
                .as_str(),
            "rolled_back",
            "{target}: {part}"
        );
        assert_eq!(
            differs(&before, &fleet.clusters.snapshot()),
            Vec::<String>::new(),
            "{target}: {part}"
        );
    }
}

/// In place the old and the new release share their objects: what was applied of the new one would go on injecting.
#[tokio::test]
async fn a_change_in_place_of_which_any_object_was_refused_is_rolled_back_to_the_start() {
    let line = revision("1-25-1");
    for object in every_object(&line)
        .into_iter()
        .filter(|(target, _)| !matches!(target, Target::Address { .. }))
    {
        let fleet = Fleet::new().await;
        fleet.allow_two_minors_in_place().await;
        let before = fleet.clusters.snapshot();
        let upgrade = fleet
            .plan_upgrade("1.27.9.1", Strategy::InPlace, 3600)
            .await;
        refused(&fleet, upgrade, &object).await;
        let (target, part) = &object;
        assert_eq!(
            fleet
                .apply_verb_and_run(upgrade, Verb::Rollback)
                .await
                .state
                .as_str(),
            "rolled_back",
            "{target}: {part}"
        );
        assert_eq!(
            differs(&before, &fleet.clusters.snapshot()),
            Vec::<String>::new(),
            "{target}: {part}"
        );
    }
}

#[tokio::test]
async fn a_canary_goes_on_from_the_object_that_was_refused() {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 0).await;
    let line = Target::ControlPlane {
        revision: revision("1-27-9"),
    };
    refused(&fleet, upgrade, &(line, "deployment")).await;
    assert_eq!(
        fleet
            .apply_verb_and_run(upgrade, Verb::Retry)
            .await
            .state
            .as_str(),
        "verifying"
    );
    assert_eq!(
        fleet
            .apply_verb_and_run(upgrade, Verb::Promote)
            .await
            .state
            .as_str(),
        "succeeded"
    );
    assert!(
        !fleet.clusters.snapshot().contains("in part"),
        "{}",
        fleet.clusters.snapshot()
    );
}

/// A mesh whose creation stopped inside its first target can be taken down again.
#[tokio::test]
async fn a_mesh_of_which_an_object_was_refused_is_deleted_whole() {
    let fleet = Fleet::new().await;
    fleet.clusters.clear_workloads();
    let line = Target::ControlPlane {
        revision: revision("1-25-1"),
    };
    // As a creation leaves it that was stopped in the middle and cancelled.
    fleet.clusters.leave_partial(&line);
    let delete = fleet
        .queue_operation(OperationKind::DeleteMesh, Value::Null)
        .await;
    fleet.run_due().await;
    assert_eq!(
        fleet.operation(delete).await.state,
        OperationState::Succeeded
    );
    let left = fleet.clusters.snapshot();
    let left: Vec<&str> = left
        .lines()
        .filter(|line| !line.starts_with("custom resource") && !line.starts_with("label of"))
        .collect();
    assert_eq!(left, Vec::<&str>::new());
}

#[tokio::test]
async fn only_an_operation_that_can_be_rolled_back_advises_it() {
    let fleet = Fleet::with_pending_mesh().await;
    let part = (
        Target::MeshNamespace,
        target_parts(&Target::MeshNamespace, "present")[1],
    );
    fleet.clusters.refuse_part(&part.0, part.1, true);
    let creation = fleet
        .queue_operation(OperationKind::CreateMesh, Value::Null)
        .await;
    fleet.run_due().await;
    let OperationState::Paused { problem } = fleet.operation(creation).await.state else {
        panic!("the creation is not paused")
    };
    assert_eq!(problem.code, "cluster_refused");
    assert_eq!(
        problem.hint,
        "Put right what it complains about, then retry."
    );

    let fleet = Fleet::new().await;
    let line = revision("1-27-9");
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    refused(&fleet, upgrade, &every_object(&line)[0]).await;
    let hint = |state| match state {
        UpgradeState::Paused { problem, .. } => problem.hint,
        state => panic!("it is not paused: {state:?}"),
    };
    let deploying = hint(fleet.upgrade(upgrade).await.state);
    assert!(deploying.ends_with(", or roll back."), "{deploying}");
    let address = Target::Address { revision: line };
    fleet.clusters.set_writes_refused(&address, true);
    let back = fleet.apply_verb_and_run(upgrade, Verb::Rollback).await;
    let rolling_back = hint(back.state);
    assert!(!rolling_back.contains("roll back"), "{rolling_back}");
}
