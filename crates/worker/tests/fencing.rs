//! Writes of operations that have ended are refused once the next operation of the mesh has begun.

use std::sync::Arc;
use std::time::Duration;

use meshwright_model::Clock as _;
use meshwright_model::ids::{OperationId, UpgradeId};
use meshwright_model::operation::{OperationKind, OperationState, Signal};
use meshwright_model::plan::Target;
use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::Verb;
use meshwright_rollout::ports::ClusterError;
use meshwright_testkit::world::Cut;
use meshwright_testkit::{Fleet, WorkerThread};
use serde_json::{Value, json};
use tokio::sync::Notify;

const LIMIT: Duration = Duration::from_secs(20);

/// A worker whose write is on its way for as long as the test wants. Its lease is alive.
struct Frozen {
    go_on: Arc<Notify>,
    process: WorkerThread,
}

impl Frozen {
    /// Freezes the write that comes after so many others.
    async fn at(fleet: &Fleet, write: u64, lease: Duration) -> Self {
        let go_on = Arc::new(Notify::new());
        fleet.clusters.cut_at(write, Cut::Frozen(go_on.clone()));
        let process = fleet.start_worker_thread("frozen", lease, None);
        assert!(fleet.clusters.wait_for_cut(LIMIT).await);
        fleet.clusters.clear_cut();
        process.pause().await;
        Self { go_on, process }
    }

    async fn wakes_up(mut self) {
        self.go_on.notify_one();
        self.process.resume();
        assert!(self.process.wait_for_end(LIMIT).await, "it ends");
    }

    async fn wakes_up_and_writes_nothing(self, fleet: &Fleet) {
        let journal = fleet.clusters.journal();
        self.wakes_up().await;
        let late: Vec<_> = fleet.clusters.journal().split_off(journal.len());
        assert!(
            late.is_empty(),
            "a worker of an ended operation wrote: {late:?}"
        );
    }
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

async fn deployed() -> (Fleet, UpgradeId, String) {
    let fleet = Fleet::new().await;
    let before = fleet.clusters.snapshot();
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    (fleet, upgrade, before)
}

#[tokio::test]
async fn a_promotion_that_was_superseded_moves_no_tag_after_the_rollback() {
    let (fleet, upgrade, before) = deployed().await;
    fleet
        .apply_verb(upgrade, Verb::Promote, Value::Null)
        .await
        .expect("promote fits");
    let frozen = Frozen::at(&fleet, 1, Duration::from_secs(30)).await;
    assert_eq!(
        fleet
            .apply_verb_and_run(upgrade, Verb::Rollback)
            .await
            .state
            .as_str(),
        "rolled_back"
    );
    frozen.wakes_up_and_writes_nothing(&fleet).await;
    assert_eq!(
        differs(&before, &fleet.clusters.snapshot()),
        Vec::<String>::new()
    );
}

/// A creation carries no version that a cluster could refuse: the rollback waits until its worker has no right to write any
/// more, and only then says that nothing is left.
#[tokio::test]
async fn a_deployment_that_was_superseded_creates_nothing_after_the_rollback() {
    let fleet = Fleet::new().await;
    let before = fleet.clusters.snapshot();
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    fleet
        .apply_verb(upgrade, Verb::Start, Value::Null)
        .await
        .expect("start fits");
    let frozen = Frozen::at(&fleet, 1, Duration::from_secs(2)).await;
    assert_eq!(
        fleet
            .apply_verb_and_run(upgrade, Verb::Rollback)
            .await
            .state
            .as_str(),
        "rolled_back"
    );
    frozen.wakes_up_and_writes_nothing(&fleet).await;
    assert_eq!(
        differs(&before, &fleet.clusters.snapshot()),
        Vec::<String>::new()
    );
}

/// The worker of the superseded operation says when it has stopped, so the rollback does not wait for the whole lease.
#[tokio::test]
async fn a_creation_that_arrives_while_the_rollback_waits_is_undone() {
    let fleet = Fleet::new().await;
    let before = fleet.clusters.snapshot();
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    fleet
        .apply_verb(upgrade, Verb::Start, Value::Null)
        .await
        .expect("start fits");
    let frozen = Frozen::at(&fleet, 1, Duration::from_mins(10)).await;
    let rollback = fleet
        .apply_verb(upgrade, Verb::Rollback, Value::Null)
        .await
        .expect("rollback fits")
        .operation;
    let worker = fleet.build_worker("w", Duration::from_secs(30));
    let back = tokio::spawn(async move { worker.run_due().await });
    let fenced = async {
        while fleet.clusters.fenced_targets().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, fenced)
        .await
        .expect("the rollback has begun");
    let waits = fleet.operation(rollback.expect("a rollback")).await;
    assert!(
        waits.waves.is_none(),
        "the plan waits for the worker that may still write"
    );
    frozen.wakes_up().await;
    tokio::time::timeout(LIMIT, back)
        .await
        .expect("it ends")
        .expect("no panic")
        .expect("a readable queue");
    assert_eq!(fleet.upgrade(upgrade).await.state.as_str(), "rolled_back");
    assert_eq!(
        differs(&before, &fleet.clusters.snapshot()),
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn a_rollback_plans_nothing_before_a_silent_member_was_fenced() {
    let (fleet, upgrade, before) = deployed().await;
    fleet
        .apply_verb(upgrade, Verb::Promote, Value::Null)
        .await
        .expect("promote fits");
    // The third write of the promotion is the first one in c2.
    let frozen = Frozen::at(&fleet, 3, Duration::from_secs(30)).await;
    fleet.clusters.set_unreachable("c2", true);
    let rolled = fleet.apply_verb_and_run(upgrade, Verb::Rollback).await;
    let rollback = rolled.operation.expect("a rollback");
    assert!(
        fleet.operation(rollback).await.waves.is_none(),
        "{:?}",
        rolled.state
    );
    fleet.clusters.set_unreachable("c2", false);
    hurry(&fleet, rollback).await;
    fleet.run_due().await;
    assert_eq!(fleet.upgrade(upgrade).await.state.as_str(), "rolled_back");
    frozen.wakes_up_and_writes_nothing(&fleet).await;
    assert_eq!(
        differs(&before, &fleet.clusters.snapshot()),
        Vec::<String>::new()
    );
}

async fn hurry(fleet: &Fleet, operation: OperationId) {
    let mut tx = fleet.db.begin_beside_workers().await;
    tx.operations()
        .make_operation_due(operation)
        .await
        .expect("an operation");
    tx.commit().await.expect("a commit");
}

#[tokio::test]
async fn a_worker_whose_permit_ran_out_stops_fencing_and_its_successor_fences_everything_again() {
    let (fleet, upgrade, _) = deployed().await;
    fleet
        .apply_verb(upgrade, Verb::Promote, Value::Null)
        .await
        .expect("promote fits");
    let frozen = Frozen::at(&fleet, 1, Duration::from_secs(30)).await;
    let rollback = fleet
        .apply_verb(upgrade, Verb::Rollback, Value::Null)
        .await
        .expect("rollback fits")
        .operation;
    fleet.clusters.fail_next_fence(ClusterError::Expired);
    fleet
        .build_worker("first", Duration::from_millis(300))
        .run_due()
        .await
        .expect("a readable queue");
    let begun = fleet.operation(rollback.expect("a rollback")).await;
    assert!(
        begun.waves.is_none(),
        "nothing was planned after the permit had run out"
    );
    let half = fleet.clusters.fenced_targets().len();
    tokio::time::sleep(Duration::from_millis(400)).await;
    fleet.run_due().await;
    assert_eq!(fleet.upgrade(upgrade).await.state.as_str(), "rolled_back");
    let again = fleet.clusters.fenced_targets().split_off(half);
    for tag in ["stable", "default"] {
        let target = Target::Tag {
            member: "c1".parse().expect("a name"),
            tag: tag.into(),
        };
        assert!(
            again.contains(&target),
            "{tag} was not fenced by the successor: {again:?}"
        );
    }
    frozen.wakes_up_and_writes_nothing(&fleet).await;
}

/// A restart was cancelled while its cluster could not be fenced; the next change of the mesh makes up for it.
#[tokio::test]
async fn the_next_operation_of_a_mesh_fences_what_a_cancelled_one_has_left() {
    let fleet = Fleet::new().await;
    let label = |member: &str| Target::NamespaceLabel {
        member: member.parse().expect("a name"),
        namespace: "plain".into(),
    };
    fleet
        .clusters
        .change_externally(label("c1"), Some("istio-injection=enabled"));
    let restart = fleet
        .queue_operation(OperationKind::Restart, Value::Null)
        .await;
    let frozen = Frozen::at(&fleet, 1, Duration::from_millis(300)).await;
    let mut tx = fleet.db.begin_beside_workers().await;
    tx.operations()
        .signal_operation(restart, Signal::Cancel, fleet.clock.now())
        .await
        .expect("it runs");
    tx.commit().await.expect("a commit");
    tokio::time::sleep(Duration::from_millis(400)).await;
    fleet
        .clusters
        .fail_next_fence(ClusterError::unreachable("c1", "timed out"));
    fleet.run_due().await;
    assert_eq!(
        fleet.operation(restart).await.state,
        OperationState::Cancelled
    );
    let next = json!({ "member": "c2", "namespace": "plain", "label": "istio-injection=enabled" });
    let next = fleet
        .queue_operation(OperationKind::SetInjection, next)
        .await;
    fleet.run_due().await;
    assert_eq!(fleet.operation(next).await.state, OperationState::Succeeded);
    frozen.wakes_up_and_writes_nothing(&fleet).await;
}

#[tokio::test]
async fn a_step_of_a_rollback_that_finds_its_goal_moves_the_version_before_it_is_done() {
    let (fleet, upgrade, _) = deployed().await;
    fleet
        .apply_verb(upgrade, Verb::Promote, Value::Null)
        .await
        .expect("promote fits");
    let frozen = Frozen::at(&fleet, 1, Duration::from_secs(30)).await;
    assert_eq!(
        fleet
            .apply_verb_and_run(upgrade, Verb::Rollback)
            .await
            .state
            .as_str(),
        "rolled_back"
    );
    let stable = Target::Tag {
        member: "c1".parse().expect("a name"),
        tag: "stable".into(),
    };
    let fences = fleet
        .clusters
        .fenced_targets()
        .into_iter()
        .filter(|target| *target == stable)
        .count();
    assert_eq!(
        fences, 2,
        "once when the rollback began, and once when its step found the old value"
    );
    frozen.wakes_up_and_writes_nothing(&fleet).await;
}

#[tokio::test]
async fn a_policy_that_refused_a_write_does_not_keep_the_rollback_from_its_end() {
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
        "paused"
    );
    assert_eq!(
        fleet
            .apply_verb_and_run(upgrade, Verb::Rollback)
            .await
            .state
            .as_str(),
        "rolled_back"
    );
}

#[tokio::test]
async fn a_tag_that_was_removed_by_hand_is_put_back_by_the_way_back() {
    let (fleet, upgrade, before) = deployed().await;
    assert_eq!(
        fleet
            .apply_verb_and_run(upgrade, Verb::Promote)
            .await
            .state
            .as_str(),
        "holding"
    );
    for tag in ["default", "stable"] {
        let removed = Target::Tag {
            member: "c1".parse().expect("a name"),
            tag: tag.into(),
        };
        fleet.clusters.change_externally(removed, None);
    }
    assert_eq!(
        fleet
            .apply_verb_and_run(upgrade, Verb::Rollback)
            .await
            .state
            .as_str(),
        "rolled_back"
    );
    assert_eq!(
        differs(&before, &fleet.clusters.snapshot()),
        Vec::<String>::new()
    );
}
