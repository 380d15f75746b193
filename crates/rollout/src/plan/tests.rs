//! Each plan equals a committed picture, so that a change of order is seen in review.

use std::collections::BTreeMap;

use model::injection::{Injector, NamespaceLabels, PodLabels};
use model::plan::{Plan, WorkloadKind, WorkloadRef};
use model::survey::{MemberSurvey, NamespaceSurvey, Survey, WorkloadSurvey};
use model::upgrade::LabelPolicy;

use super::precheck::{Evidence, SkewRule};
use super::rollback::Started;
use super::*;

fn line(version: &str) -> Line {
    let release: Version = version.parse().expect(version);
    Line { revision: release.revision_name(), image: format!("lab/proxyv2:{}", release.community()), release }
}

fn name(text: &str) -> Name {
    text.parse().expect(text)
}

fn layout() -> Layout {
    Layout {
        members: vec![name("c1"), name("c2")],
        current: line("1.25.1.1"),
        target: Some(line("1.27.9.1")),
        width: 4,
        labels: LabelPolicy::Relabel,
    }
}

fn workload(namespace: &str, live: &[&str]) -> WorkloadSurvey {
    let sidecar = |version: &&str| if version.is_empty() { None } else { Some(line(version).sidecar()) };
    WorkloadSurvey {
        workload: WorkloadRef { namespace: namespace.into(), kind: WorkloadKind::Deployment, name: "web".into() },
        template: PodLabels::default(),
        live: live.iter().map(sidecar).collect(),
        stamp: None,
        stuck: None,
    }
}

/// A member with a namespace for each label form; `current` is where stable and default point.
fn member(cluster: &str, current: &str) -> MemberSurvey {
    let current = line(current).revision;
    let old = line("1.25.1.1").revision;
    let canary = line("1.27.9.1").revision;
    let injector = |value: &str, revision: &RevisionName| Injector {
        value: value.into(),
        revision: revision.clone(),
        serves_default: value == "default",
    };
    let namespace = |name: &str, label: Option<&str>| NamespaceSurvey {
        name: name.into(),
        labels: data_plane::labels_of(label),
        workloads: vec![workload(name, &["1.25.1.1", "1.25.1.1"])],
        unreachable: Vec::new(),
    };
    MemberSurvey {
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

fn picture(plan: &Plan) -> String {
    let mut text = String::new();
    for wave in &plan.waves {
        let width = if wave.width == usize::MAX { String::new() } else { format!(" ({} at once)", wave.width) };
        text += &format!("{}{width}\n", wave.title);
        for step in &wave.steps {
            text += &format!("    {step}\n");
        }
    }
    text
}

fn compare(name: &str, plan: &Plan) {
    let file = format!("{}/tests/plans/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_PLANS").is_some() {
        std::fs::write(&file, picture(plan)).expect("a writable tree");
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(picture(plan), committed, "UPDATE_PLANS=1 cargo test -p meshwright-rollout writes {file} anew");
    let stored = serde_json::to_string(plan).expect("a plan is data");
    assert_eq!(serde_json::from_str::<Plan>(&stored).expect("a stored plan loads"), *plan);
}

#[test]
fn creating_a_mesh() {
    compare("create", &life::create(&layout()));
}

#[test]
fn deleting_a_mesh() {
    // An earlier upgrade in place has left an alias behind.
    let mut cluster = member("c1", "1.25.1.1");
    cluster.injectors.retain(|injector| injector.value != "1-27-9");
    cluster.injectors.last_mut().expect("a canary tag").revision = line("1.25.1.1").revision;
    cluster.injectors.push(Injector {
        value: "1-25-0".into(),
        revision: line("1.25.1.1").revision,
        serves_default: false,
    });
    let first = (cluster.member, cluster.injectors);
    let whole = life::Farewell { answering: vec![first.clone(), (name("c2"), Vec::new())], left_behind: Vec::new() };
    let quiet = Layout { target: None, ..layout() };
    compare("delete", &life::delete(&quiet, &whole));
    let part = life::Farewell { answering: vec![first], left_behind: vec![name("c2")] };
    compare("delete-with-force", &life::delete(&quiet, &part));
}

#[test]
fn deleting_a_mesh_whose_canary_was_abandoned() {
    let cluster = member("c1", "1.25.1.1");
    let answering = vec![(cluster.member, cluster.injectors)];
    let farewell = life::Farewell { answering, left_behind: vec![name("c2")] };
    compare("delete-with-both", &life::delete(&layout(), &farewell));
}

#[test]
fn deploying_a_canary() {
    compare("canary-deploy", &canary::deploy(&layout(), &line("1.27.9.1")));
}

#[test]
fn promoting_a_canary() {
    compare("canary-promote", &canary::promote(&layout(), &line("1.27.9.1")));
}

#[test]
fn retiring_the_old_revision() {
    compare("retire", &canary::retire(&layout()));
}

#[test]
fn upgrading_in_place_across_a_patch() {
    let target = Line { revision: line("1.27.8.1").revision, ..line("1.27.9.1") };
    let layout = Layout { current: line("1.27.8.1"), target: Some(target.clone()), ..layout() };
    compare("in-place-deploy", &in_place::deploy(&layout, &target));
}

#[test]
fn upgrading_in_place_within_a_community_version_needs_no_alias() {
    let target = line("1.27.9.2");
    let layout = Layout { current: line("1.27.9.1"), target: Some(target.clone()), ..layout() };
    let plan = in_place::deploy(&layout, &target);
    assert!(plan.waves.iter().all(|wave| wave.title != "alias tags"));
}

#[test]
fn rolling_moves_every_label_form_and_leaves_the_unlabelled_alone() {
    let survey = Survey { members: vec![member("c1", "1.27.9.1")], ..Survey::default() };
    compare("roll", &data_plane::roll(&layout(), &line("1.27.9.1"), &survey, &BTreeMap::new()));
}

#[test]
fn rolling_gives_moved_namespaces_their_label_back_and_does_not_restart_them_again() {
    let mut cluster = member("c1", "1.27.9.1");
    cluster.namespaces.truncate(1);
    cluster.namespaces[0].labels = NamespaceLabels { injection: None, rev: Some("1-27-9".into()) };
    cluster.namespaces[0].workloads = vec![workload("enabled", &["1.27.9.1"])];
    let moved = BTreeMap::from([((name("c1"), "enabled".to_owned()), Some("istio-injection=enabled".to_owned()))]);
    let plan =
        data_plane::roll(&layout(), &line("1.27.9.1"), &Survey { members: vec![cluster], ..Survey::default() }, &moved);
    assert_eq!(picture(&plan), "namespace labels\n    label of namespace enabled in c1 → istio-injection=enabled\n");
}

#[test]
fn d1_a_pod_without_a_sidecar_in_a_labelled_namespace_needs_a_restart() {
    let mut cluster = member("c1", "1.27.9.1");
    cluster.namespaces.truncate(1);
    cluster.namespaces[0].workloads = vec![workload("enabled", &["1.27.9.1", ""])];
    let plan = data_plane::roll(
        &layout(),
        &line("1.27.9.1"),
        &Survey { members: vec![cluster], ..Survey::default() },
        &BTreeMap::new(),
    );
    assert_eq!(plan.len(), 1);
}

/// Everything that a canary starts, up to the middle of its roll-out.
fn started() -> Vec<Started> {
    let target = line("1.27.9.1");
    let survey = Survey { members: vec![member("c1", "1.27.9.1")], ..Survey::default() };
    let plan = canary::deploy(&layout(), &target).then(canary::promote(&layout(), &target)).then(data_plane::roll(
        &layout(),
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
    cluster.namespaces[0].workloads =
        vec![WorkloadSurvey { stamp: Some("op/1/0".into()), ..workload("enabled", &["1.27.9.1"]) }];
    compare(
        "rollback",
        &rollback::rollback(
            &layout(),
            &line("1.27.9.1"),
            &started(),
            &Survey { members: vec![cluster], ..Survey::default() },
        ),
    );
}

#[test]
fn b7_a_pod_born_in_the_mixed_window_is_restarted_by_the_rollback() {
    let mut cluster = member("c1", "1.27.9.1");
    cluster.namespaces.truncate(1);
    cluster.namespaces[0].workloads = vec![workload("enabled", &["1.25.1.1", "1.27.9.1"])];
    let plan =
        rollback::rollback(&layout(), &line("1.27.9.1"), &[], &Survey { members: vec![cluster], ..Survey::default() });
    let restarts: Vec<&Step> =
        plan.waves.iter().flat_map(|wave| &wave.steps).filter(|step| matches!(step, Step::Restart { .. })).collect();
    assert!(matches!(restarts[..], [Step::Restart { stamp: model::plan::Stamp::Fresh, .. }]), "{restarts:?}");
}

#[test]
fn findings_name_what_stands_in_the_way() {
    let mut cluster = member("c1", "1.25.1.1");
    cluster.foreign = vec!["istio-sidecar-injector".into()];
    cluster.namespaces[0].labels.rev = Some("stable".into());
    cluster.namespaces[2].labels.rev = Some("gone".into());
    cluster.namespaces[2].workloads[0].stuck = Some(model::survey::Stuck::OnDelete);
    cluster.namespaces[3].workloads[0].template.rev = Some("1-25-1".into());
    cluster.namespaces[3].unreachable = vec!["bare".into()];
    let survey = Survey { members: vec![cluster], ..Survey::default() };
    let refusing = vec![name("c2")];
    let found = precheck::findings(&layout(), &Evidence { survey, refusing, skew: skew_rule(), ..Evidence::default() });
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
    SkewRule { minors: 1, ..SkewRule::default() }
}

/// What is found of proxies that are too old, where namespaces carry these sidecars of the revision 1-25-1.
fn too_old(current: &str, target: Line, live: &[&[&str]]) -> Vec<String> {
    let revision = line("1.25.1.1").revision;
    let mut cluster = member("c1", "1.25.1.1");
    for (namespace, live) in cluster.namespaces.iter_mut().zip(live) {
        let sidecar = |version: &&str| Some(Sidecar { revision: revision.clone(), ..line(version).sidecar() });
        namespace.workloads[0].live = live.iter().map(sidecar).collect();
    }
    cluster.namespaces[0].unreachable = vec!["bare".into()];
    let proxy = |proxy: &str, version: &str, ghost| model::survey::ProxySurvey {
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
    let current = Line { revision: revision.clone(), ..line(current) };
    let layout = Layout { current, target: Some(target), ..layout() };
    let survey = Survey { members: vec![cluster], proxies, ..Survey::default() };
    let found = precheck::findings(&layout, &Evidence { survey, skew: skew_rule(), ..Evidence::default() });
    let old = found.into_iter().filter(|finding| finding.code == "proxy_too_old");
    old.map(|finding| finding.object).collect()
}

#[test]
fn d8_a_second_upgrade_in_place_is_refused_while_workloads_of_the_first_are_left_behind() {
    let slot = line("1.25.1.1").revision;
    let target = |version: &str| Line { revision: slot.clone(), ..line(version) };
    let live: &[&[&str]] = &[&["1.26.3.1", "1.25.1.1"], &["1.26.3.1"], &[], &["1.26.3.1"]];
    assert_eq!(too_old("1.25.1.1", target("1.26.3.1"), live), Vec::<String>::new(), "one minor is supported");
    assert_eq!(
        too_old("1.26.3.1", target("1.27.9.1"), live),
        ["c1: enabled/deployment/web", "c1: proxy bare.enabled", "c1: proxy vm.enabled"]
    );
}

#[test]
fn d8_a_canary_is_refused_only_for_proxies_that_are_too_old_for_the_istiod_they_have() {
    let live: &[&[&str]] = &[&["1.25.1.1"], &["1.25.1.1"], &["1.25.1.1"], &["1.25.1.1"]];
    assert_eq!(too_old("1.25.1.1", line("1.27.9.1"), live), Vec::<String>::new());
    assert_eq!(
        too_old("1.27.8.1", line("1.27.9.1"), live).len(),
        6,
        "each workload, the bare pod and the one without a pod"
    );
}
