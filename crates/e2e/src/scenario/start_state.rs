//! Brings the mesh of the scenarios to the state that a scenario begins with.
//!
//! When every scenario before it passed, nothing is to do. A scenario that failed may leave an open
//! upgrade, a changed policy or a dead credential behind; and a run of chosen scenarios may have
//! left out those that take the mesh forward.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::leaving::{DEAD_CLUSTER, FORCE_REASON, delete_workloads};
use super::releases::RELEASES;
use super::{LabRelease, apply_verb, plan_upgrade, text_field};
use crate::Result;
use crate::assertions::{MEMBER_CLUSTERS, assert_sidecars};
use crate::lab::{Lab, wait_until};
use crate::server::{CliClient, DevServer};
use crate::worker::PausableLabWorker;

/// Time within which an open upgrade ends or the pods of a mesh settle.
const RESTORE_TIMEOUT: Duration = Duration::from_mins(4);
/// Time within which a member that answers again is shown as ready.
const OBSERVATION_TIMEOUT: Duration = Duration::from_secs(20);
/// Verbs that bring an open upgrade closer to its end, the best one first.
const ENDING_VERBS: [&str; 4] = ["cancel", "rollback", "retry", "resume"];
/// Objects of scenarios in the members, which delete them when they pass: kind, name, namespace.
const SCENARIO_OBJECTS: [[&str; 3]; 5] = [
    ["pod", "legacy", "billing"],
    ["clusterrolebinding", "pipeline", ""],
    ["namespace", "pipeline", ""],
    ["validatingadmissionpolicybinding", "refuse-one-object", ""],
    ["validatingadmissionpolicy", "refuse-one-object", ""],
];

/// A lab with a mesh `demo`, the server and its worker.
pub(super) struct SuiteLab {
    // Field order matters: the worker and the server are stopped before the lab is taken down.
    pub(super) worker: PausableLabWorker,
    pub(super) server: DevServer,
    pub(super) lab: Lab,
    /// Folder for all files of the run.
    pub(super) dir: PathBuf,
}

/// State that a scenario begins with.
#[derive(Debug, Clone, Copy)]
pub(super) enum StartState {
    /// The mesh runs this release.
    Release(LabRelease),
    /// The mesh runs, with any release.
    Mesh,
    /// There is no mesh, and both members are registered.
    NoMesh,
    /// There is no mesh, and only the first member is registered.
    OneCluster,
    /// The scenario reads records of the whole run.
    Any,
}

impl StartState {
    /// Brings the lab to this state, if it is in another one.
    pub(super) fn bring_about(self, on: &SuiteLab) -> Result<()> {
        match self {
            Self::Release(release) => advance_mesh(on, release),
            Self::Mesh => current_release(&on.server)?
                .map(drop)
                .context("there is no mesh any more"),
            Self::NoMesh => delete_meshes(on),
            Self::OneCluster => {
                delete_meshes(on)?;
                let server = &on.server;
                if server.run_json(&["cluster", "get", DEAD_CLUSTER]).is_err() {
                    return Ok(());
                }
                println!("   deregistering {DEAD_CLUSTER}");
                server
                    .run_cli(&["cluster", "delete", DEAD_CLUSTER, "--wait"])
                    .map(drop)
            }
            Self::Any => Ok(()),
        }
    }
}

/// Undoes what a failed scenario may have left behind, and waits until every pod of the mesh runs
/// one release.
pub(super) fn restore_lab(on: &SuiteLab) -> Result<()> {
    let (lab, server) = (&on.lab, &on.server);
    on.worker.release();
    for cluster in ["hosting"].iter().chain(&MEMBER_CLUSTERS) {
        lab.signal_process(&format!("{cluster}/kube-apiserver"), "CONT")?;
        wait_until("the cluster answers", RESTORE_TIMEOUT, || {
            lab.list_objects(cluster, &["nodes"]).ok()
        })?;
        for [kind, name, namespace] in SCENARIO_OBJECTS {
            let delete = ["delete", kind, name, "--ignore-not-found"];
            let within = ["--namespace", namespace];
            let namespaced = usize::from(!namespace.is_empty()) * within.len();
            lab.run_kubectl(cluster, &[&delete[..], &within[..namespaced]].concat())?;
        }
    }
    renew_dead_credentials(on)?;
    if current_release(server)?.is_some() {
        end_open_upgrade(server, "demo")?;
    }
    server.set_in_place_minors(1)?;
    let Some((version, revision)) = current_release(server)? else {
        return Ok(());
    };
    // A scenario that needs no certain release can begin on any.
    let Ok(release) = find_release(&version, &revision) else {
        return Ok(());
    };
    let one_release = || assert_sidecars(lab, release.1, release.2);
    let settled = wait_until("every pod runs one release", RESTORE_TIMEOUT, || {
        one_release().ok()
    });
    settled.or_else(|error| one_release().with_context(|| error.to_string()))?;
    Ok(())
}

/// Gives each member whose credential is dead a new one.
fn renew_dead_credentials(on: &SuiteLab) -> Result<()> {
    for member in MEMBER_CLUSTERS {
        let state = || {
            let known = on.server.run_json(&["cluster", "get", member]).ok()?;
            known["state"].as_str().map(str::to_owned)
        };
        // A member that was silent is shown as ready when the next observation has reached it.
        let ready = || state().is_none_or(|state| state == "ready").then_some(());
        if wait_until("the member is ready", OBSERVATION_TIMEOUT, ready).is_ok() {
            continue;
        }
        println!("   renewing the credential of {member}, which is not ready");
        let file = on.lab.kubeconfig_path(member)?.display().to_string();
        let renew = ["cluster", "renew", member, "--kubeconfig", &file, "--wait"];
        on.server.run_cli(&renew)?;
    }
    Ok(())
}

/// Cancels or rolls back the newest upgrade of a mesh if it has not ended; an upgrade that cannot go
/// back is taken to its end.
pub(crate) fn end_open_upgrade(server: &CliClient, mesh: &str) -> Result<()> {
    let newest = server.run_json(&["upgrade", "list", mesh])?["items"][0].clone();
    if newest.is_null() || newest["done"] == true {
        return Ok(());
    }
    let id = text_field(&newest, "id")?;
    let start = Instant::now();
    let mut answered = String::new();
    loop {
        let now = server.run_json(&["upgrade", "get", &id])?;
        if now["done"] == true {
            return Ok(());
        }
        let state = text_field(&now, "state")?;
        if start.elapsed() > RESTORE_TIMEOUT {
            bail!("{id} is still {state}: {}", now["problem"]);
        }
        if state != answered {
            let allowed = now["allowed_verbs"].as_array().cloned().unwrap_or_default();
            let verb = ENDING_VERBS
                .into_iter()
                .find(|verb| allowed.iter().any(|allowed| allowed == verb));
            if let Some(verb) = verb {
                println!("   {id} is {state}: {verb}");
                server.run_cli(&["upgrade", verb, &id])?;
            }
            answered = state;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Returns the version and the revision of the mesh, or `None` if there is no mesh.
fn current_release(server: &CliClient) -> Result<Option<(String, String)>> {
    let meshes = server.run_json(&["mesh", "list"])?;
    let Some(mesh) = find_mesh(&meshes, "demo") else {
        return Ok(None);
    };
    let current = &mesh["current"];
    Ok(Some((
        text_field(current, "version")?,
        text_field(current, "name")?,
    )))
}

fn find_mesh<'v>(meshes: &'v Value, name: &str) -> Option<&'v Value> {
    meshes["items"]
        .as_array()?
        .iter()
        .find(|mesh| mesh["name"] == name && mesh["deleted_at"].is_null())
}

fn find_release(version: &str, revision: &str) -> Result<LabRelease> {
    RELEASES
        .into_iter()
        .find(|release| (release.0, release.1) == (version, revision))
        .with_context(|| {
            format!("the mesh runs {version} in revision {revision}, where no scenario begins")
        })
}

/// Takes the mesh forward to a release, by the way that the scenarios take it.
fn advance_mesh(on: &SuiteLab, wanted: LabRelease) -> Result<()> {
    let place = |release: LabRelease| RELEASES.iter().position(|known| *known == release);
    let (version, revision) = current_release(&on.server)?.context("there is no mesh any more")?;
    let current = find_release(&version, &revision)?;
    if place(current) > place(wanted) {
        bail!(
            "the mesh runs {version} in revision {revision} already, and an upgrade never goes down to {}",
            wanted.0
        );
    }
    let way = RELEASES
        .windows(2)
        .filter(|step| place(step[0]) >= place(current) && place(step[1]) <= place(wanted));
    for step in way {
        let [from, release] = [step[0], step[1]];
        println!("   taking the mesh to {}", release.0);
        if release.1 == from.1 {
            plan_upgrade(&on.server, release.0, "in_place", "0")?;
        } else {
            let upgrade = plan_upgrade(&on.server, release.0, "canary", "0")?;
            apply_verb(&on.server, "promote", &upgrade, "succeeded")?;
        }
    }
    Ok(())
}

/// Deletes the meshes of the scenarios, and the workloads that use them.
fn delete_meshes(on: &SuiteLab) -> Result<()> {
    let meshes = on.server.run_json(&["mesh", "list"])?;
    for name in ["demo", "second"] {
        if let Some(mesh) = find_mesh(&meshes, name) {
            println!("   deleting the mesh {name}");
            delete_workloads(&on.lab, &text_field(mesh, "namespace")?)?;
            let force = ["--force", "--reason", FORCE_REASON, "--wait"];
            let delete = [&["mesh", "delete", name][..], &force[..]].concat();
            on.server.run_cli(&delete)?;
        }
    }
    Ok(())
}
