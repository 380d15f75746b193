//! Lists the scenarios of `tests/run` on one lab, besides the quickstart, and runs them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;

use super::fixture::SuiteFixture;
use super::releases::{
    CATALOGUE, NEW_IMAGE_RELEASE, PATCH_RELEASE, PATCHED_IN_PLACE, REBUILT_RELEASE,
};
use super::start_state::{StartState, SuiteLab};
use super::{
    OLD_RELEASE, access, credentials, hosting, identity, in_place, least_privilege, leaving,
    mesh_namespace, refused, registry, rollback, sidecars, twice, waves, zoo,
};
use crate::Result;
use crate::assertions::MEMBER_CLUSTERS;
use crate::lab::{Lab, wait_until};
use crate::named_tests::{NamedTest, TestSelection, run_named_tests};
use crate::server::DevServer;

#[derive(Debug, Args)]
pub(crate) struct SuiteOptions {
    #[command(flatten)]
    selection: TestSelection,
    /// Name of the lab, so that two runs with other scenarios can go on side by side.
    #[arg(long, default_value = "scenario")]
    lab: String,
    /// Folder for all files that the run writes.
    #[arg(long, default_value = "/tmp/meshwright-scenario")]
    dir: PathBuf,
    /// Address and port that the API listens on.
    #[arg(long, default_value = "127.0.0.1:18089")]
    listen: String,
}

pub(crate) fn run_suite(options: SuiteOptions) -> ExitCode {
    let (lab, dir, listen) = (options.lab, options.dir, options.listen);
    let prepare = move || SuiteFixture::prepare(&lab, &dir, &listen, &CATALOGUE, &[]);
    run_named_tests(&options.selection, prepare, list_scenarios())
}

/// A scenario: its title, the state that it begins with, and its check.
fn scenario(
    title: &'static str,
    start: StartState,
    check: impl FnOnce(&SuiteLab) -> Result<()> + Send + 'static,
) -> NamedTest<SuiteFixture> {
    NamedTest::new(title, move |fixture: &mut SuiteFixture| {
        fixture.run_scenario(title, start, check)
    })
}

/// Returns all scenarios in their order: the mesh stays on the old version until it leaves it for
/// good, and then moves in place.
fn list_scenarios() -> Vec<NamedTest<SuiteFixture>> {
    let mut all = pre_upgrade_scenarios();
    all.extend(rollback_scenarios());
    all.extend(zoo_scenarios());
    all.extend(one_way_scenarios());
    all
}

/// Scenarios in which the mesh stays on the old version while its parts are inspected, killed and
/// renewed.
fn pre_upgrade_scenarios() -> Vec<NamedTest<SuiteFixture>> {
    let scenario = |title, check: fn(&SuiteLab) -> Result<()>| {
        scenario(title, StartState::Release(OLD_RELEASE), check)
    };
    vec![
        scenario("istioctl agrees with our tags", |on| {
            check_istioctl_tags(&on.lab, &on.server)
        }),
        scenario(
            "a hosted control plane puts nothing cluster-wide into the hosting cluster",
            |on| check_nothing_cluster_wide(&on.lab),
        ),
        scenario(
            "the mesh's namespace in the hosting cluster is restricted, counted and closed",
            |on| hosting::check_namespace_limits(&on.lab, &on.server),
        ),
        scenario(
            "a canary begins with the switches that its mesh has",
            |on| hosting::check_canary_keeps_env(&on.lab, &on.server),
        ),
        scenario(
            "in place across two minors a mesh keeps its switches, and on the way back",
            |on| hosting::check_in_place_keeps_env(&on.lab, &on.server),
        ),
        scenario(
            "keys, labels, tenants and the audit log by the command line",
            |on| access::check_command_line(&on.server, &on.dir),
        ),
        scenario(
            "a cluster's own accounts log in with its tokens, as far as they were granted it",
            |on| identity::check_account_login(&on.lab, &on.server, &on.dir),
        ),
        scenario(
            "a cluster is registered once, whichever tenant comes second",
            |on| twice::check_second_registration(&on.lab, &on.server, &on.dir),
        ),
        scenario("a release comes from a registry, and is withdrawn", |on| {
            registry::check_registry_import(&on.lab, &on.server, &on.dir)
        }),
        scenario("a killed istiod is started again", |on| {
            check_istiod_restart(&on.lab, &on.server)
        }),
        scenario(
            "credentials are renewed without a restart, and the former ones are dead",
            |on| credentials::check_renewal(&on.lab, &on.server),
        ),
        scenario(
            "a revoked credential is shown, left alone, and replaced",
            |on| credentials::check_revocation(&on.lab, &on.server),
        ),
        scenario(
            "a member's new authority reaches the control planes, restarted only where they need it",
            |on| credentials::check_new_authority(&on.lab, &on.server, &on.dir),
        ),
    ]
}

/// Scenarios in which the mesh leaves the old version and is rolled back to it.
fn rollback_scenarios() -> impl Iterator<Item = NamedTest<SuiteFixture>> {
    let start = StartState::Release(OLD_RELEASE);
    let from = move |(title, stage)| {
        scenario(title, start, move |on| {
            rollback::check_rollback_from(&on.lab, &on.server, &on.worker, stage)
        })
    };
    let waves = scenario(
        "a roll-out in waves is paused, steered and finished, and rolled back",
        start,
        |on| waves::check_waves(&on.lab, &on.server, &on.worker),
    );
    let refused = scenario(
        "rollback restores everything: one object refused by a policy",
        start,
        |on| refused::check_rollback_after_refusal(&on.lab, &on.server, &on.dir),
    );
    rollback::ROLLBACK_STAGES
        .into_iter()
        .map(from)
        .chain([refused, waves])
}

/// Scenarios with workloads that a restart cannot move or must not touch.
fn zoo_scenarios() -> impl Iterator<Item = NamedTest<SuiteFixture>> {
    zoo::ALL_STARTS.into_iter().map(|from| {
        let run = zoo::ZooRun {
            start: from,
            seed: 1,
            kill: false,
        };
        scenario(from.title(), StartState::Release(OLD_RELEASE), move |on| {
            zoo::check_zoo(on, run)
        })
    })
}

/// Scenarios in which the mesh leaves the old version for good, moves in place and is deleted.
fn one_way_scenarios() -> Vec<NamedTest<SuiteFixture>> {
    vec![
        scenario(
            "holding ends with one call, but not while an Envoy is left behind",
            StartState::Release(OLD_RELEASE),
            |on| sidecars::check_left_behind(&on.lab, &on.server, &on.dir, PATCH_RELEASE),
        ),
        scenario(
            "in place across a patch: one restart each, and the old label still injects",
            StartState::Release(PATCH_RELEASE),
            |on| {
                in_place::check_in_place_upgrade(&on.lab, &on.server, PATCHED_IN_PLACE, 1)?;
                let labels = ["1-27-8", "1-27-9"];
                in_place::check_injection_labels(&on.lab, &labels, PATCHED_IN_PLACE.1)
            },
        ),
        scenario(
            "in place with an equal proxy image restarts nothing",
            StartState::Release(PATCHED_IN_PLACE),
            |on| in_place::check_in_place_upgrade(&on.lab, &on.server, REBUILT_RELEASE, 0),
        ),
        scenario(
            "in place with another proxy image restarts everything once",
            StartState::Release(REBUILT_RELEASE),
            |on| in_place::check_in_place_upgrade(&on.lab, &on.server, NEW_IMAGE_RELEASE, 1),
        ),
        scenario(
            "a deleted mesh leaves nothing behind",
            StartState::Mesh,
            |on| leaving::check_mesh_deletion(&on.lab, &on.server),
        ),
        scenario(
            "our account may do what it did, and nothing else",
            StartState::Any,
            |on| least_privilege::check_least_privilege(&on.lab, &on.server),
        ),
        scenario(
            "a dead member is left behind by force, and what stays in it is listed",
            StartState::NoMesh,
            |on| leaving::check_forced_deletion(&on.lab, &on.server),
        ),
        scenario(
            "a deregistered cluster keeps nothing of ours",
            StartState::OneCluster,
            |on| leaving::check_deregistration(&on.lab, &on.server),
        ),
    ]
}

/// Checks that a tenant's istiod has nothing cluster-wide in the hosting cluster, where it must not
/// reach beyond its namespace.
fn check_nothing_cluster_wide(lab: &Lab) -> Result<()> {
    let kinds = "clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations,customresourcedefinitions";
    for object in lab.list_objects("hosting", &[kinds])? {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if name.contains("istio") || name.contains("meshwright") || name.contains("demo") {
            bail!(
                "{} {name} reaches over the whole hosting cluster",
                object["kind"]
            );
        }
    }
    Ok(())
}

/// Checks that istioctl sees the revision tags of each member on the old revision.
fn check_istioctl_tags(lab: &Lab, server: &DevServer) -> Result<()> {
    let namespace = mesh_namespace(server)?;
    for member in MEMBER_CLUSTERS {
        let said = lab.run_istioctl(member, &["tag", "list", "-i", &namespace])?;
        for tag in ["stable", "default", "canary"] {
            let pointed = said
                .lines()
                .any(|line| line.split_whitespace().take(2).eq([tag, OLD_RELEASE.1]));
            if !pointed {
                bail!(
                    "istioctl does not see {tag} on {} in {member}:\n{said}",
                    OLD_RELEASE.1
                );
            }
        }
    }
    Ok(())
}

/// Kills an istiod, and waits until it has been restarted and is ready.
fn check_istiod_restart(lab: &Lab, server: &DevServer) -> Result<()> {
    let namespace = mesh_namespace(server)?;
    let pods = lab.list_objects("hosting", &["pods", "-n", &namespace])?;
    let name = pods
        .first()
        .and_then(|pod| pod["metadata"]["name"].as_str())
        .context("no istiod runs")?
        .to_owned();
    lab.signal_process(&format!("hosting/pod/{namespace}/{name}"), "KILL")?;
    wait_until(
        "the killed istiod is ready again",
        Duration::from_secs(90),
        || {
            let pods = lab
                .list_objects("hosting", &["pods", "-n", &namespace])
                .ok()?;
            let pod = pods
                .into_iter()
                .find(|pod| pod["metadata"]["name"] == name.as_str())?;
            let status = &pod["status"]["containerStatuses"][0];
            (status["restartCount"].as_i64() > Some(0) && status["ready"] == true).then_some(())
        },
    )
}
