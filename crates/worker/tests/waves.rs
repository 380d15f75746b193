//! The policy of a roll-out: waves, the wait between them, and limits, on a real Postgres and imagined clusters.

use jiff::SignedDuration;
use meshwright_model::Clock;
use meshwright_model::ids::OperationId;
use meshwright_model::operation::{OperationKind, OperationState, Problem, Signal, StepState};
use meshwright_model::plan::{Step, Target, WorkloadKind, WorkloadRef};
use meshwright_testkit::Fleet;
use meshwright_testkit::world::RolloutBehaviour;
use serde_json::{Value, json};

const OLD_IMAGE: &str = "lab/proxyv2:1.24.0";

fn web(namespace: &str) -> WorkloadRef {
    WorkloadRef {
        namespace: namespace.into(),
        kind: WorkloadKind::Deployment,
        name: "web".into(),
    }
}

const NAMESPACES: [&str; 4] = ["canary", "enabled", "explicit", "stable"];

/// Returns a fleet whose eight workloads in the mesh all carry an old sidecar.
async fn outdated_fleet() -> Fleet {
    let fleet = Fleet {
        max_concurrent_restarts: 8,
        ..Fleet::new().await
    };
    for member in ["c1", "c2"] {
        for namespace in NAMESPACES {
            fleet
                .clusters
                .set_sidecars(member, namespace, "1-24-0", OLD_IMAGE);
        }
    }
    fleet
}

async fn restart(fleet: &Fleet, policy: Value) -> OperationId {
    let operation = fleet
        .queue_operation(OperationKind::Restart, json!({ "policy": policy }))
        .await;
    fleet.run_due().await;
    operation
}

async fn signal(fleet: &Fleet, operation: OperationId, signal: Signal) {
    let mut tx = fleet.db.begin_beside_workers().await;
    tx.operations()
        .signal_operation(operation, signal, fleet.clock.now())
        .await
        .expect("an operation that runs");
    tx.commit().await.expect("a commit");
    fleet.run_due().await;
}

/// Returns the workloads in the order in which they were restarted, as `namespace in cluster`.
fn restarted(fleet: &Fleet) -> Vec<String> {
    let journal = fleet.clusters.journal();
    let restarts = journal.iter().filter_map(|write| match &write.target {
        Target::Workload { member, workload } => {
            Some(format!("{} in {member}", workload.namespace))
        }
        _ => None,
    });
    restarts.collect()
}

/// Returns the states of the restarts of a workload.
async fn states(fleet: &Fleet, operation: OperationId, at: (&str, &str)) -> Vec<StepState> {
    let mut tx = fleet.db.begin_beside_workers().await;
    let steps = tx.operations().list_steps(operation).await.expect("a plan");
    steps
        .iter()
        .filter(|item| match &item.step {
            Step::Restart {
                member, workload, ..
            } => (member.as_str(), workload.namespace.as_str()) == at,
            _ => false,
        })
        .map(|item| item.progress.state())
        .collect()
}

fn problem(state: OperationState) -> Problem {
    match state {
        OperationState::Paused { problem } => problem,
        state => panic!("it is not paused: {state:?}"),
    }
}

#[tokio::test]
async fn d2_waves_follow_one_another_and_the_last_one_takes_what_is_left() {
    let fleet = outdated_fleet().await;
    let waves = json!({ "waves": [{ "namespaces": ["enabled"] }, { "clusters": ["c2"] }] });
    let operation = restart(&fleet, waves).await;
    let ended = fleet.operation(operation).await;
    assert_eq!(ended.state, OperationState::Succeeded);
    let order = restarted(&fleet);
    assert_eq!(order.len(), 8, "{order:?}");
    assert!(
        order[..2].iter().all(|at| at.starts_with("enabled")),
        "{order:?}"
    );
    assert!(
        order[2..5].iter().all(|at| at.ends_with("in c2")),
        "{order:?}"
    );
    assert!(
        order[5..].iter().all(|at| at.ends_with("in c1")),
        "{order:?}"
    );
    assert!(!fleet.clusters.snapshot().contains(OLD_IMAGE));
}

#[tokio::test]
async fn d2_a_long_soak_holds_no_worker_and_survives_its_end() {
    let fleet = outdated_fleet().await;
    let waves = json!({ "waves": [{ "namespaces": ["enabled"], "soak_seconds": 3600 }] });
    let operation = restart(&fleet, waves).await;
    let OperationState::Waiting { until, reason, .. } = fleet.operation(operation).await.state
    else {
        panic!("it does not soak");
    };
    assert!(reason.contains("the next wave begins at"), "{reason}");
    assert_eq!(until.duration_since(fleet.clock.now()).as_secs(), 3600);
    assert_eq!(restarted(&fleet).len(), 2);
    // Each run is a worker of its own, as after a crash. The wait does not begin again.
    fleet.clock.advance(SignedDuration::from_secs(3000));
    signal(&fleet, operation, Signal::Resume).await;
    let OperationState::Waiting { until: same, .. } = fleet.operation(operation).await.state else {
        panic!("it does not soak");
    };
    assert_eq!((same, restarted(&fleet).len()), (until, 2));
    fleet.clock.advance(SignedDuration::from_secs(601));
    signal(&fleet, operation, Signal::Resume).await;
    assert_eq!(
        fleet.operation(operation).await.state,
        OperationState::Succeeded
    );
    assert_eq!(restarted(&fleet).len(), 8);
}

#[tokio::test]
async fn d2_a_pause_during_a_soak_is_kept() {
    let fleet = outdated_fleet().await;
    let waves = json!({ "waves": [{ "namespaces": ["enabled"], "soak_seconds": 3600 }] });
    let operation = restart(&fleet, waves).await;
    signal(&fleet, operation, Signal::Pause).await;
    fleet.clock.advance(SignedDuration::from_secs(7200));
    fleet.run_due().await;
    assert_eq!(
        problem(fleet.operation(operation).await.state).code,
        "paused_by_user"
    );
    assert_eq!(restarted(&fleet).len(), 2);
    signal(&fleet, operation, Signal::Resume).await;
    assert_eq!(
        fleet.operation(operation).await.state,
        OperationState::Succeeded
    );
}

/// Runs a roll-out with two waves, of which the first holds a workload that never becomes ready.
async fn with_a_broken_first_wave(on_failure: &str, max_failures: u32) -> (Fleet, OperationId) {
    let fleet = outdated_fleet().await;
    fleet
        .clusters
        .set_rollout_behaviour("c1", &web("enabled"), RolloutBehaviour::NeverReady);
    let policy = json!({
        "waves": [{ "namespaces": ["enabled"] }], "on_failure": on_failure, "max_failures": max_failures
    });
    let operation = restart(&fleet, policy).await;
    (fleet, operation)
}

#[tokio::test]
async fn d4_a_wave_with_a_failure_pauses_before_the_next_one() {
    let (fleet, operation) = with_a_broken_first_wave("pause", 3).await;
    let stopped = problem(fleet.operation(operation).await.state);
    assert_eq!(stopped.code, "rollout_partial");
    assert!(
        stopped.message.contains("enabled/deployment/web in c1"),
        "{}",
        stopped.message
    );
    assert_eq!(restarted(&fleet).len(), 2, "no workload of the next wave");
    signal(&fleet, operation, Signal::Skip).await;
    assert_eq!(
        fleet.operation(operation).await.state,
        OperationState::Succeeded
    );
    assert_eq!(restarted(&fleet).len(), 8);
}

#[tokio::test]
async fn d4_a_policy_can_let_the_next_wave_begin_after_a_failure() {
    let (fleet, operation) = with_a_broken_first_wave("continue", 3).await;
    let stopped = problem(fleet.operation(operation).await.state);
    assert_eq!(stopped.code, "rollout_partial");
    assert!(
        stopped.message.contains("enabled/deployment/web in c1"),
        "{}",
        stopped.message
    );
    assert_eq!(
        restarted(&fleet).len(),
        8,
        "all others were restarted, each once"
    );
    assert_eq!(
        states(&fleet, operation, ("c1", "enabled")).await,
        [StepState::Failed]
    );
    fleet
        .clusters
        .set_rollout_behaviour("c1", &web("enabled"), RolloutBehaviour::Healthy);
    signal(&fleet, operation, Signal::Retry).await;
    assert_eq!(
        fleet.operation(operation).await.state,
        OperationState::Succeeded
    );
}

#[tokio::test]
async fn d4_too_many_failures_stop_the_next_wave_whatever_the_policy_says() {
    let (fleet, operation) = with_a_broken_first_wave("continue", 1).await;
    assert_eq!(
        problem(fleet.operation(operation).await.state).code,
        "rollout_partial"
    );
    assert_eq!(restarted(&fleet).len(), 2);
}

#[tokio::test]
async fn d2_limits_hold_in_each_cluster_and_each_namespace() {
    for (limits, at_once) in [
        (json!({}), 8),
        (json!({ "max_concurrent": 3 }), 3),
        (json!({ "max_concurrent": 100 }), 8),
        (json!({ "max_concurrent_per_cluster": 2 }), 4),
        (
            json!({ "max_concurrent_per_cluster": 1, "max_concurrent_per_namespace": 1 }),
            2,
        ),
    ] {
        let fleet = outdated_fleet().await;
        restart(&fleet, limits.clone()).await;
        assert_eq!(restarted(&fleet).len(), 8, "{limits}");
        assert_eq!(fleet.clusters.max_restarting(), at_once, "{limits}");
    }
}

/// A skip leaves the workload that failed. Those that were held back because of it are restarted.
#[tokio::test]
async fn d4_a_skip_goes_on_with_the_workloads_that_were_held_back() {
    let fleet = Fleet {
        max_concurrent_restarts: 1,
        ..outdated_fleet().await
    };
    fleet
        .clusters
        .set_rollout_behaviour("c1", &web("canary"), RolloutBehaviour::NeverReady);
    let operation = restart(&fleet, json!({ "max_failures": 1 })).await;
    let stopped = problem(fleet.operation(operation).await.state);
    assert_eq!(stopped.code, "rollout_partial");
    assert_eq!(restarted(&fleet).len(), 1, "the others were held back");
    signal(&fleet, operation, Signal::Skip).await;
    assert_eq!(
        fleet.operation(operation).await.state,
        OperationState::Succeeded
    );
    assert_eq!(restarted(&fleet).len(), 8);
}
