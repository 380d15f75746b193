//! Workers that stop, wake up too late, or lose their database, on a real Postgres and imagined clusters.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meshwright_model::Clock;
use meshwright_model::operation::OperationKind;
use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::Verb;
use meshwright_store::{ClaimFilter, OperationUpdate};
use meshwright_testkit::world::Cut;
use meshwright_testkit::{Fleet, WorkerThread};
use serde_json::json;
use tokio::sync::Notify;

fn state(upgrade: &meshwright_store::Upgrade) -> &'static str {
    upgrade.state.as_str()
}

/// A worker that was stopped in the middle of a write.
struct Zombie {
    go_on: Arc<Notify>,
    asleep: WorkerThread,
}

impl Zombie {
    async fn wakes_up_and_writes_nothing(mut self, fleet: &Fleet) {
        let journal = fleet.clusters.journal();
        self.go_on.notify_one();
        self.asleep.resume();
        assert!(
            self.asleep.wait_for_end(Duration::from_secs(10)).await,
            "it ends"
        );
        assert_eq!(
            fleet.clusters.journal(),
            journal,
            "the zombie's patch was refused"
        );
    }
}

/// A promotion whose worker is stopped at its first write; its lease is short.
async fn stopped_in_a_promotion() -> (Fleet, meshwright_model::ids::UpgradeId, Zombie) {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 0).await;
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    fleet
        .apply_verb(upgrade, Verb::Promote, json!(null))
        .await
        .expect("promote fits");
    let go_on = Arc::new(Notify::new());
    fleet.clusters.cut_at(1, Cut::Frozen(go_on.clone()));
    let asleep = fleet.start_worker_thread("zombie", Duration::from_millis(300), None);
    assert!(fleet.clusters.wait_for_cut(Duration::from_secs(10)).await);
    fleet.clusters.clear_cut();
    asleep.pause().await;
    (fleet, upgrade, Zombie { go_on, asleep })
}

#[tokio::test]
async fn a_zombie_that_wakes_up_after_a_takeover_writes_nothing() {
    let (fleet, upgrade, zombie) = stopped_in_a_promotion().await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    fleet.run_due().await;
    zombie.wakes_up_and_writes_nothing(&fleet).await;
    assert_eq!(state(&fleet.upgrade(upgrade).await), "succeeded");
}

/// The promise of a pause: from the moment it is visible no cluster accepts a write, not even one of a worker that was
/// stopped in the middle of it and goes on now.
#[tokio::test]
async fn a_zombie_that_wakes_up_after_a_pause_writes_nothing() {
    let (fleet, upgrade, zombie) = stopped_in_a_promotion().await;
    fleet
        .apply_verb(upgrade, Verb::Pause, json!(null))
        .await
        .expect("pause fits");
    tokio::time::sleep(Duration::from_millis(400)).await;
    fleet.run_due().await;
    assert_eq!(state(&fleet.upgrade(upgrade).await), "paused");
    zombie.wakes_up_and_writes_nothing(&fleet).await;
}

#[tokio::test]
async fn a_database_that_fails_while_the_mesh_is_opened_asks_nobody() {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 0).await;
    fleet.fail_mesh_reads.store(true, Ordering::Relaxed);
    assert_eq!(
        state(&fleet.apply_verb_and_run(upgrade, Verb::Start).await),
        "prechecking",
        "it is tried again, not paused"
    );
}

/// A large workload replaces its pods for hours. Each look shows more of them, while workers come and go.
#[tokio::test]
async fn a_wait_for_something_else_than_before_is_progress() {
    let fleet = Fleet::new().await;
    fleet
        .queue_operation(OperationKind::Restart, json!(null))
        .await;
    let any = ClaimFilter::any_operation();
    let claim = || {
        fleet
            .db
            .worker
            .claim_operation("dies", Duration::ZERO, &any)
    };
    for number in 1..=9 {
        let claim = claim().await.expect("an answer").expect("it is due");
        assert_eq!(claim.claims_without_progress(), number);
    }
    let last = claim().await.expect("an answer").expect("it is due");
    let seen = OperationUpdate {
        waiting_for: Some(Some("3 of 8 pods are new".into())),
        ..OperationUpdate::default()
    };
    let mut tx = fleet
        .db
        .worker
        .begin(last.tenant)
        .await
        .expect("a transaction");
    tx.operations()
        .record_operation_update(&last, &seen, fleet.clock.now())
        .await
        .expect("the claim is valid");
    tx.commit().await.expect("a commit");
    let next = claim().await.expect("an answer").expect("it is due");
    assert_eq!(next.claims_without_progress(), 1);
}
