//! Runs the quickstart on the user's own clusters: no lab is built, and only the mesh is put into
//! the clusters.

use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use serde_json::json;

use super::{NEW_RELEASE, OLD_RELEASE, PartTimings, TourOptions, apply_verb, plan_upgrade};
use crate::server::DevServer;
use crate::{Result, run_command};

#[derive(Debug, Args)]
pub(crate) struct OwnClustersOptions {
    /// Kubeconfig of the cluster that control planes run in; it must give addresses to Services of
    /// type `LoadBalancer`.
    #[arg(long)]
    hosting_kubeconfig: PathBuf,
    /// Administrator's kubeconfig of a cluster for the mesh; the first is its config cluster;
    /// repeatable.
    #[arg(long = "kubeconfig", required = true)]
    kubeconfigs: Vec<PathBuf>,
    /// Registry that Istio's images are pulled from.
    #[arg(long, default_value = "docker.io/istio")]
    hub: String,
    /// Private network that the clusters are in, as address/bits; repeatable.
    #[arg(long)]
    allow_network: Vec<String>,
    /// Path or name of the helm program.
    #[arg(long, default_value = "helm")]
    helm: PathBuf,
    #[command(flatten)]
    tour: TourOptions,
}

/// Returns the folder with the charts of a version, which come from Istio's own Go module.
fn fetch_charts(version: &str) -> Result<String> {
    run_command(Command::new("tests/lab/lab").args(["charts", version]))
        .map(|path| path.trim().to_owned())
}

/// Starts a server that uses the user's clusters, with these releases in its catalogue.
fn start_server(options: &OwnClustersOptions, releases: &[(&str, String)]) -> Result<DevServer> {
    let tour = &options.tour;
    let mut run = Command::new("target/debug/meshwright-server");
    run.args([
        "dev",
        "--listen",
        &tour.listen,
        "--hub",
        &options.hub,
        "--dir",
    ])
    .arg(tour.dir.join("server"));
    run.arg("--hosting-kubeconfig")
        .arg(&options.hosting_kubeconfig)
        .arg("--helm")
        .arg(&options.helm);
    run.args(
        options
            .allow_network
            .iter()
            .flat_map(|network| ["--allow-network", network]),
    );
    run.args(
        releases
            .iter()
            .flat_map(|(version, charts)| ["--release".into(), format!("{version}={charts}")]),
    );
    DevServer::spawn_and_wait(run, &tour.dir, &tour.listen)
}

/// Registers each cluster under its name.
fn register_clusters(server: &DevServer, names: &[String], kubeconfigs: &[PathBuf]) -> Result<()> {
    names.iter().zip(kubeconfigs).try_for_each(|(name, file)| {
        let file = file.display().to_string();
        server
            .run_with_progress(&["cluster", "register", name, "--kubeconfig", &file, "--wait"])
            .map(drop)
    })
}

pub(crate) fn run(options: &OwnClustersOptions) -> Result<()> {
    let (mut parts, tour) = (PartTimings::new(), &options.tour);
    let releases = parts.run_part("fetch Istio's charts", || {
        Ok([
            (OLD_RELEASE.0, fetch_charts("1.25.1")?),
            (NEW_RELEASE.0, fetch_charts("1.27.9")?),
        ])
    })?;
    let server = parts.run_part("start Meshwright", || start_server(options, &releases))?;
    let names: Vec<String> = (1..=options.kubeconfigs.len())
        .map(|number| format!("c{number}"))
        .collect();
    parts.run_part("register your clusters", || {
        register_clusters(&server, &names, &options.kubeconfigs)
    })?;
    parts.run_part("create a mesh on 1.25.1", || {
        let members = names.iter().flat_map(|name| ["--cluster", name.as_str()]);
        let words: Vec<&str> = [
            "mesh",
            "create",
            "demo",
            "--version",
            OLD_RELEASE.0,
            "--wait",
        ]
        .into_iter()
        .chain(members)
        .collect();
        server.run_with_progress(&words)
    })?;
    let upgrade = parts.run_part("canary: bring 1.27.9 up beside 1.25.1", || {
        plan_upgrade(&server, NEW_RELEASE.0, "canary", "0")
    })?;
    parts.run_part("promote, roll every sidecar, retire 1.25.1", || {
        apply_verb(&server, "promote", &upgrade, "succeeded")
    })?;
    println!("\n{}", server.run_cli(&["mesh", "workloads", "demo"])?);
    tour.write_report(&json!({ "parts": parts.to_json() }))?;
    println!(
        "The mesh stays in your clusters. To take it down: meshwright mesh delete demo --wait"
    );
    if tour.exit_when_done {
        Ok(())
    } else {
        super::wait_for_enter(&server)
    }
}
