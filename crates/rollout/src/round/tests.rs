//! Checks the steps of a round: a retry keeps to the limits, and a skip leaves only what cannot be
//! restarted.

use meshwright_model::plan::{Sidecar, Stamp, WorkloadKind, WorkloadRef};
use meshwright_model::rollout::{OnFailure, RestartLimits};

use super::*;

fn search(number: i32, wave: usize, limits: RestartLimits) -> PlannedStep {
    item(
        number,
        wave,
        Step::Converge {
            off: None,
            outdated: true,
            namespaces: None,
            selection: None,
            max_failures: 3,
            limits,
            evict: false,
            on_failure: OnFailure::Continue,
        },
    )
}

fn restart(number: i32, wave: usize, events: &[StepEvent]) -> PlannedStep {
    let step = Step::Restart {
        member: "c1".parse().expect("a name"),
        workload: WorkloadRef {
            namespace: "shop".into(),
            kind: WorkloadKind::Deployment,
            name: format!("web-{number}"),
        },
        wanted: Sidecar {
            revision: "1-27-9".parse().expect("a revision name"),
            image: "hub/proxyv2:1.27.9".into(),
        },
        stamp: Stamp::Fresh,
    };
    let mut item = item(number, wave, step);
    for event in events {
        item.progress.apply_event(event);
    }
    item
}

fn item(number: i32, wave: usize, step: Step) -> PlannedStep {
    PlannedStep {
        number,
        wave,
        step,
        progress: Progress::default(),
    }
}

fn started() -> StepEvent {
    StepEvent::Started { capture: None }
}

fn failed(code: ProblemCode) -> Problem {
    Problem::new(code, "Its pods do not start.", "Look at them.")
}

fn retried() -> Vec<StepEvent> {
    let problem = failed(ProblemCode::WorkloadNotReady);
    vec![started(), StepEvent::Failed { problem }, StepEvent::Retried]
}

fn chosen(steps: &[PlannedStep], width: usize) -> Vec<i32> {
    let kind = OperationKind::Restart;
    let round = Round { kind, steps };
    let chosen = round.steps_to_check(|_| width, |_| false).into_iter();
    chosen.map(|index| steps[index].number).collect()
}

#[test]
fn d2_a_restart_that_is_tried_again_waits_for_those_under_way() {
    let one = RestartLimits {
        max_concurrent_per_namespace: Some(1),
        ..RestartLimits::default()
    };
    for (limits, width) in [(one, 8), (RestartLimits::default(), 1)] {
        let steps = [
            search(0, 0, limits),
            restart(1, 0, &retried()),
            restart(2, 0, &[started()]),
        ];
        assert_eq!(chosen(&steps, width), [0, 2], "two would be down at once");
    }
}

#[test]
fn d2_a_retry_in_an_earlier_wave_counts_the_restarts_of_later_ones() {
    let limits = RestartLimits {
        max_concurrent_per_cluster: Some(2),
        ..RestartLimits::default()
    };
    let mut ended = search(0, 0, limits);
    ended.progress.apply_event(&StepEvent::Done);
    let steps = [
        ended,
        restart(1, 0, &retried()),
        restart(2, 0, &retried()),
        search(3, 1, limits),
        restart(4, 1, &[started()]),
        restart(5, 1, &[]),
    ];
    assert_eq!(chosen(&steps, 8), [4, 1]);
}

#[test]
fn d4_a_skip_goes_on_with_the_restarts_that_were_held_back() {
    let mut look = search(0, 0, RestartLimits::default());
    let problem = failed(ProblemCode::RolloutPartial);
    look.progress.apply_event(&StepEvent::Failed {
        problem: problem.clone(),
    });
    let broken = failed(ProblemCode::WorkloadNotReady);
    let broken = restart(1, 0, &[started(), StepEvent::Failed { problem: broken }]);
    let held_back = restart(2, 0, &[StepEvent::Excluded { problem }]);
    let kind = OperationKind::Restart;
    let events = |steps: &[PlannedStep]| Round { kind, steps }.events_of_skip();
    assert_eq!(
        events(&[look.clone(), broken.clone(), held_back]),
        [(0, StepEvent::Retried), (1, StepEvent::Skipped)]
    );
    assert_eq!(
        events(&[look, broken]),
        [(0, StepEvent::Skipped), (1, StepEvent::Skipped)]
    );
}
