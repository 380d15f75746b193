//! Restarts that would overlap with a replacement of the same pods: they wait for its end, and stop
//! no other restart.

use std::time::Duration;

use jiff::SignedDuration;
use meshwright_model::Clock;
use meshwright_model::ids::UpgradeId;
use meshwright_model::plan::{Target, WorkloadKind, WorkloadRef};
use meshwright_model::rules::Strategy;
use meshwright_model::upgrade::Verb;
use meshwright_testkit::Fleet;

const OLD_IMAGE: &str = "lab/proxyv2:1.25.1";

/// Workloads that come first in the order of a roll-out.
const SLOW: [(&str, &str); 3] = [("c1", "canary"), ("c1", "enabled"), ("c1", "explicit")];

fn web(namespace: &str) -> WorkloadRef {
    WorkloadRef {
        namespace: namespace.into(),
        kind: WorkloadKind::Deployment,
        name: "web".into(),
    }
}

async fn verifying() -> (Fleet, UpgradeId) {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 3600).await;
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    (fleet, upgrade)
}

/// Waits until the upgrade's stage shows that a restart is deferred.
async fn wait_until_deferred(fleet: &Fleet, upgrade: UpgradeId) {
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let Some(operation) = fleet.upgrade(upgrade).await.operation else {
            continue;
        };
        let waiting_for = fleet.operation(operation).await.waiting_for;
        if waiting_for.is_some_and(|text| text.contains("are being replaced already")) {
            return;
        }
    }
}

/// Returns whether a restart of the workload was written.
fn was_restarted(fleet: &Fleet, name: &str, workload: &WorkloadRef) -> bool {
    let journal = fleet.clusters.journal();
    journal.iter().any(|write| {
        matches!(&write.target, Target::Workload { member, workload: written }
            if member.as_str() == name && written == workload)
    })
}

/// A restart in the middle of a replacement would take a second pod away.
#[tokio::test]
async fn d4_a_restart_waits_until_a_replacement_of_the_same_pods_has_ended() {
    let (fleet, upgrade) = verifying().await;
    let stable = web("stable");
    fleet.clusters.set_replacing("c2", &stable, true);
    let end = async {
        wait_until_deferred(&fleet, upgrade).await;
        assert!(!was_restarted(&fleet, "c2", &stable));
        fleet.clusters.set_replacing("c2", &stable, false);
    };
    let (promoted, ()) = tokio::join!(fleet.apply_verb_and_run(upgrade, Verb::Promote), end);
    assert_eq!(promoted.state.as_str(), "holding", "{:?}", promoted.state);
    assert!(!fleet.clusters.snapshot().contains(OLD_IMAGE));
}

/// The restart may be what repairs the pods that do not serve, and gets the whole limit.
#[tokio::test]
async fn d4_a_replacement_without_progress_does_not_defer_a_restart_for_ever() {
    let (fleet, upgrade) = verifying().await;
    let stable = web("stable");
    fleet.clusters.set_replacing("c2", &stable, true);
    let start = fleet.clock.now();
    let _ticking = fleet.run_clock(600);
    let promoted = fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
    assert!(was_restarted(&fleet, "c2", &stable));
    assert_eq!(promoted.state.as_str(), "holding", "{:?}", promoted.state);
    let waited = fleet.clock.now().duration_since(start);
    assert!(waited > SignedDuration::from_mins(10), "{waited}");
}

/// Two restarts run at once. A large workload may be replaced for hours, so those that wait for one
/// leave their places to others.
#[tokio::test]
async fn d4_restarts_that_wait_for_a_replacement_do_not_hold_up_others() {
    let (fleet, upgrade) = verifying().await;
    let set_replacing = |replacing| {
        for (member, namespace) in SLOW {
            fleet
                .clusters
                .set_replacing(member, &web(namespace), replacing);
        }
    };
    set_replacing(true);
    let end = async {
        let moved = |namespace| was_restarted(&fleet, "c2", &web(namespace));
        while !(moved("explicit") && moved("stable")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for (member, namespace) in SLOW {
            assert!(!was_restarted(&fleet, member, &web(namespace)));
        }
        set_replacing(false);
    };
    let both = async { tokio::join!(fleet.apply_verb_and_run(upgrade, Verb::Promote), end) };
    let (promoted, ()) = tokio::time::timeout(Duration::from_mins(1), both)
        .await
        .expect("the other workloads are restarted");
    assert_eq!(promoted.state.as_str(), "holding", "{:?}", promoted.state);
}
