use super::*;

#[test]
fn a_stored_problem_of_another_version_is_read_and_kept() {
    let stored = serde_json::json!({ "code": "full_moon", "message": "m", "hint": "h" });
    let problem: Problem = serde_json::from_value(stored.clone()).expect("a problem");
    assert_eq!(problem.code.known(), None);
    assert!(!problem.is_unreachable() && !problem.is_cluster_lost());
    assert_eq!(serde_json::to_value(&problem).expect("JSON"), stored);
}

#[test]
fn the_first_capture_wins_and_a_retry_clears_the_failure() {
    let mut progress = Progress::default();
    let problem = Problem::new(ProblemCode::TagSplit, "x", "x");
    for fact in [
        StepEvent::Started { capture: None },
        StepEvent::Failed { problem },
        StepEvent::Retried,
        StepEvent::Started {
            capture: Some("later".into()),
        },
        StepEvent::Done,
    ] {
        progress.apply_event(&fact);
    }
    assert_eq!(
        progress,
        Progress {
            capture: Some(None),
            begun: true,
            done: true,
            failed: None,
            attempt: 1,
            ..Progress::default()
        }
    );
}
