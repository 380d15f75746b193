//! Tests of the restart stamp.

use meshwright_model::operation::StepEvent;

use super::*;

#[test]
fn retried_restart_gets_a_new_stamp() {
    let step = Step::AwaitGone {
        member: "c1".parse().expect("a name"),
    };
    let mut progress = Progress::default();
    let operation: OperationId = format!("op_{:026}", 1).parse().expect("an id");
    let stamp = |progress: &Progress, stamp: &Stamp| {
        StepContext {
            operation,
            number: 3,
            step: &step,
            progress,
            now: jiff::Timestamp::UNIX_EPOCH,
            restarts: &[],
            former_stamps: &BTreeMap::new(),
            unused_proof: None,
        }
        .restart_stamp(stamp)
    };
    let former = Stamp::Former {
        value: Some("before".into()),
    };
    assert_eq!(stamp(&progress, &former).as_deref(), Some("before"));
    progress.apply_event(&StepEvent::Retried);
    let again = stamp(&progress, &former);
    assert_eq!(again, stamp(&progress, &Stamp::Fresh));
    assert_ne!(
        again.as_deref(),
        Some("before"),
        "the workload would not be restarted again"
    );
}
