//! Checks every transition of the state machine.

use proptest::strategy::Strategy as _;
use proptest::{prop_assert, prop_oneof, proptest};

use super::*;

fn finding(severity: Severity) -> Finding {
    Finding {
        severity,
        code: ProblemCode::TagSplit.into(),
        object: String::new(),
        message: String::new(),
        hint: String::new(),
    }
}

fn paused(from: UpgradeState) -> UpgradeState {
    UpgradeState::Paused {
        from: Box::new(from),
        problem: Problem::paused_by_user(),
    }
}

fn paused_partial(from: UpgradeState) -> UpgradeState {
    UpgradeState::Paused {
        from: Box::new(from),
        problem: Problem::new(ProblemCode::RolloutPartial, "", ""),
    }
}

fn every_state() -> Vec<(&'static str, UpgradeState)> {
    use UpgradeState as S;
    vec![
        ("planned", S::Planned),
        ("prechecking", S::Prechecking),
        (
            "blocked, warnings",
            S::Blocked {
                findings: vec![finding(Severity::Warn)],
            },
        ),
        (
            "blocked",
            S::Blocked {
                findings: vec![finding(Severity::Block)],
            },
        ),
        ("deploying", S::Deploying),
        (
            "verifying",
            S::Verifying {
                moving: false,
                problem: None,
            },
        ),
        (
            "verifying, moving",
            S::Verifying {
                moving: true,
                problem: None,
            },
        ),
        ("promoting", S::Promoting),
        (
            "restoring",
            S::Restoring {
                problem: Problem::new(ProblemCode::TagSplit, "", ""),
            },
        ),
        ("rolling", S::Rolling),
        (
            "holding",
            S::Holding {
                until: Timestamp::UNIX_EPOCH,
            },
        ),
        ("retiring", S::Retiring { irrevocable: false }),
        ("retiring, irrevocable", S::Retiring { irrevocable: true }),
        ("paused in prechecking", paused(S::Prechecking)),
        ("paused in rolling", paused(S::Rolling)),
        (
            "paused in a move, with workloads left",
            paused_partial(S::Verifying {
                moving: true,
                problem: None,
            }),
        ),
        (
            "paused in rolling, with workloads left",
            paused_partial(S::Rolling),
        ),
        (
            "paused in retiring, irrevocable",
            paused(S::Retiring { irrevocable: true }),
        ),
        ("paused in rolling back", paused(S::RollingBack)),
        ("rolling back", S::RollingBack),
        ("succeeded", S::Succeeded),
        ("rolled back", S::RolledBack),
        ("cancelled", S::Cancelled),
        (
            "abandoned",
            S::Abandoned {
                leftovers: Vec::new(),
            },
        ),
    ]
}

/// Compares the answer for each pair of state and verb with the committed table.
#[test]
fn the_table_of_states_and_verbs_holds() {
    let mut table = String::new();
    for (title, state) in every_state() {
        for verb in Verb::ALL {
            let answer = match state.clone().on_verb(verb) {
                Ok((next, effect)) => format!("{} {effect:?}", next.as_str()),
                Err(refused) => {
                    assert_eq!(refused.allowed, state.allowed_verbs());
                    "refused".into()
                }
            };
            table += &format!("{title} + {verb:?} => {answer}\n");
        }
    }
    assert_eq!(table, include_str!("../../tests/upgrade.txt"));
}

#[test]
fn no_state_offers_to_abandon_the_upgrade() {
    for (title, state) in every_state() {
        assert!(!state.allowed_verbs().contains(&Verb::Abandon), "{title}");
    }
    let left = paused(UpgradeState::Rolling).on_verb(Verb::Abandon);
    assert!(matches!(left, Ok((UpgradeState::Abandoned { .. }, _))));
}

fn choice(auto: bool, hold_seconds: u32) -> UpgradePolicyChoice {
    UpgradePolicyChoice {
        strategy: Strategy::Canary,
        auto,
        hold_seconds,
        accept_warnings: false,
        labels: LabelPolicy::Relabel,
    }
}

fn walk_through(choice: UpgradePolicyChoice) -> Vec<String> {
    let mut state = UpgradeState::Prechecking;
    let mut told = vec![state.as_str().to_owned()];
    while !state.is_terminal() {
        let (next, effect) = match state {
            UpgradeState::Verifying { .. } => state.on_verb(Verb::Promote).expect("promote fits"),
            other => other.on_outcome(StageOutcome::Succeeded, choice, Timestamp::UNIX_EPOCH),
        };
        told.push(format!("{} ({effect:?})", next.as_str()));
        state = next;
    }
    told
}

#[test]
fn a_canary_with_a_person_goes_through_every_stage() {
    assert_eq!(
        walk_through(choice(false, 0)),
        [
            "prechecking",
            "deploying (StartOperation(Deploy))",
            "verifying (Nothing)",
            "promoting (StartOperation(Promote))",
            "rolling (StartOperation(Roll))",
            "retiring (StartOperation(Retire))",
            "succeeded (Finish)"
        ]
    );
}

#[test]
fn the_policy_auto_needs_nobody() {
    assert_eq!(
        walk_through(choice(true, 60))[2..5],
        [
            "promoting (StartOperation(Promote))",
            "rolling (StartOperation(Roll))",
            "holding (StartOperation(Retire))"
        ]
    );
}

#[test]
fn a_paused_stage_goes_on_where_it_stood() {
    let (state, _) = UpgradeState::Promoting.on_outcome(
        StageOutcome::Paused(Problem::new(ProblemCode::TagSplit, "", "")),
        choice(false, 0),
        Timestamp::UNIX_EPOCH,
    );
    assert_eq!(
        state.on_verb(Verb::Resume),
        Ok((UpgradeState::Promoting, Effect::Signal(Signal::Resume)))
    );
}

#[test]
fn a_promotion_that_fails_is_restored_and_waits_for_a_person_even_by_the_policy_auto() {
    let problem = Problem::new(ProblemCode::PermissionMissing, "", "");
    let auto = choice(true, 0);
    let (state, effect) = UpgradeState::Promoting.on_outcome(
        StageOutcome::Failed(problem.clone()),
        auto,
        Timestamp::UNIX_EPOCH,
    );
    assert_eq!(effect, Effect::StartOperation(OperationKind::Restore));
    let (state, effect) = state.on_outcome(StageOutcome::Succeeded, auto, Timestamp::UNIX_EPOCH);
    assert_eq!(
        state,
        UpgradeState::Verifying {
            moving: false,
            problem: Some(problem)
        }
    );
    assert_eq!(effect, Effect::Nothing);
    assert!(state.allowed_verbs().contains(&Verb::Promote));
}

#[test]
fn findings_stop_it_unless_they_are_warnings_that_were_accepted() {
    let warned = StageOutcome::Found(vec![finding(Severity::Warn)]);
    let (state, _) = UpgradeState::Prechecking.on_outcome(
        warned.clone(),
        choice(false, 0),
        Timestamp::UNIX_EPOCH,
    );
    assert_eq!(state.as_str(), "blocked");
    let accepting = UpgradePolicyChoice {
        accept_warnings: true,
        ..choice(false, 0)
    };
    let (state, _) = UpgradeState::Prechecking.on_outcome(warned, accepting, Timestamp::UNIX_EPOCH);
    assert_eq!(state.as_str(), "deploying");
    let noted = StageOutcome::Found(vec![finding(Severity::Note)]);
    let (state, _) =
        UpgradeState::Prechecking.on_outcome(noted, choice(false, 0), Timestamp::UNIX_EPOCH);
    assert_eq!(state.as_str(), "deploying", "a note asks for no decision");
}

/// Event in the life of an upgrade: a person asks for a verb, or a stage ends.
#[derive(Debug, Clone)]
enum Happening {
    Asked(Verb),
    Ended(StageOutcome),
}

fn happening() -> impl proptest::strategy::Strategy<Value = Happening> {
    let problem = || Problem::new(ProblemCode::TagSplit, "", "");
    let outcomes = vec![
        StageOutcome::Succeeded,
        StageOutcome::Found(vec![finding(Severity::Warn)]),
        StageOutcome::Paused(problem()),
        StageOutcome::Paused(Problem::paused_by_user()),
        StageOutcome::Failed(problem()),
        StageOutcome::Cancelled,
    ];
    prop_oneof![
        proptest::sample::select(Verb::ALL.to_vec()).prop_map(Happening::Asked),
        proptest::sample::select(outcomes).prop_map(Happening::Ended),
    ]
}

proptest! {
    #[test]
    fn no_order_of_verbs_and_outcomes_nests_a_pause_or_leaves_an_upgrade_that_nothing_ends(
        all in proptest::collection::vec(happening(), 0..40)
    ) {
        let mut state = UpgradeState::Planned;
        for one in all {
            state = match one {
                Happening::Asked(verb) => state.clone().on_verb(verb).map_or(state, |(next, _)| next),
                Happening::Ended(outcome) => state.on_outcome(outcome, choice(false, 60), Timestamp::UNIX_EPOCH).0,
            };
            if let UpgradeState::Paused { from, .. } = &state {
                let nested = matches!(**from, UpgradeState::Paused { .. });
                prop_assert!(!nested, "{state:?}");
                prop_assert!(state.allowed_verbs().contains(&Verb::Retry), "{state:?}");
                let stage = from.can_pause() || matches!(**from, UpgradeState::Prechecking | UpgradeState::Holding { .. });
                prop_assert!(stage, "{state:?}");
            }
            prop_assert!(state.is_terminal() || !state.allowed_verbs().is_empty(), "{state:?}");
        }
    }
}

#[test]
fn a_pause_within_a_pause_that_an_earlier_release_stored_is_read_as_one() {
    let inner = serde_json::json!({ "state": "paused", "from": { "state": "rolling" }, "problem": Problem::new(ProblemCode::TagSplit, "", "") });
    let outer = serde_json::json!({ "state": "paused", "from": inner, "problem": Problem::paused_by_user() });
    assert_eq!(
        serde_json::from_value::<UpgradeState>(outer).expect("a state"),
        paused(UpgradeState::Rolling)
    );
}
