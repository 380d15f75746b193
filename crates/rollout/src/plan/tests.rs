//! Compares each plan with a committed text, so that a change of the order is visible in review.

use std::collections::BTreeMap;

use meshwright_model::injection::{Injector, NamespaceLabels, PodLabels};
use meshwright_model::observation::{
    MemberObservation, NamespaceObservation, Observation, WorkloadObservation,
};
use meshwright_model::plan::{Plan, WorkloadKind, WorkloadRef};
use meshwright_model::rollout::RolloutPolicy;
use meshwright_model::upgrade::LabelPolicy;

use super::precheck::{PrecheckInput, SkewRule};
use super::rollback::StartedStep;
use super::*;

fn control_plane(version: &str) -> ControlPlane {
    let release: Version = version.parse().expect(version);
    ControlPlane {
        revision: release.revision_name(),
        image: format!("lab/proxyv2:{}", release.community_version()),
        release,
    }
}

fn name(text: &str) -> Name {
    text.parse().expect(text)
}

fn topology() -> MeshTopology {
    MeshTopology {
        members: vec![name("c1"), name("c2")],
        current: control_plane("1.25.1.1"),
        target: Some(control_plane("1.27.9.1")),
        max_concurrent_restarts: 4,
        label_policy: LabelPolicy::Relabel,
        rollout: RolloutPolicy::default(),
    }
}

fn workload(namespace: &str, live: &[&str]) -> WorkloadObservation {
    let sidecar = |version: &&str| {
        if version.is_empty() {
            None
        } else {
            Some(control_plane(version).sidecar())
        }
    };
    WorkloadObservation {
        workload: WorkloadRef {
            namespace: namespace.into(),
            kind: WorkloadKind::Deployment,
            name: "web".into(),
        },
        template: PodLabels::default(),
        live: live.iter().map(sidecar).collect(),
        stamp: None,
        stuck: None,
    }
}

/// Builds a member with one namespace for each form of the injection labels. The tags `stable` and
/// `default` point to `current`.
fn member(cluster: &str, current: &str) -> MemberObservation {
    let current = control_plane(current).revision;
    let old = control_plane("1.25.1.1").revision;
    let canary = control_plane("1.27.9.1").revision;
    let injector = |value: &str, revision: &RevisionName| Injector {
        value: value.into(),
        revision: revision.clone(),
        serves_default: value == "default",
    };
    let namespace = |name: &str, label: Option<&str>| NamespaceObservation {
        name: name.into(),
        labels: data_plane::parse_labels(label),
        workloads: vec![workload(name, &["1.25.1.1", "1.25.1.1"])],
        unreachable: Vec::new(),
        of_mesh: false,
    };
    MemberObservation {
        member: name(cluster),
        kubernetes: (1, 33),
        namespaces: vec![
            namespace("enabled", Some("istio-injection=enabled")),
            namespace("explicit", Some("istio.io/rev=1-25-1")),
            namespace("stable", Some("istio.io/rev=stable")),
            namespace("unlabelled", None),
        ],
        injectors: vec![
            injector("1-25-1", &old),
            injector("1-27-9", &canary),
            injector("stable", &current),
            injector("default", &current),
            injector("canary", &canary),
        ],
        foreign: Vec::new(),
    }
}

fn render_plan(plan: &Plan) -> String {
    let mut text = String::new();
    for wave in &plan.waves {
        let width = if wave.width == usize::MAX {
            String::new()
        } else {
            format!(" ({} at once)", wave.width)
        };
        text += &format!("{}{width}\n", wave.title);
        for step in &wave.steps {
            text += &format!("    {step}\n");
        }
    }
    text
}

fn assert_plan_matches(name: &str, plan: &Plan) {
    let file = format!("{}/tests/plans/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_PLANS").is_some() {
        std::fs::write(&file, render_plan(plan)).expect("a writable tree");
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(
        render_plan(plan),
        committed,
        "UPDATE_PLANS=1 cargo test -p meshwright-rollout writes {file} anew"
    );
    let stored = serde_json::to_string(plan).expect("a plan is data");
    assert_eq!(
        serde_json::from_str::<Plan>(&stored).expect("a stored plan loads"),
        *plan
    );
}

#[test]
fn creating_a_mesh() {
    assert_plan_matches("create", &lifecycle::plan_create(&topology()));
}

#[test]
fn deleting_a_mesh() {
    // An earlier upgrade in place has left an alias.
    let mut cluster = member("c1", "1.25.1.1");
    cluster
        .injectors
        .retain(|injector| injector.value != "1-27-9");
    cluster.injectors.last_mut().expect("a canary tag").revision =
        control_plane("1.25.1.1").revision;
    cluster.injectors.push(Injector {
        value: "1-25-0".into(),
        revision: control_plane("1.25.1.1").revision,
        serves_default: false,
    });
    let first = (cluster.member, cluster.injectors);
    let whole = lifecycle::MemberReachability {
        answering: vec![first.clone(), (name("c2"), Vec::new())],
        left_behind: Vec::new(),
    };
    let quiet = MeshTopology {
        target: None,
        ..topology()
    };
    assert_plan_matches("delete", &lifecycle::plan_delete(&quiet, &whole));
    let part = lifecycle::MemberReachability {
        answering: vec![first],
        left_behind: vec![name("c2")],
    };
    assert_plan_matches("delete-with-force", &lifecycle::plan_delete(&quiet, &part));
}

#[test]
fn deleting_a_mesh_whose_canary_was_abandoned() {
    let cluster = member("c1", "1.25.1.1");
    let answering = vec![(cluster.member, cluster.injectors)];
    let farewell = lifecycle::MemberReachability {
        answering,
        left_behind: vec![name("c2")],
    };
    assert_plan_matches(
        "delete-with-both",
        &lifecycle::plan_delete(&topology(), &farewell),
    );
}

#[test]
fn deploying_a_canary() {
    assert_plan_matches(
        "canary-deploy",
        &canary::plan_deploy(&topology(), &control_plane("1.27.9.1")),
    );
}

#[test]
fn promoting_a_canary() {
    assert_plan_matches(
        "canary-promote",
        &canary::plan_promote(&topology(), &control_plane("1.27.9.1")),
    );
}

#[test]
fn retiring_the_old_revision() {
    assert_plan_matches("retire", &canary::plan_retire(&topology()));
}

#[test]
fn upgrading_in_place_across_a_patch() {
    let target = ControlPlane {
        revision: control_plane("1.27.8.1").revision,
        ..control_plane("1.27.9.1")
    };
    let layout = MeshTopology {
        current: control_plane("1.27.8.1"),
        target: Some(target.clone()),
        ..topology()
    };
    assert_plan_matches("in-place-deploy", &in_place::plan_deploy(&layout, &target));
}

#[test]
fn upgrading_in_place_within_a_community_version_needs_no_alias() {
    let target = control_plane("1.27.9.2");
    let layout = MeshTopology {
        current: control_plane("1.27.9.1"),
        target: Some(target.clone()),
        ..topology()
    };
    let plan = in_place::plan_deploy(&layout, &target);
    assert!(plan.waves.iter().all(|wave| wave.title != "alias tags"));
}

#[test]
fn rolling_moves_every_label_form_and_leaves_the_unlabelled_alone() {
    let survey = Observation {
        members: vec![member("c1", "1.27.9.1")],
        ..Observation::default()
    };
    assert_plan_matches(
        "roll",
        &data_plane::plan_roll(
            &topology(),
            &control_plane("1.27.9.1"),
            &survey,
            &BTreeMap::new(),
        ),
    );
}

#[test]
fn rolling_gives_moved_namespaces_their_label_back_and_does_not_restart_them_again() {
    let mut cluster = member("c1", "1.27.9.1");
    cluster.namespaces.truncate(1);
    cluster.namespaces[0].labels = NamespaceLabels {
        injection: None,
        rev: Some("1-27-9".into()),
    };
    cluster.namespaces[0].workloads = vec![workload("enabled", &["1.27.9.1"])];
    let moved = BTreeMap::from([(
        (name("c1"), "enabled".to_owned()),
        Some("istio-injection=enabled".to_owned()),
    )]);
    let plan = data_plane::plan_roll(
        &topology(),
        &control_plane("1.27.9.1"),
        &Observation {
            members: vec![cluster],
            ..Observation::default()
        },
        &moved,
    );
    assert_eq!(
        render_plan(&plan),
        "namespace labels\n    label of namespace enabled in c1 → istio-injection=enabled\nrestarts (4 at once)\n    restart every workload that has pods of 1-25-1\n"
    );
}

/// Returns the steps that a canary starts, up to the middle of its roll-out.
fn started() -> Vec<StartedStep> {
    let target = control_plane("1.27.9.1");
    let survey = Observation {
        members: vec![member("c1", "1.27.9.1")],
        ..Observation::default()
    };
    let plan = canary::plan_deploy(&topology(), &target)
        .followed_by(canary::plan_promote(&topology(), &target))
        .followed_by(data_plane::plan_roll(
            &topology(),
            &target,
            &survey,
            &BTreeMap::new(),
        ));
    let steps = plan.waves.into_iter().flat_map(|wave| wave.steps);
    steps
        .filter_map(|step| match &step {
            Step::Set { from, .. } => Some((step.clone(), from.clone())),
            Step::Restart { .. } => Some((step, None)),
            _ => None,
        })
        .collect()
}

#[test]
fn rolling_back_restores_in_the_order_that_keeps_pods_injected() {
    let mut cluster = member("c1", "1.27.9.1");
    cluster.namespaces[0].workloads = vec![WorkloadObservation {
        stamp: Some("op/1/0".into()),
        ..workload("enabled", &["1.27.9.1"])
    }];
    assert_plan_matches(
        "rollback",
        &rollback::plan_rollback(
            &topology(),
            &control_plane("1.27.9.1"),
            &started(),
            &Observation {
                members: vec![cluster],
                ..Observation::default()
            },
        ),
    );
}

#[test]
fn findings_name_what_stands_in_the_way() {
    let mut cluster = member("c1", "1.25.1.1");
    cluster.foreign = vec!["istio-sidecar-injector".into()];
    cluster.namespaces[0].labels.rev = Some("stable".into());
    cluster.namespaces[2].labels.rev = Some("gone".into());
    cluster.namespaces[2].workloads[0].stuck =
        Some(meshwright_model::observation::RestartBlocker::OnDelete);
    cluster.namespaces[3].workloads[0].template.rev = Some("1-25-1".into());
    cluster.namespaces[3].unreachable = vec!["bare".into()];
    let survey = Observation {
        members: vec![cluster],
        ..Observation::default()
    };
    let refusing = vec![name("c2")];
    let found = precheck::collect_findings(
        &topology(),
        &PrecheckInput {
            survey,
            refusing_members: refusing,
            skew: skew_rule(),
            ..PrecheckInput::default()
        },
    );
    let codes: Vec<&str> = found.iter().map(|finding| finding.code.as_str()).collect();
    assert_eq!(
        codes,
        [
            "probe_refused",
            "foreign_istio",
            "both_labels",
            "no_such_revision",
            "cannot_restart",
            "template_names_revision",
            "pod_without_workload",
            "services_stay_local"
        ]
    );
}

fn skew_rule() -> SkewRule {
    SkewRule {
        max_minors_behind: 1,
        ..SkewRule::default()
    }
}

/// Returns the objects of the findings about proxies that are too old. The namespaces have these
/// sidecars of the revision 1-25-1.
fn skew_objects(current: &str, target: ControlPlane, live: &[&[&str]]) -> Vec<String> {
    let revision = control_plane("1.25.1.1").revision;
    let mut cluster = member("c1", "1.25.1.1");
    for (namespace, live) in cluster.namespaces.iter_mut().zip(live) {
        let sidecar = |version: &&str| {
            Some(Sidecar {
                revision: revision.clone(),
                ..control_plane(version).sidecar()
            })
        };
        namespace.workloads[0].live = live.iter().map(sidecar).collect();
    }
    cluster.namespaces[0].unreachable = vec!["bare".into()];
    let proxy =
        |proxy: &str, version: &str, ghost| meshwright_model::observation::ProxyObservation {
            proxy: proxy.into(),
            member: "c1".into(),
            revision: revision.clone(),
            version: version.into(),
            synced: true,
            error: None,
            ghost,
        };
    let proxies = vec![
        proxy("bare.enabled", "1.25.1", false),
        proxy("vm.enabled", "1.25.1", true),
        proxy("web.enabled", "1.25.1", false),
    ];
    let current = ControlPlane {
        revision: revision.clone(),
        ..control_plane(current)
    };
    let layout = MeshTopology {
        current,
        target: Some(target),
        ..topology()
    };
    let survey = Observation {
        members: vec![cluster],
        proxies,
        ..Observation::default()
    };
    let found = precheck::collect_findings(
        &layout,
        &PrecheckInput {
            survey,
            skew: skew_rule(),
            ..PrecheckInput::default()
        },
    );
    let old = found
        .into_iter()
        .filter(|finding| finding.code == "proxy_too_old");
    old.map(|finding| finding.object).collect()
}

#[test]
fn d8_a_second_upgrade_in_place_is_refused_while_workloads_of_the_first_are_left_behind() {
    let slot = control_plane("1.25.1.1").revision;
    let target = |version: &str| ControlPlane {
        revision: slot.clone(),
        ..control_plane(version)
    };
    let live: &[&[&str]] = &[&["1.26.3.1", "1.25.1.1"], &["1.26.3.1"], &[], &["1.26.3.1"]];
    assert_eq!(
        skew_objects("1.25.1.1", target("1.26.3.1"), live),
        Vec::<String>::new(),
        "one minor is supported"
    );
    assert_eq!(
        skew_objects("1.26.3.1", target("1.27.9.1"), live),
        [
            "c1: enabled/deployment/web",
            "c1: proxy bare.enabled",
            "c1: proxy vm.enabled"
        ]
    );
}

#[test]
fn d8_a_canary_is_refused_only_for_proxies_that_are_too_old_for_the_istiod_they_have() {
    let live: &[&[&str]] = &[&["1.25.1.1"], &["1.25.1.1"], &["1.25.1.1"], &["1.25.1.1"]];
    assert_eq!(
        skew_objects("1.25.1.1", control_plane("1.27.9.1"), live),
        Vec::<String>::new()
    );
    assert_eq!(
        skew_objects("1.27.8.1", control_plane("1.27.9.1"), live).len(),
        6,
        "each workload, the bare pod and the one without a pod"
    );
}
