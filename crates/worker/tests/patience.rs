//! What keeps a plan from being made: it is said with its own code and its cause, and is waited for as long as it is silence.

use jiff::SignedDuration;
use meshwright_model::Clock;
use meshwright_model::ids::OperationId;
use meshwright_model::operation::{OperationKind, OperationState, Problem, Signal};
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::ClusterError;
use meshwright_testkit::Fleet;
use serde_json::json;

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn refused(code: ProblemCode) -> ClusterError {
    ClusterError::Refused {
        place: "c1".into(),
        code,
        cause: "this is the cause".into(),
    }
}

/// Looks at everything again after so many minutes.
async fn later(fleet: &Fleet, minutes: i64) {
    fleet.clock.advance(SignedDuration::from_mins(minutes));
    fleet
        .db
        .execute("mw_worker", "UPDATE work_queue SET due_at = now()")
        .await
        .expect("it is due");
    fleet.run_due().await;
}

async fn ask(fleet: &Fleet, operation: OperationId, wish: Signal) {
    let mut tx = fleet.db.begin_beside_workers().await;
    tx.operations()
        .signal_operation(operation, wish, fleet.clock.now())
        .await
        .expect("an operation under way");
    tx.commit().await.expect("a commit");
    fleet.run_due().await;
}

async fn paused(fleet: &Fleet, operation: OperationId) -> Problem {
    match fleet.operation(operation).await.state {
        OperationState::Paused { problem } => problem,
        state => panic!("it is {}", state.as_str()),
    }
}

#[tokio::test]
async fn a_refusal_while_a_plan_or_a_precheck_is_made_keeps_its_code_and_its_cause() {
    for kind in [
        OperationKind::Restart,
        OperationKind::Precheck,
        OperationKind::DeleteMesh,
    ] {
        for code in [
            ProblemCode::PermissionMissing,
            ProblemCode::ListTooLong,
            ProblemCode::AnswerTooLarge,
            ProblemCode::AddressRefused,
        ] {
            let fleet = Fleet::new().await;
            fleet.clusters.set_member_error("c1", Some(refused(code)));
            let operation = fleet.queue_operation(kind, json!({})).await;
            fleet.run_due().await;
            let problem = paused(&fleet, operation).await;
            assert_eq!(problem.code, code, "{kind:?}");
            assert!(
                problem.message.contains("this is the cause"),
                "{kind:?}: {}",
                problem.message
            );
            assert_eq!(
                problem.hint.contains("Bring the cluster back"),
                code == ProblemCode::AddressRefused,
                "{}",
                problem.hint
            );
        }
    }
}

#[tokio::test]
async fn a_slow_cluster_keeps_its_code_after_the_patience_for_a_plan() {
    let fleet = Fleet::new().await;
    let (place, cause) = ("c1".to_owned(), "the look took too long".to_owned());
    fleet.clusters.set_member_error(
        "c1",
        Some(ClusterError::Unreachable {
            place,
            code: ProblemCode::LookTooSlow,
            cause,
        }),
    );
    let operation = fleet
        .queue_operation(OperationKind::Restart, json!({}))
        .await;
    fleet.run_due().await;
    assert_eq!(fleet.operation(operation).await.state.as_str(), "waiting");
    later(&fleet, 3).await;
    assert_eq!(
        paused(&fleet, operation).await.code,
        ProblemCode::LookTooSlow
    );
}

#[tokio::test]
async fn something_that_changed_while_a_plan_was_made_is_looked_at_again() {
    for kind in [OperationKind::Restart, OperationKind::Precheck] {
        let fleet = Fleet::new().await;
        fleet
            .clusters
            .set_member_error("c1", Some(ClusterError::Changed { place: "c1".into() }));
        let operation = fleet.queue_operation(kind, json!({})).await;
        fleet.run_due().await;
        assert_eq!(
            fleet.operation(operation).await.state.as_str(),
            "waiting",
            "{kind:?}"
        );
        fleet.clusters.set_member_error("c1", None);
        later(&fleet, 0).await;
        assert_eq!(
            fleet.operation(operation).await.state,
            OperationState::Succeeded,
            "{kind:?}"
        );
    }
}

#[tokio::test]
async fn patience_is_counted_anew_after_a_retry() {
    let fleet = Fleet::new().await;
    fleet.clusters.set_unreachable("c1", true);
    let operation = fleet
        .queue_operation(OperationKind::Restart, json!({}))
        .await;
    fleet.run_due().await;
    later(&fleet, 3).await;
    assert_eq!(
        paused(&fleet, operation).await.code,
        ProblemCode::ClusterUnreachable
    );
    fleet.clock.advance(HOUR);
    ask(&fleet, operation, Signal::Retry).await;
    assert_eq!(
        fleet.operation(operation).await.state.as_str(),
        "waiting",
        "one lost answer after the retry"
    );
    later(&fleet, 1).await;
    assert_eq!(fleet.operation(operation).await.state.as_str(), "waiting");
    later(&fleet, 2).await;
    assert_eq!(
        paused(&fleet, operation).await.code,
        ProblemCode::ClusterUnreachable
    );
}

/// A renewal in a mesh: the control planes cannot be asked whether they use the new credential.
#[tokio::test]
async fn a_renewal_whose_control_planes_cannot_be_read_ends_with_the_reason_and_after_a_pause_with_new_patience()
 {
    let fleet = Fleet::new().await;
    let mut tx = fleet.db.begin_beside_workers().await;
    let cluster = tx
        .meshes()
        .get_mesh(fleet.mesh)
        .await
        .expect("the mesh")
        .members[0]
        .cluster;
    drop(tx);
    let id = fleet.renew_credential(cluster).await;
    fleet
        .clusters
        .set_member_error("c1", Some(refused(ProblemCode::PermissionMissing)));
    fleet.run_due().await;
    assert_eq!(fleet.operation(id).await.state.as_str(), "waiting");
    ask(&fleet, id, Signal::Pause).await;
    fleet.clock.advance(HOUR);
    ask(&fleet, id, Signal::Resume).await;
    assert_eq!(
        fleet.operation(id).await.state.as_str(),
        "waiting",
        "the pause does not count"
    );
    later(&fleet, 11).await;
    let OperationState::Failed { problem } = fleet.operation(id).await.state else {
        panic!("it did not fail")
    };
    assert_eq!(problem.code, ProblemCode::PermissionMissing);
    assert!(
        problem.message.contains("this is the cause"),
        "{}",
        problem.message
    );
}
