//! Checks forecasts against observations of one cluster.

use meshwright_model::Name;
use meshwright_model::injection::{Injector, NamespaceLabels, PodLabels};
use meshwright_model::plan::{Sidecar, WorkloadKind, WorkloadRef};
use meshwright_model::rollout::{RolloutWave, WorkloadSelection};

use super::*;

const OLD: Option<&str> = Some("1-25-1");
const NEW: Option<&str> = Some("1-27-9");

/// Returns a workload with two pods that have the sidecar of a revision, or none.
fn workload(
    name: &str,
    carried: Option<&str>,
    stuck: Option<RestartBlocker>,
) -> WorkloadObservation {
    let live = carried.map(|revision| Sidecar {
        revision: revision.parse().expect("a revision name"),
        image: format!("hub/proxyv2:{revision}"),
    });
    WorkloadObservation {
        workload: WorkloadRef {
            namespace: "shop".into(),
            kind: WorkloadKind::Deployment,
            name: name.into(),
        },
        template: PodLabels::default(),
        live: vec![live.clone(), live],
        stamp: None,
        stuck,
    }
}

/// Returns an observation of one cluster with one namespace that is injected by `1-27-9`.
fn observed(workloads: Vec<WorkloadObservation>, pods: &[&str]) -> (Timestamp, Observation) {
    let namespace = NamespaceObservation {
        name: "shop".into(),
        labels: NamespaceLabels {
            injection: Some("enabled".into()),
            rev: None,
        },
        workloads,
        unreachable: pods.iter().map(|pod| (*pod).to_owned()).collect(),
        of_mesh: false,
    };
    let member = MemberObservation {
        member: "c1".parse().expect("a name"),
        kubernetes: (1, 31),
        namespaces: vec![namespace],
        injectors: vec![Injector {
            value: "default".into(),
            revision: "1-27-9".parse().expect("a revision name"),
            serves_default: true,
        }],
        foreign: Vec::new(),
    };
    let survey = Observation {
        members: vec![member],
        proxies: Vec::new(),
        sidecars: Vec::new(),
    };
    (Timestamp::UNIX_EPOCH, survey)
}

/// Returns `name: wave action code` of each workload.
fn lines(told: &RolloutForecast) -> Vec<String> {
    let line = |workload: &ForecastWorkload| {
        let code = workload.reason.as_ref().map(|reason| reason.code.as_str());
        format!(
            "{}: {} {} {}",
            workload.name,
            workload.wave,
            workload.action,
            code.unwrap_or("-")
        )
    };
    told.workloads.iter().map(line).collect()
}

#[test]
fn d3_what_cannot_be_restarted_is_told_with_its_reason_before_anything_starts() {
    let stuck = |name: &str, blocker| workload(name, OLD, Some(blocker));
    let workloads = vec![
        workload("old", OLD, None),
        workload("new", NEW, None),
        workload("bare", None, None),
        stuck("paused", RestartBlocker::Paused),
        stuck("on-delete", RestartBlocker::OnDelete),
        stuck("partition", RestartBlocker::Partition),
        stuck("owned", RestartBlocker::Owned),
        stuck("gateway", RestartBlocker::SelfRolling),
        workload("fine", NEW, Some(RestartBlocker::Paused)),
    ];
    let told = forecast(
        &RolloutPolicy::default(),
        Some(&observed(workloads, &["job-x"])),
    );
    assert_eq!(
        lines(&told),
        [
            "old: 1 restart revision",
            "new: 1 none -",
            "bare: 1 restart no_sidecar",
            "paused: 1 left paused",
            "on-delete: 1 left on_delete",
            "partition: 1 left partition",
            "owned: 1 left owned",
            "gateway: 1 none self_rolling",
            "fine: 1 none -",
            "job-x: 1 left no_workload",
        ]
    );
    let [last] = told.waves.as_slice() else {
        panic!("one wave");
    };
    assert_eq!((last.restarts, last.pods, last.left), (2, 4, 5));
}

#[test]
fn the_forecast_follows_the_waves_of_the_policy() {
    let name = |text: &str| text.parse::<Name>().expect("a name");
    let first = RolloutWave {
        selection: WorkloadSelection {
            clusters: vec![name("c1")],
            workloads: vec![meshwright_model::rollout::SelectedWorkload {
                cluster: name("c1"),
                workload: workload("web", None, None).workload,
            }],
            ..WorkloadSelection::default()
        },
        soak_seconds: 600,
    };
    let policy = RolloutPolicy {
        waves: vec![first],
        ..RolloutPolicy::default()
    };
    let workloads = vec![workload("api", OLD, None), workload("web", OLD, None)];
    let told = forecast(&policy, Some(&observed(workloads, &[])));
    assert_eq!(
        lines(&told),
        ["web: 1 restart revision", "api: 2 restart revision"]
    );
    let waves: Vec<(u32, u32, u32)> = told
        .waves
        .iter()
        .map(|wave| (wave.number, wave.restarts, wave.soak_seconds))
        .collect();
    assert_eq!(waves, [(1, 1, 600), (2, 1, 0)]);
}

#[test]
fn workloads_outside_the_mesh_are_left_out_and_without_an_observation_there_are_none() {
    let mut outside = observed(vec![workload("web", None, None)], &[]);
    outside.1.members[0].namespaces[0].labels = NamespaceLabels::default();
    assert!(lines(&forecast(&RolloutPolicy::default(), Some(&outside))).is_empty());
    outside.1.members[0].namespaces[0].workloads = vec![workload("web", OLD, None)];
    assert_eq!(
        lines(&forecast(&RolloutPolicy::default(), Some(&outside))),
        ["web: 1 none not_injected"]
    );
    let told = forecast(&RolloutPolicy::default(), None);
    assert_eq!((told.observed_at, told.waves.len()), (None, 1));
}
