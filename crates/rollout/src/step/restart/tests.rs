//! Checks that a restart does not overlap with a replacement of pods that is under way.

use std::collections::BTreeMap;

use meshwright_model::operation::{Progress, StepEvent};
use meshwright_model::plan::{Step, WorkloadKind};

use super::*;
use crate::ports::ObjectVersion;

fn sidecar(revision: &str) -> Sidecar {
    Sidecar {
        revision: revision.parse().expect("a revision name"),
        image: format!("hub/proxyv2:{revision}"),
    }
}

/// Returns a pod of the template that a roll-out has written, with the new sidecar.
fn moved_pod() -> LivePod {
    LivePod {
        version: ObjectVersion("broker-7/uid".into()),
        readiness: PodReadiness::Ready,
        deleted: false,
        sidecar: Some(sidecar("1-27-9")),
        terminating: false,
    }
}

/// Returns a pod that the roll-out has not reached.
fn old_pod() -> LivePod {
    LivePod {
        sidecar: Some(sidecar("1-25-1")),
        terminating: true,
        ..moved_pod()
    }
}

fn starting_pod() -> LivePod {
    LivePod {
        readiness: PodReadiness::Starting,
        ..moved_pod()
    }
}

/// Returns a `StatefulSet` in parallel whose roll-out has moved the first of these pods.
fn rolling(live: Vec<LivePod>) -> ObservedWorkload {
    ObservedWorkload {
        stamp: Some("roll-out".into()),
        version: ObjectVersion("1".into()),
        live,
        rollout: Readiness::Pending("5 of 8 pods are new, 7 are ready".into()),
        updated: 5,
        takes_next_at_once: true,
    }
}

/// Checks the restart of a rollback that restores the former stamp.
fn check_rollback(seen: ObservedWorkload) -> StepCheck {
    check_rollback_after(seen, &[])
}

fn check_rollback_after(seen: ObservedWorkload, events: &[StepEvent]) -> StepCheck {
    let member: Name = "c1".parse().expect("a name");
    let workload = WorkloadRef {
        namespace: "stream".into(),
        kind: WorkloadKind::StatefulSet,
        name: "broker".into(),
    };
    let (wanted, stamp) = (sidecar("1-25-1"), Stamp::Former { value: None });
    let step = Step::Restart {
        member: member.clone(),
        workload: workload.clone(),
        wanted: wanted.clone(),
        stamp: stamp.clone(),
    };
    let mut progress = Progress::default();
    for event in events {
        progress.apply_event(event);
    }
    let place = StepContext {
        operation: format!("op_{:026}", 1).parse().expect("an id"),
        number: 3,
        step: &step,
        progress: &progress,
        now: jiff::Timestamp::UNIX_EPOCH,
        restarts: &[],
        former_stamps: &BTreeMap::new(),
        unused_proof: None,
    };
    check_stamp(&place, (&member, &workload), (&wanted, &stamp), seen)
}

fn deferred(check: &StepCheck) -> (&str, usize) {
    match check {
        StepCheck::Deferred {
            reason, replaced, ..
        } => (reason, *replaced),
        other => panic!("the restart is not deferred: {other:?}"),
    }
}

fn is_ready(check: &StepCheck) -> bool {
    matches!(check, StepCheck::Ready { .. })
}

#[test]
fn b7_a_restart_waits_for_the_pod_that_is_being_replaced() {
    let ending = LivePod {
        deleted: true,
        ..old_pod()
    };
    for (pod, state) in [
        (starting_pod(), "0 are ending, 1 do"),
        (ending, "1 are ending, 0 do"),
    ] {
        let check = check_rollback(rolling(vec![moved_pod(), pod, old_pod()]));
        let (reason, replaced) = deferred(&check);
        assert!(reason.contains(state), "{reason}");
        assert_eq!(
            replaced, 5,
            "the controller counts the pods of the newest template"
        );
    }
}

#[test]
fn b7_a_restart_waits_also_in_the_moment_between_two_pods() {
    let check = check_rollback(rolling(vec![moved_pod(), old_pod()]));
    let (reason, _) = deferred(&check);
    assert!(reason.contains("5 of 8 pods are new"), "{reason}");
}

#[test]
fn b7_a_restart_does_not_wait_for_pods_that_cannot_start() {
    let broken = LivePod {
        readiness: PodReadiness::Broken,
        ..moved_pod()
    };
    let seen = rolling(vec![moved_pod(), broken.clone(), old_pod()]);
    assert!(is_ready(&check_rollback(seen)));
    let beside = rolling(vec![starting_pod(), broken, old_pod()]);
    deferred(&check_rollback(beside));
}

#[test]
fn b7_a_restart_follows_as_soon_as_the_replacement_has_ended() {
    let seen = ObservedWorkload {
        rollout: Readiness::Ready,
        ..rolling(vec![moved_pod(), moved_pod()])
    };
    assert!(is_ready(&check_rollback(seen)));
}

#[test]
fn a_controller_that_waits_for_its_pods_is_not_waited_for() {
    let seen = ObservedWorkload {
        takes_next_at_once: false,
        ..rolling(vec![moved_pod(), starting_pod(), old_pod()])
    };
    assert!(is_ready(&check_rollback(seen)));
}

#[test]
fn the_replacement_that_a_restart_has_begun_does_not_defer_it() {
    let seen = ObservedWorkload {
        stamp: None,
        ..rolling(vec![starting_pod(), moved_pod()])
    };
    let check = check_rollback_after(seen, &[StepEvent::Started { capture: None }]);
    assert!(matches!(check, StepCheck::Replacing { .. }), "{check:?}");
}
