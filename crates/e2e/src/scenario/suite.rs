//! Runs the scenarios of `tests/run` on one lab, besides the quickstart.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::{
    LabRelease, OLD_RELEASE, PartTimings, access, bring_up_mesh, credentials, hosting, identity,
    in_place, least_privilege, leaving, mesh_namespace, refused, registry, rollback, sidecars,
    twice,
};
use crate::Result;
use crate::end_state::MEMBER_CLUSTERS;
use crate::lab::{Lab, wait_until};
use crate::server::DevServer;
use crate::worker::PausableLabWorker;

/// Patch before the newest one. It runs the newest one's istiod, which learns its version from its
/// image only.
const PATCH_RELEASE: LabRelease = ("1.27.8.1", "1-27-8", "lab/proxyv2:1.27.8");
/// Newest patch in the same revision, because an upgrade in place keeps the revision's name.
const PATCHED_IN_PLACE: LabRelease = ("1.27.9.1", "1-27-8", "lab/proxyv2:1.27.9");
/// Another build of the newest patch with an equal proxy image.
const REBUILT_RELEASE: LabRelease = ("1.27.9.2", "1-27-8", "lab/proxyv2:1.27.9");
/// Another build of the newest patch with another proxy image.
const NEW_IMAGE_RELEASE: LabRelease = ("1.27.9.3", "1-27-8", "lab/proxyv2:1.27.9-fips");
const CATALOGUE: [(&str, &str); 5] = [
    ("1.25.1.1", "1.25.1"),
    ("1.27.8.1", "1.27.9"),
    ("1.27.9.1", "1.27.9"),
    ("1.27.9.2", "1.27.9"),
    ("1.27.9.3@1.27.9-fips", "1.27.9"),
];

#[derive(Debug, Args)]
pub(crate) struct SuiteOptions {
    /// Folder for all files that the run writes.
    #[arg(long)]
    dir: PathBuf,
    /// Address and port that the API listens on.
    #[arg(long, default_value = "127.0.0.1:18089")]
    listen: String,
    /// Run only the scenarios whose title contains this text; repeatable.
    #[arg(long)]
    only: Vec<String>,
}

/// A scenario: its title and its function.
type NamedScenario<'a> = (String, Box<dyn Fn() -> Result<()> + 'a>);

pub(crate) fn run_suite(options: &SuiteOptions) -> Result<()> {
    let mut parts = PartTimings::new();
    let lab = parts.run_part("start a lab", || Lab::start("scenario", 2))?;
    let (server, worker) = parts.run_part("start Meshwright", || {
        PausableLabWorker::start_with_server(&lab, &options.dir, &options.listen, &CATALOGUE, &[])
    })?;
    bring_up_mesh(&lab, &server, &mut parts)?;
    let mut passed = 0;
    for (title, scenario) in list_scenarios(&lab, &server, &worker, &options.dir) {
        if !options.only.is_empty()
            && !options
                .only
                .iter()
                .any(|only| title.contains(only.as_str()))
        {
            continue;
        }
        parts.run_part(&title, scenario)?;
        passed += 1;
        println!("scenario passed: {title}");
    }
    println!("\n{passed} scenarios passed");
    Ok(())
}

/// Returns all scenarios in their order: the mesh stays on the old version until it leaves it for
/// good, and then moves in place.
fn list_scenarios<'a>(
    lab: &'a Lab,
    server: &'a DevServer,
    worker: &'a PausableLabWorker,
    dir: &'a Path,
) -> Vec<NamedScenario<'a>> {
    let mut all = pre_upgrade_scenarios(lab, server, dir);
    all.extend(rollback_scenarios(lab, server, worker, dir));
    all.extend(one_way_scenarios(lab, server, dir));
    all
}

/// Scenarios in which the mesh stays on the old version while its parts are inspected, killed and
/// renewed.
fn pre_upgrade_scenarios<'a>(
    lab: &'a Lab,
    server: &'a DevServer,
    dir: &'a Path,
) -> Vec<NamedScenario<'a>> {
    vec![
        ("istioctl agrees with our tags".into(), Box::new(move || check_istioctl_tags(lab, server))),
        (
            "a hosted control plane puts nothing cluster-wide into the hosting cluster".into(),
            Box::new(move || check_nothing_cluster_wide(lab)),
        ),
        (
            "the mesh's namespace in the hosting cluster is restricted, counted and closed".into(),
            Box::new(move || hosting::check_namespace_limits(lab, server)),
        ),
        (
            "a canary begins with the switches that its mesh has".into(),
            Box::new(move || hosting::check_canary_keeps_env(lab, server)),
        ),
        (
            "in place across two minors a mesh keeps its switches, and on the way back".into(),
            Box::new(move || hosting::check_in_place_keeps_env(lab, server)),
        ),
        (
            "keys, labels, tenants and the audit log by the command line".into(),
            Box::new(move || access::check_command_line(server, dir)),
        ),
        (
            "a cluster's own accounts log in with its tokens, as far as they were granted it".into(),
            Box::new(move || identity::check_account_login(lab, server, dir)),
        ),
        (
            "a cluster is registered once, whichever tenant comes second".into(),
            Box::new(move || twice::check_second_registration(lab, server, dir)),
        ),
        (
            "a release comes from a registry, and is withdrawn".into(),
            Box::new(move || registry::check_registry_import(lab, server, dir)),
        ),
        ("a killed istiod is started again".into(), Box::new(move || check_istiod_restart(lab, server))),
        (
            "credentials are renewed without a restart, and the former ones are dead".into(),
            Box::new(move || credentials::check_renewal(lab, server)),
        ),
        (
            "a revoked credential is shown, left alone, and replaced".into(),
            Box::new(move || credentials::check_revocation(lab, server)),
        ),
        (
            "a member's new authority reaches the control planes, restarted only where they need it".into(),
            Box::new(move || credentials::check_new_authority(lab, server, dir)),
        ),
    ]
}

/// Scenarios in which the mesh leaves the old version and is rolled back to it.
fn rollback_scenarios<'a>(
    lab: &'a Lab,
    server: &'a DevServer,
    worker: &'a PausableLabWorker,
    dir: &'a Path,
) -> impl Iterator<Item = NamedScenario<'a>> {
    let from = move |stage| -> NamedScenario<'a> {
        let title = format!("rollback restores everything: {stage}");
        (
            title,
            Box::new(move || rollback::check_rollback_from(lab, server, worker, stage)),
        )
    };
    let refused: NamedScenario<'a> = (
        "rollback restores everything: one object refused by a policy".into(),
        Box::new(move || refused::check_rollback_after_refusal(lab, server, dir)),
    );
    rollback::ROLLBACK_STAGES
        .into_iter()
        .map(from)
        .chain([refused])
}

/// Scenarios in which the mesh leaves the old version for good, moves in place and is deleted.
fn one_way_scenarios<'a>(
    lab: &'a Lab,
    server: &'a DevServer,
    dir: &'a Path,
) -> Vec<NamedScenario<'a>> {
    vec![
        (
            "holding ends with one call, but not while an Envoy is left behind".into(),
            Box::new(move || sidecars::check_left_behind(lab, server, dir, PATCH_RELEASE)),
        ),
        (
            "in place across a patch: one restart each, and the old label still injects".into(),
            Box::new(move || {
                in_place::check_in_place_upgrade(lab, server, PATCHED_IN_PLACE, 1)?;
                in_place::check_injection_labels(lab, &["1-27-8", "1-27-9"], PATCHED_IN_PLACE.1)
            }),
        ),
        (
            "in place with an equal proxy image restarts nothing".into(),
            Box::new(move || in_place::check_in_place_upgrade(lab, server, REBUILT_RELEASE, 0)),
        ),
        (
            "in place with another proxy image restarts everything once".into(),
            Box::new(move || in_place::check_in_place_upgrade(lab, server, NEW_IMAGE_RELEASE, 1)),
        ),
        (
            "a deleted mesh leaves nothing behind".into(),
            Box::new(move || leaving::check_mesh_deletion(lab, server)),
        ),
        (
            "our account may do what it did, and nothing else".into(),
            Box::new(move || least_privilege::check_least_privilege(lab, server)),
        ),
        (
            "a dead member is left behind by force, and what stays in it is listed".into(),
            Box::new(move || leaving::check_forced_deletion(lab, server)),
        ),
        (
            "a deregistered cluster keeps nothing of ours".into(),
            Box::new(move || leaving::check_deregistration(lab, server)),
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
            return Err(format!(
                "{} {name} reaches over the whole hosting cluster",
                object["kind"]
            ));
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
                return Err(format!(
                    "istioctl does not see {tag} on {} in {member}:\n{said}",
                    OLD_RELEASE.1
                ));
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
        .ok_or("no istiod runs")?
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
