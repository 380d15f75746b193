use std::collections::BTreeSet;

use jiff::civil::date;
use proptest::{prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::release::KubernetesRange;
use crate::switch::Switch;

fn version(text: &str) -> Version {
    text.parse().expect(text)
}

fn release(text: &str) -> Release {
    Release {
        version: version(text),
        state: ReleaseState::Available,
        hub: "registry.example".into(),
        tag: version(text).community_version(),
        digest: String::new(),
        supported_until: None,
        kubernetes: KubernetesRange {
            min: 29,
            tested_max: 33,
            source: "test".into(),
        },
        quirks: Vec::new(),
        released_on: None,
        channels: BTreeSet::new(),
        minimum_edition: Edition::Standard,
        notes: String::new(),
        switches: Switch::defaults_of(&version(text)),
    }
}

fn policy() -> UpgradePolicy {
    UpgradePolicy {
        in_place_minors: 1,
        canary_minors: 2,
        canary_floor: version("1.12.4.58"),
        canary_edition: Edition::Enterprise,
        refuse_unsupported: false,
        source: "test".into(),
    }
}

fn assess_step(
    current: &str,
    target: &Release,
    strategy: Strategy,
    edition: Edition,
    kubernetes: (u32, u32),
) -> Vec<Reason> {
    let policy = policy();
    let members = [("c1".to_owned(), kubernetes)];
    let around = UpgradeContext {
        policy: &policy,
        edition,
        members: &members,
        today: date(2026, 11, 22),
    };
    assess_upgrade(&version(current), target, strategy, &around)
}

fn is_step_allowed(current: &str, target: &str, strategy: Strategy) -> bool {
    is_allowed(&assess_step(
        current,
        &release(target),
        strategy,
        Edition::Enterprise,
        (1, 33),
    ))
}

fn codes(reasons: &[Reason]) -> Vec<(ReasonCode, Severity)> {
    reasons
        .iter()
        .map(|reason| (reason.code, reason.severity))
        .collect()
}

#[test]
fn a_release_is_for_its_edition_and_higher_ones() {
    let target = Release {
        minimum_edition: Edition::Enterprise,
        ..release("1.27.9.1")
    };
    let standard = assess_step(
        "1.26.1.1",
        &target,
        Strategy::InPlace,
        Edition::Standard,
        (1, 33),
    );
    assert_eq!(codes(&standard), [(ReasonCode::Edition, Severity::Block)]);
    for edition in [Edition::Enterprise, Edition::Ultimate] {
        assert!(assess_step("1.26.1.1", &target, Strategy::InPlace, edition, (1, 33)).is_empty());
    }
}

#[test]
fn b1_canary_may_skip_one_minor_and_never_two() {
    assert!(is_step_allowed("1.12.4.58", "1.13.4.1", Strategy::Canary));
    assert!(is_step_allowed("1.12.4.58", "1.14.5.1", Strategy::Canary));
    assert!(!is_step_allowed("1.12.4.58", "1.15.0.1", Strategy::Canary));
}

#[test]
fn b1_in_place_goes_to_the_same_or_the_next_minor() {
    assert!(is_step_allowed("1.27.8.1", "1.27.9.1", Strategy::InPlace));
    assert!(is_step_allowed("1.26.1.1", "1.27.9.1", Strategy::InPlace));
    assert!(!is_step_allowed("1.25.1.1", "1.27.9.1", Strategy::InPlace));
}

#[test]
fn b1_a_build_goes_in_place_and_not_by_canary() {
    assert!(is_step_allowed("1.27.9.1", "1.27.9.2", Strategy::InPlace));
    let reasons = assess_step(
        "1.27.9.1",
        &release("1.27.9.2"),
        Strategy::Canary,
        Edition::Enterprise,
        (1, 33),
    );
    assert_eq!(
        codes(&reasons),
        [(ReasonCode::SameCommunityVersion, Severity::Block)]
    );
}

#[test]
fn b1_never_down_and_never_to_itself() {
    for target in ["1.27.9.1", "1.27.8.9", "1.26.0.1"] {
        for strategy in [Strategy::InPlace, Strategy::Canary] {
            assert!(!is_step_allowed("1.27.9.1", target, strategy), "{target}");
        }
    }
}

#[test]
fn b1_kubernetes_below_the_minimum_blocks_and_above_the_tested_range_warns() {
    let target = release("1.27.9.1");
    let old = assess_step(
        "1.26.1.1",
        &target,
        Strategy::Canary,
        Edition::Enterprise,
        (1, 28),
    );
    assert_eq!(
        codes(&old),
        [(ReasonCode::KubernetesTooOld, Severity::Block)]
    );
    let new = assess_step(
        "1.26.1.1",
        &target,
        Strategy::Canary,
        Edition::Enterprise,
        (1, 36),
    );
    assert_eq!(
        codes(&new),
        [(ReasonCode::KubernetesUntested, Severity::Warn)]
    );
}

#[test]
fn b1_end_of_support_warns_and_blocks_by_policy_only() {
    let mut target = release("1.27.9.1");
    target.supported_until = Some(date(2026, 5, 31));
    let reasons = assess_step(
        "1.26.1.1",
        &target,
        Strategy::Canary,
        Edition::Enterprise,
        (1, 33),
    );
    assert_eq!(
        codes(&reasons),
        [(ReasonCode::EndOfSupport, Severity::Warn)]
    );
    let strict = UpgradePolicy {
        refuse_unsupported: true,
        ..policy()
    };
    let around = UpgradeContext {
        policy: &strict,
        edition: Edition::Enterprise,
        members: &[],
        today: date(2026, 11, 22),
    };
    assert!(!is_allowed(&assess_upgrade(
        &version("1.26.1.1"),
        &target,
        Strategy::Canary,
        &around
    )));
}

#[test]
fn b2_canary_needs_the_edition_and_the_floor() {
    let target = release("1.13.4.1");
    let standard = assess_step(
        "1.12.4.58",
        &target,
        Strategy::Canary,
        Edition::Standard,
        (1, 33),
    );
    assert_eq!(codes(&standard), [(ReasonCode::Edition, Severity::Block)]);
    let below = assess_step(
        "1.12.4.57",
        &target,
        Strategy::Canary,
        Edition::Ultimate,
        (1, 33),
    );
    assert_eq!(codes(&below), [(ReasonCode::CanaryFloor, Severity::Block)]);
    assert!(is_allowed(&assess_step(
        "1.12.4.57",
        &target,
        Strategy::InPlace,
        Edition::Standard,
        (1, 33)
    )));
}

#[test]
fn a3_withdrawn_blocks_and_deprecated_warns() {
    let withdrawn = Release {
        state: ReleaseState::Withdrawn,
        ..release("1.27.9.1")
    };
    assert!(!is_allowed(&assess_step(
        "1.26.1.1",
        &withdrawn,
        Strategy::Canary,
        Edition::Enterprise,
        (1, 33)
    )));
    let deprecated = Release {
        state: ReleaseState::Deprecated,
        ..release("1.27.9.1")
    };
    let reasons = assess_step(
        "1.26.1.1",
        &deprecated,
        Strategy::Canary,
        Edition::Enterprise,
        (1, 33),
    );
    assert_eq!(codes(&reasons), [(ReasonCode::Deprecated, Severity::Warn)]);
}

#[test]
fn a4_a_long_way_is_planned_in_the_fewest_hops() {
    let catalogue: Vec<Release> = ["1.25.1.1", "1.26.1.1", "1.27.9.1", "1.28.0.1", "1.29.2.1"]
        .map(release)
        .into();
    let policy = policy();
    let around = UpgradeContext {
        policy: &policy,
        edition: Edition::Enterprise,
        members: &[],
        today: date(2026, 11, 22),
    };
    let way = find_upgrade_path(
        &version("1.25.1.1"),
        &version("1.29.2.1"),
        &catalogue,
        &around,
    )
    .expect("a way");
    let stops: Vec<String> = way
        .iter()
        .map(|(release, _)| release.version.to_string())
        .collect();
    assert_eq!(stops, ["1.27.9.1", "1.29.2.1"]);
    assert!(
        find_upgrade_path(
            &version("1.25.1.1"),
            &version("1.30.0.1"),
            &catalogue,
            &around
        )
        .is_none()
    );
}

proptest! {
    #[test]
    fn whatever_is_allowed_is_newer_and_within_reach(a in (0u32..3, 0u32..6, 0u32..3, 0u32..3), b in (0u32..3, 0u32..6, 0u32..3, 0u32..3), canary: bool) {
        let text = |(w, x, y, z): (u32, u32, u32, u32)| format!("{w}.{x}.{y}.{z}");
        let strategy = if canary { Strategy::Canary } else { Strategy::InPlace };
        let low = UpgradePolicy { canary_floor: version("0.0.0.0"), ..policy() };
        let around = UpgradeContext { policy: &low, edition: Edition::Ultimate, members: &[], today: date(2026, 11, 22) };
        if is_allowed(&assess_upgrade(&version(&text(a)), &release(&text(b)), strategy, &around)) {
            prop_assert!(b > a);
            prop_assert_eq!(a.0, b.0);
            let reach = if canary { 2 } else { 1 };
            prop_assert!(b.1 - a.1 <= reach);
        }
    }
}
