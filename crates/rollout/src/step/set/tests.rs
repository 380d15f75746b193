//! Checks how steps on targets are classified that are not simply at their start.

use std::collections::BTreeMap;

use meshwright_model::ids::OperationId;
use meshwright_model::operation::{Progress, StepEvent};
use meshwright_model::plan::Step;

use super::super::fixed_clusters::FixedClusters;
use super::super::undo;
use super::*;

#[tokio::test]
async fn undo_of_a_rewrite_to_the_present_address_removes_the_target() {
    let target = Target::MemberObjects {
        member: "c1".parse().expect("a name"),
        revision: "1-27-9".parse().expect("a revision name"),
    };
    let installs = Step::Set {
        target: target.clone(),
        from: None,
        to: Some("1.27.9.1".into()),
    };
    let place = StepContext {
        operation: format!("op_{:026}", 1)
            .parse::<OperationId>()
            .expect("an id"),
        number: 0,
        step: &installs,
        progress: &Progress::default(),
        now: jiff::Timestamp::UNIX_EPOCH,
        restarts: &[],
        former_stamps: &BTreeMap::new(),
        unused_proof: None,
    };
    let clusters = FixedClusters {
        former_address: true,
        ..FixedClusters::with_value("1.27.9.1")
    };
    let checked = place.check(&clusters).await;
    let Ok(StepCheck::Ready { capture, .. }) = checked else {
        panic!("{checked:?}")
    };
    assert_eq!(
        undo(&installs, &capture),
        Some(Step::Set {
            target,
            from: Some("1.27.9.1".into()),
            to: None,
        }),
        "the roles and the webhook go with their control plane"
    );
}

#[tokio::test]
async fn b7_a_removal_whose_write_was_lost_is_repeated_although_istiod_is_not_ready() {
    let step = Step::Set {
        target: Target::ControlPlane {
            revision: "1-27-9".parse().expect("a revision name"),
        },
        from: Some("1.27.9.1".into()),
        to: None,
    };
    let mut progress = Progress::default();
    progress.apply_event(&StepEvent::Started {
        capture: Some("1.27.9.1".into()),
    });
    let place = StepContext {
        operation: format!("op_{:026}", 1)
            .parse::<OperationId>()
            .expect("an id"),
        number: 0,
        step: &step,
        progress: &progress,
        now: jiff::Timestamp::UNIX_EPOCH,
        restarts: &[],
        former_stamps: &BTreeMap::new(),
        unused_proof: None,
    };
    let clusters = FixedClusters {
        readiness: Readiness::Pending("0 of 1 replicas are ready".into()),
        ..FixedClusters::with_value("1.27.9.1")
    };
    let checked = place.check(&clusters).await;
    assert!(
        matches!(checked, Ok(StepCheck::Ready { .. })),
        "a broken istiod never becomes ready, so its removal must not wait for that: {checked:?}"
    );
}
