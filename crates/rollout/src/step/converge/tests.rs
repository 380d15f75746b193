//! Checks what a search for workloads answers when it has not seen everything.

use std::collections::BTreeMap;

use meshwright_model::operation::Progress;
use meshwright_model::plan::FormerPods;
use meshwright_model::rollout::RestartLimits;

use super::super::fixed_clusters::FixedClusters;
use super::*;
use crate::ports::RevisionUsers;

#[tokio::test]
async fn b11_a_roll_out_does_not_end_while_the_pods_of_a_member_could_not_be_listed() {
    let step = Step::Converge {
        off: Some(FormerPods {
            revision: "1-25-1".parse().expect("a revision name"),
            image: None,
        }),
        outdated: true,
        namespaces: None,
        selection: None,
        max_failures: 3,
        limits: RestartLimits::default(),
        evict: false,
        on_failure: OnFailure::Pause,
    };
    let place = StepContext {
        operation: format!("op_{:026}", 1).parse().expect("an id"),
        number: 0,
        step: &step,
        progress: &Progress::default(),
        now: jiff::Timestamp::UNIX_EPOCH,
        restarts: &[],
        former_stamps: &BTreeMap::new(),
        unused_proof: None,
    };
    let clusters = FixedClusters {
        users: RevisionUsers {
            users: Vec::new(),
            silent: vec!["c2 does not answer".into()],
        },
        ..FixedClusters::with_value("1.25.1.1")
    };
    let checked = place.check(&clusters).await;
    assert!(
        matches!(&checked, Ok(StepCheck::Waiting(reason)) if reason.contains("c2 does not answer")),
        "a pod without a workload may be in the member: {checked:?}"
    );
}
