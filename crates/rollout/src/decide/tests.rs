//! Checks the decisions about a step and the limits of waiting.

use meshwright_model::rollout::{OnFailure, RestartLimits};

use super::*;

fn unused() -> Step {
    Step::AwaitUnused {
        revision: "1-25-1".parse().expect("a revision name"),
        left_behind: Vec::new(),
        own_tags: false,
    }
}

fn minutes(count: i64) -> SignedDuration {
    SignedDuration::from_mins(count)
}

#[test]
fn b8_one_empty_look_is_no_proof_that_a_revision_is_unused() {
    let patience = Timeouts::default();
    let run = |samples, over| StepTiming {
        goal_seen: (samples, minutes(over)),
        ..StepTiming::default()
    };
    let after = |run| decide(&unused(), Ok(StepCheck::Done), &run, &patience);
    assert!(matches!(after(run(1, 0)), Decision::Wait(_)));
    assert!(
        matches!(after(run(30, 1)), Decision::Wait(_)),
        "many looks within a moment"
    );
    assert!(
        matches!(after(run(2, 10)), Decision::Wait(_)),
        "too few looks"
    );
    assert_eq!(after(run(3, 2)), Decision::Done);
}

#[test]
fn a_look_for_users_is_not_repeated_at_once_and_other_steps_are_looked_at_whenever_something_changed()
 {
    let patience = Timeouts::default();
    assert_eq!(
        patience.min_check_interval(&unused(), false),
        SignedDuration::from_secs(5)
    );
    let ready = Step::AwaitReady {
        revision: "1-25-1".parse().expect("a revision name"),
        members: Vec::new(),
    };
    assert_eq!(
        patience.min_check_interval(&ready, false),
        SignedDuration::ZERO
    );
}

#[test]
fn b8_a_removal_waits_for_new_users_of_its_revision_as_the_search_before_it_does() {
    let removal = Step::Set {
        target: Target::Address {
            revision: "1-25-1".parse().expect("a revision name"),
        },
        from: Some("present".into()),
        to: None,
    };
    let patience = Timeouts::default();
    let interval = |in_use| patience.min_check_interval(&removal, in_use);
    assert_eq!(interval(false), SignedDuration::ZERO);
    assert_eq!(interval(true), SignedDuration::from_secs(5));
    let used = |step, waited| {
        let run = StepTiming {
            waited: minutes(waited),
            ..StepTiming::default()
        };
        let check = StepCheck::InUse("still in use: pod shop/web-1 in c1".into());
        decide(step, Ok(check), &run, &patience)
    };
    for step in [&removal, &unused()] {
        assert!(matches!(used(step, 9), Decision::Wait(reason) if reason.contains("shop/web-1")));
        let Decision::Pause(problem) = used(step, 11) else {
            panic!("the limit of ten minutes is over");
        };
        assert_eq!(problem.code, ProblemCode::RevisionInUse);
        assert!(
            problem.message.contains("shop/web-1"),
            "{}",
            problem.message
        );
        assert!(!problem.hint.contains("roll back"), "{}", problem.hint);
    }
}

#[test]
fn slowness_is_waited_for_like_silence_and_keeps_its_own_code() {
    let slow = |silent| {
        let (place, cause) = ("c2".to_owned(), "slow".to_owned());
        let error = ClusterError::Unreachable {
            place,
            code: ProblemCode::AnswerTooSlow,
            cause,
        };
        decide(
            &unused(),
            Err(error),
            &StepTiming {
                silent: minutes(silent),
                ..StepTiming::default()
            },
            &Timeouts::default(),
        )
    };
    assert!(matches!(slow(1), Decision::Wait(_)));
    assert!(
        matches!(slow(3), Decision::Pause(problem) if problem.code == "answer_too_slow" && problem.is_unreachable())
    );
}

#[test]
fn a_silent_cluster_pauses_after_its_timeout_and_not_before() {
    let silent = |minutes_silent| {
        let error = ClusterError::unreachable("c2", "timed out");
        decide(
            &unused(),
            Err(error),
            &StepTiming {
                silent: minutes(minutes_silent),
                ..StepTiming::default()
            },
            &Timeouts::default(),
        )
    };
    assert!(matches!(silent(1), Decision::Wait(_)));
    assert!(
        matches!(silent(3), Decision::Pause(problem) if problem.code == ProblemCode::ClusterUnreachable)
    );
}

#[test]
fn a_push_that_never_comes_true_is_not_repeated_for_ever() {
    let ready = |waited| {
        let check = StepCheck::Ready {
            capture: None,
            version: ObjectVersion::default(),
        };
        decide(
            &unused(),
            Ok(check),
            &StepTiming {
                waited: minutes(waited),
                ..StepTiming::default()
            },
            &Timeouts::default(),
        )
    };
    assert!(matches!(ready(9), Decision::Act { .. }));
    assert!(matches!(ready(11), Decision::Pause(_)));
}

/// A replacement that comes to no end may need the restart as its repair.
#[test]
fn b7_a_restart_is_deferred_no_longer_than_the_limit_without_progress() {
    let deferred = |waited| {
        let check = StepCheck::Deferred {
            reason: "its pods are being replaced".into(),
            replaced: 3,
            capture: None,
            version: ObjectVersion::default(),
        };
        let run = StepTiming {
            waited: minutes(waited),
            ..StepTiming::default()
        };
        decide(&unused(), Ok(check), &run, &Timeouts::default())
    };
    assert!(matches!(deferred(9), Decision::Wait(reason) if reason.contains("being replaced")));
    assert!(matches!(deferred(11), Decision::Act { .. }));
}

#[test]
fn an_expired_fencing_token_stops_without_a_write() {
    assert_eq!(
        decide(
            &unused(),
            Err(ClusterError::Expired),
            &StepTiming::default(),
            &Timeouts::default()
        ),
        Decision::Stop
    );
}

#[test]
fn b11_evictions_that_move_no_pod_end_with_a_named_problem() {
    let step = Step::Converge {
        off: None,
        outdated: false,
        namespaces: None,
        selection: None,
        max_failures: 3,
        limits: RestartLimits::default(),
        evict: true,
        on_failure: OnFailure::Pause,
    };
    let found = || {
        Ok(StepCheck::Evictions {
            added: Vec::new(),
            left: vec!["pod shop/web-x in c1".into()],
        })
    };
    let now = jiff::Timestamp::UNIX_EPOCH;
    let mut samples = crate::round::Samples::starting_at(now);
    let mut decide_next = || {
        let timing = samples.add_check(&found(), false, now);
        decide(&step, found(), &timing, &Timeouts::default())
    };
    for _ in 0..=MAX_VAIN_EVICTIONS {
        assert_eq!(decide_next(), Decision::AddRestarts(Vec::new()));
    }
    let Decision::Pause(problem) = decide_next() else {
        panic!("each pod comes back with the same sidecar");
    };
    assert_eq!(problem.code, ProblemCode::RolloutPartial);
    assert!(problem.message.contains("shop/web-x"), "{problem:?}");
}
