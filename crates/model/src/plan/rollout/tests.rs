//! Checks which workloads a wave chooses, and the limits of a policy.

use super::*;
use crate::plan::WorkloadKind;

fn workload(number: usize) -> WorkloadRef {
    WorkloadRef {
        namespace: format!("team-{}", number % 7),
        kind: WorkloadKind::Deployment,
        name: format!("service-{number}"),
    }
}

fn share(percent: u32) -> RolloutWave {
    RolloutWave {
        selection: WorkloadSelection {
            percent: Some(percent),
            ..WorkloadSelection::default()
        },
        soak_seconds: 0,
    }
}

fn cluster() -> Name {
    "east".parse().expect("a name")
}

#[test]
fn a_share_contains_every_smaller_share_and_has_about_its_size() {
    let mut counts = [0; 3];
    for number in 0..1000 {
        let within = [10, 20, 50].map(|percent| {
            share(percent)
                .selection
                .includes(&cluster(), &workload(number), false)
        });
        assert!(within[0] <= within[1] && within[1] <= within[2]);
        for (count, within) in counts.iter_mut().zip(within) {
            *count += usize::from(within);
        }
    }
    assert!((70..130).contains(&counts[0]), "{counts:?}");
    assert!((160..240).contains(&counts[1]), "{counts:?}");
    assert!((450..550).contains(&counts[2]), "{counts:?}");
}

#[test]
fn a_workload_belongs_to_the_first_wave_that_chooses_it() {
    let first = RolloutWave {
        selection: WorkloadSelection {
            namespaces: vec!["team-1".into()],
            ..WorkloadSelection::default()
        },
        soak_seconds: 60,
    };
    let policy = RolloutPolicy {
        waves: vec![first, share(100)],
        ..RolloutPolicy::default()
    };
    assert_eq!(policy.wave_of(&cluster(), &workload(1), false), 0);
    assert_eq!(policy.wave_of(&cluster(), &workload(2), false), 1);
    let gateway = policy.wave_of(&cluster(), &workload(2), true);
    assert_eq!(gateway, 2, "a share leaves the mesh's own namespace out");
    assert_eq!(
        policy.wave_of(&cluster(), &workload(1), true),
        0,
        "it is named"
    );
    assert_eq!(
        RolloutPolicy::default().wave_of(&cluster(), &workload(2), false),
        0
    );
}

#[test]
fn each_limit_is_refused_by_its_name() {
    let refused = |policy: RolloutPolicy| policy.validate().expect_err("refused").pointer;
    let wave = |wave: RolloutWave| RolloutPolicy {
        waves: vec![share(5), wave],
        ..RolloutPolicy::default()
    };
    assert_eq!(refused(wave(RolloutWave::default())), "/waves/1");
    assert_eq!(refused(wave(share(0))), "/waves/1/percent");
    assert_eq!(refused(wave(share(101))), "/waves/1/percent");
    assert_eq!(
        refused(wave(RolloutWave {
            soak_seconds: MAX_SOAK_SECONDS + 1,
            ..share(5)
        })),
        "/waves/1/soak_seconds"
    );
    let limits = RestartLimits {
        max_concurrent_per_cluster: Some(0),
        ..RestartLimits::default()
    };
    assert_eq!(
        refused(RolloutPolicy {
            limits,
            ..RolloutPolicy::default()
        }),
        "/max_concurrent_per_cluster"
    );
    assert_eq!(
        refused(RolloutPolicy {
            waves: vec![share(5); MAX_WAVES + 1],
            ..RolloutPolicy::default()
        }),
        "/waves"
    );
    assert_eq!(RolloutPolicy::default().validate(), Ok(()));
}

#[test]
fn arguments_without_a_policy_have_the_default_one() {
    use serde_json::json;
    let read = |arguments| RolloutPolicy::from_arguments(&arguments).expect("a policy");
    assert_eq!(read(json!(null)), RolloutPolicy::default());
    assert_eq!(read(json!({})), RolloutPolicy::default());
    let policy = read(json!({ "policy": { "waves": [{ "percent": 5 }] } }));
    assert_eq!(policy.waves, [share(5)]);
}

#[test]
fn a_policy_is_stored_without_what_it_does_not_say() {
    let text = serde_json::to_string(&share(5)).expect("JSON");
    assert_eq!(text, r#"{"percent":5,"soak_seconds":0}"#);
    let read: RolloutPolicy =
        serde_json::from_str(r#"{"waves":[{"percent":5}]}"#).expect("a policy");
    assert_eq!(read.waves, [share(5)]);
}
