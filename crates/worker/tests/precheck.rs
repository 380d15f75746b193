//! What an upgrade is stopped by before anything is touched, and what it leaves as it is.

use meshwright_model::ids::UpgradeId;
use meshwright_model::rules::Strategy;
use meshwright_model::switch::{Switch, initial_switches};
use meshwright_model::upgrade::{UpgradeState, Verb};
use meshwright_testkit::Fleet;

/// The codes of what stops an upgrade, each once.
async fn stopped_by(fleet: &Fleet, upgrade: UpgradeId) -> Vec<String> {
    let before = fleet.clusters.journal().len();
    let state = fleet.apply_verb_and_run(upgrade, Verb::Start).await.state;
    let UpgradeState::Blocked { findings } = state else {
        panic!("{state:?}")
    };
    assert_eq!(
        fleet.clusters.journal().len(),
        before,
        "nothing was touched"
    );
    let mut codes: Vec<String> = findings
        .into_iter()
        .map(|finding| finding.code.to_string())
        .collect();
    codes.dedup();
    codes
}

#[tokio::test]
async fn d13_a_policy_that_refuses_our_probe_is_found_before_anything_is_touched() {
    let fleet = Fleet::new().await;
    fleet.clusters.refuse_dry_runs("c2");
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 0).await;
    assert_eq!(
        stopped_by(&fleet, upgrade).await,
        ["probe_refused", "services_stay_local"]
    );
}

#[tokio::test]
async fn d8_proxies_that_would_be_two_minors_behind_their_istiod_stop_an_upgrade_in_place() {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::InPlace, 0).await;
    assert_eq!(
        stopped_by(&fleet, upgrade).await,
        ["proxy_too_old", "services_stay_local"]
    );
}

#[tokio::test]
async fn d10_a_note_alone_stops_no_upgrade() {
    let fleet = Fleet::new().await;
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 0).await;
    assert_eq!(
        fleet
            .apply_verb_and_run(upgrade, Verb::Start)
            .await
            .state
            .as_str(),
        "verifying"
    );
}

#[tokio::test]
async fn d11_a_target_begins_with_the_switches_of_its_mesh_and_keeps_them_when_it_is_current() {
    let fleet = Fleet::new().await;
    let mesh = async || {
        fleet
            .db
            .begin()
            .await
            .meshes()
            .get_mesh(fleet.mesh)
            .await
            .expect("a mesh")
    };
    let began_with = initial_switches(&Switch::defaults_of(
        &"1.25.1.1".parse().expect("a version"),
    ));
    assert_eq!(mesh().await.current.switches, began_with);
    let upgrade = fleet.plan_upgrade("1.27.9.1", Strategy::Canary, 0).await;
    assert_eq!(mesh().await.target.expect("a target").switches, began_with);
    fleet.apply_verb_and_run(upgrade, Verb::Start).await;
    fleet.apply_verb_and_run(upgrade, Verb::Promote).await;
    let after = mesh().await;
    assert_eq!(
        (after.current.version.to_string().as_str(), after.target),
        ("1.27.9.1", None)
    );
    assert_eq!(after.current.switches, began_with);
}
