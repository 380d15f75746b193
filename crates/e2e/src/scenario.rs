//! Runs an upgrade from 1.25.1 to 1.27.9 on the lab, as `deploy/quickstart` shows it, and holds the
//! scenarios that `tests/run` checks.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::assertions::{
    MEMBER_CLUSTERS, assert_revision_gone, assert_sidecars, deploy_samples, restarts_per_workload,
};
use crate::lab::Lab;
use crate::server::DevServer;
use crate::{Result, availability_judge};

pub(crate) mod access;
pub(crate) mod credentials;
mod fixture;
pub(crate) mod hosting;
pub(crate) mod identity;
pub(crate) mod in_place;
pub(crate) mod least_privilege;
pub(crate) mod leaving;
pub(crate) mod own_clusters;
pub(crate) mod refused;
pub(crate) mod registry;
mod releases;
mod retirement;
pub(crate) mod rollback;
pub(crate) mod sidecars;
pub(crate) mod start_state;
pub(crate) mod suite;
pub(crate) mod twice;
mod waves;
pub(crate) mod zoo;

/// A version, its revision and its proxy image.
pub(crate) type LabRelease = (&'static str, &'static str, &'static str);
pub(crate) const OLD_RELEASE: LabRelease = ("1.25.1.1", "1-25-1", "lab/proxyv2:1.25.1");
pub(crate) const NEW_RELEASE: LabRelease = ("1.27.9.1", "1-27-9", "lab/proxyv2:1.27.9");
/// Catalogue of the lab: each version with the charts that it is installed from.
pub(crate) const CATALOGUE: [(&str, &str); 2] = [("1.25.1.1", "1.25.1"), ("1.27.9.1", "1.27.9")];

/// Returns the namespace of the mesh in the hosting cluster.
fn mesh_namespace(server: &DevServer) -> Result<String> {
    text_field(&server.run_json(&["mesh", "get", "demo"])?, "namespace")
}

/// Options of the quickstart.
#[derive(Debug, Args)]
pub(crate) struct TourOptions {
    /// Exit when the upgrade is done instead of keeping everything up.
    #[arg(long)]
    exit_when_done: bool,
    /// File to write the report to: seconds of each part, and the results of the checks of the end
    /// state.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Address and port that the API listens on.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: String,
    /// Folder for the state of the server.
    #[arg(long)]
    dir: PathBuf,
}

impl TourOptions {
    fn write_report(&self, report: &Value) -> Result<()> {
        let Some(file) = &self.report else {
            return Ok(());
        };
        std::fs::write(file, format!("{report:#}\n")).with_context(|| file.display().to_string())
    }
}

/// Titles and seconds of the parts of a run, in order.
pub(crate) struct PartTimings(Vec<(String, f64)>);

impl PartTimings {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Runs one part, prints its title and its time, and adds the title to its error.
    pub(crate) fn run_part<T>(
        &mut self,
        title: &str,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        println!("\n== {title}");
        let start = Instant::now();
        let done = work().with_context(|| title.to_owned())?;
        let seconds = start.elapsed().as_secs_f64();
        println!("   {seconds:.0} s");
        self.0.push((title.into(), seconds));
        Ok(done)
    }

    fn to_json(&self) -> Vec<Value> {
        self.0
            .iter()
            .map(|(title, seconds)| json!({ "part": title, "seconds": seconds }))
            .collect()
    }
}

pub(crate) fn text_field(value: &Value, key: &str) -> Result<String> {
    value[key]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("the answer has no {key}"))
}

/// Registers both members and creates a mesh on the old version with sample workloads in it.
pub(crate) fn bring_up_mesh(lab: &Lab, server: &DevServer, parts: &mut PartTimings) -> Result<()> {
    parts.run_part("register two clusters", || {
        MEMBER_CLUSTERS.iter().try_for_each(|member| {
            let kubeconfig = lab.kubeconfig_path(member)?.display().to_string();
            server
                .run_with_progress(&[
                    "cluster",
                    "register",
                    member,
                    "--kubeconfig",
                    &kubeconfig,
                    "--wait",
                ])
                .map(|_| ())
        })
    })?;
    parts.run_part("create a mesh on 1.25.1", || {
        server.run_with_progress(&[
            "mesh",
            "create",
            "demo",
            "--version",
            OLD_RELEASE.0,
            "--cluster",
            "c1",
            "--cluster",
            "c2",
            "--wait",
        ])
    })?;
    parts.run_part("start sample workloads", || deploy_samples(lab))
}

/// Plans and starts an upgrade, waits until it needs a person or has ended, and returns its id.
pub(crate) fn plan_upgrade(
    server: &DevServer,
    version: &str,
    strategy: &str,
    hold: &str,
) -> Result<String> {
    let arguments = [
        "upgrade",
        "plan",
        "demo",
        "--version",
        version,
        "--strategy",
        strategy,
        "--hold-seconds",
        hold,
        "--start",
        "--wait",
    ];
    text_field(&server.run_with_progress(&arguments)?, "id")
}

/// Applies a verb to an upgrade, and checks the state that this leads to.
pub(crate) fn apply_verb(
    server: &DevServer,
    verb: &str,
    upgrade: &str,
    wanted: &str,
) -> Result<()> {
    let state = text_field(
        &server.run_with_progress(&["upgrade", verb, upgrade, "--wait"])?,
        "state",
    )?;
    if state == wanted {
        Ok(())
    } else {
        Err(anyhow!("{verb} led to {state}, not to {wanted}"))
    }
}

pub(crate) fn run_quickstart(options: &TourOptions) -> Result<()> {
    let mut parts = PartTimings::new();
    // In the first run, the new version is still being built while the mesh is created on the old
    // one.
    let newest = Lab::start_build(&["istio-1.27.9"])?;
    let mut lab = parts.run_part("start a hosting cluster and two user clusters", || {
        Lab::start_without("quickstart", 2, &["istio-1.27.9"])
    })?;
    let server = parts.run_part("start Meshwright", || {
        DevServer::start(
            &lab,
            &options.dir,
            &options.listen,
            &CATALOGUE[..1],
            &["--max-concurrent-restarts", "10"],
        )
    })?;
    let mut own = Instant::now();
    bring_up_mesh(&lab, &server, &mut parts)?;
    let came_up = own.elapsed();
    parts.run_part("add 1.27.9 to the catalogue", || {
        newest.wait_for_build()?;
        // The second build is there for people who stay and try another upgrade.
        let charts = lab.charts_path(CATALOGUE[1].1)?;
        [NEW_RELEASE.0, "1.27.9.2"]
            .iter()
            .try_for_each(|build| server.import_release(build, &charts, &[]))
    })?;
    own = Instant::now();
    let recording = options.dir.join("recording.jsonl");
    let recorder = lab.start_recording(&recording)?;
    let upgrade = parts.run_part("canary: bring 1.27.9 up beside 1.25.1", || {
        plan_upgrade(&server, NEW_RELEASE.0, "canary", "0")
    })?;
    parts.run_part("promote, roll every sidecar, retire 1.25.1", || {
        apply_verb(&server, "promote", &upgrade, "succeeded")
    })?;
    let meshwright_seconds = (came_up + own.elapsed()).as_secs_f64();
    // Give the recorder time for the last events.
    std::thread::sleep(Duration::from_secs(1));
    drop(recorder);
    let assertions = parts.run_part("look at what came of it", || {
        assert_end_state(&lab, &server, &recording)
    })?;
    println!("\n{}", server.run_cli(&["mesh", "workloads", "demo"])?);
    println!("{}", server.run_cli(&["mesh", "proxies", "demo"])?);
    options.write_report(
        &json!({ "parts": parts.to_json(), "meshwright_seconds": meshwright_seconds, "assertions": assertions }),
    )?;
    println!("1.25.1 → 1.27.9 in {meshwright_seconds:.0} s of Meshwright's own work: {assertions}");
    if options.exit_when_done {
        return Ok(());
    }
    lab.keep_running();
    wait_for_enter(&server)?;
    drop(server);
    crate::run_command(std::process::Command::new("tests/lab/lab").args([
        "down",
        "--name",
        "quickstart",
    ]))
    .map(|_| ())
}

/// Keeps everything up until the user presses Enter.
fn wait_for_enter(server: &DevServer) -> Result<()> {
    println!(
        "\nMeshwright stays up at {}. Look around, from another terminal:",
        server.address
    );
    println!(
        "  target/debug/meshwright login --server {} --key-file {}",
        server.address,
        server.key_file().display()
    );
    println!("  target/debug/meshwright mesh options demo");
    println!("Press Enter, or Ctrl-C, to end everything.");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(())
}

/// Checks the end state: every live pod is on the new revision, no workload was ever without a
/// sidecar, each was restarted once, and the old revision is gone.
fn assert_end_state(lab: &Lab, server: &DevServer, recording: &Path) -> Result<Value> {
    let pods = assert_sidecars(lab, NEW_RELEASE.1, NEW_RELEASE.2)?;
    let proxies = sidecars::wait_for_envoys(server, NEW_RELEASE)?;
    assert_revision_gone(lab, OLD_RELEASE.1)?;
    let stamps = restarts_per_workload(lab)?;
    if let Some((workload, count)) = stamps.iter().find(|(_, count)| **count > 1) {
        bail!("{workload} was restarted {count} times");
    }
    if let Some(workload) = stamps
        .keys()
        .find(|workload| workload.contains("/unmeshed/"))
    {
        bail!("{workload} was restarted without a need");
    }
    let judge = availability_judge::judge_recording(recording)?;
    if !judge.breaches.is_empty() {
        return Err(anyhow!(judge.breaches.join("\n")));
    }
    Ok(
        json!({ "pods_on_the_new_revision": pods, "workloads_restarted_once": stamps.len(), "connected_envoys_in_sync": proxies, "events_without_a_breach": judge.events }),
    )
}
