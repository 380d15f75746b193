//! The main job on a newcomer's own clusters: nothing is built for a lab, and nothing is put into them but the mesh.

use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use serde_json::json;

use super::{NEW, OLD, Parts, Tour, ask, plan};
use crate::server::Server;
use crate::{Result, output};

#[derive(Debug, Args)]
pub(crate) struct Own {
    /// The cluster that control planes run in; it must give addresses to Services of type `LoadBalancer`.
    #[arg(long)]
    hosting_kubeconfig: PathBuf,
    /// A cluster for the mesh, by an administrator's kubeconfig; the first is its config cluster. Repeatable.
    #[arg(long = "kubeconfig", required = true)]
    kubeconfigs: Vec<PathBuf>,
    /// Where Istio's images are pulled from.
    #[arg(long, default_value = "docker.io/istio")]
    hub: String,
    /// A private network that the clusters are in, as address/bits. Repeatable.
    #[arg(long)]
    allow_network: Vec<String>,
    /// The helm program.
    #[arg(long, default_value = "helm")]
    helm: PathBuf,
    #[command(flatten)]
    tour: Tour,
}

/// The charts of a version, out of Istio's own module.
fn charts(version: &str) -> Result<String> {
    output(Command::new("tests/lab/lab").args(["charts", version])).map(|path| path.trim().to_owned())
}

pub(crate) fn run(options: &Own) -> Result<()> {
    let (mut parts, tour) = (Parts::new(), &options.tour);
    let releases =
        parts.run("fetch Istio's charts", || Ok([(OLD.0, charts("1.25.1")?), (NEW.0, charts("1.27.9")?)]))?;
    let server = parts.run("start Meshwright", || {
        let mut run = Command::new("target/debug/meshwright-server");
        run.args(["dev", "--listen", &tour.listen, "--hub", &options.hub, "--dir"]).arg(tour.dir.join("server"));
        run.arg("--hosting-kubeconfig").arg(&options.hosting_kubeconfig).arg("--helm").arg(&options.helm);
        run.args(options.allow_network.iter().flat_map(|network| ["--allow-network", network]));
        run.args(releases.iter().flat_map(|(version, charts)| ["--release".into(), format!("{version}={charts}")]));
        Server::spawn(run, &tour.dir, &tour.listen)
    })?;
    let names: Vec<String> = (1..=options.kubeconfigs.len()).map(|number| format!("c{number}")).collect();
    parts.run("register your clusters", || {
        names.iter().zip(&options.kubeconfigs).try_for_each(|(name, file)| {
            let file = file.display().to_string();
            server.watch(&["cluster", "register", name, "--kubeconfig", &file, "--wait"]).map(drop)
        })
    })?;
    parts.run("create a mesh on 1.25.1", || {
        let members = names.iter().flat_map(|name| ["--cluster", name.as_str()]);
        let words: Vec<&str> =
            ["mesh", "create", "demo", "--version", OLD.0, "--wait"].into_iter().chain(members).collect();
        server.watch(&words)
    })?;
    let upgrade = parts.run("canary: bring 1.27.9 up beside 1.25.1", || plan(&server, NEW.0, "canary", "0"))?;
    parts.run("promote, roll every sidecar, retire 1.25.1", || ask(&server, "promote", &upgrade, "succeeded"))?;
    println!("\n{}", server.cli(&["mesh", "workloads", "demo"])?);
    tour.report(&json!({ "parts": parts.json() }))?;
    println!("The mesh stays in your clusters. To take it down: meshwright mesh delete demo --wait");
    if tour.exit_when_done { Ok(()) } else { super::stay(&server) }
}
