//! Runs benchmarks that compare Meshwright with another way to do the same, side by side in one
//! run, and report the ratio.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::lab::{Lab, wait_until};
use crate::scenario::{PartTimings, text_field};
use crate::server::DevServer;
use crate::{Result, run_command};

pub(crate) mod api;
mod changes;
mod crowd;
mod engine;
mod latency;
mod neighbour;
mod rls_cost;
mod tenant_fairness;
mod timing_oracle;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Measure the roll-out of an upgrade against a loop of `kubectl rollout restart` and
    /// `rollout status` that restarts as many workloads at once.
    Rollout(RolloutOptions),
    /// Measure the cost of row-level security against queries that only filter by tenant, on a
    /// private Postgres; build with --release.
    Walls(rls_cost::RlsCostOptions),
    /// Measure how the requests and clusters of one tenant, and connections that never send a whole
    /// request, slow down other tenants.
    Fair(tenant_fairness::FairnessOptions),
    /// Measure GET and POST requests through the whole service against pgbench with the same
    /// transaction, and against `pgbench -S`.
    Api(api::ApiBenchOptions),
    /// Measure operations and steps that do no work in clusters against inserts of one row by
    /// pgbench; build with --release.
    Engine(engine::EngineOptions),
    /// Measure whether answer times reveal that an object of another tenant exists.
    Existence(timing_oracle::ExistenceOptions),
}

#[derive(Debug, Args)]
pub(crate) struct RolloutOptions {
    /// Number of runs of each side; the sides take turns, and each goes first every other time.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Number of workloads that are restarted.
    #[arg(long, default_value_t = 200)]
    workloads: usize,
    /// Number of workloads that are restarted at once, on both sides.
    #[arg(long, default_value_t = 10)]
    width: usize,
    /// Print the figures as one JSON object.
    #[arg(long)]
    json: bool,
    /// Folder for all files that the benchmark writes.
    #[arg(long, default_value = "/tmp/meshwright-bench")]
    dir: PathBuf,
    /// Address and port that the API listens on.
    #[arg(long, default_value = "127.0.0.1:18092")]
    listen: String,
}

/// Longest time that workloads may take to become ready, or an upgrade to end.
const ROLLOUT_TIMEOUT: Duration = Duration::from_mins(8);

/// Result of one run of one side.
#[derive(Debug, Clone, Copy)]
struct RolloutSample {
    seconds: f64,
    requests: usize,
}

pub(crate) fn run(bench: &BenchCommand) -> Result<()> {
    match bench {
        BenchCommand::Rollout(options) => measure_rollout(options),
        BenchCommand::Walls(options) => rls_cost::run(options),
        BenchCommand::Fair(options) => tenant_fairness::run(options),
        BenchCommand::Api(options) => api::run(options),
        BenchCommand::Engine(options) => engine::run(options),
        BenchCommand::Existence(options) => timing_oracle::run(options),
    }
}

fn measure_rollout(options: &RolloutOptions) -> Result<()> {
    let names: Vec<String> = (1..=options.pairs + 1)
        .map(|build| format!("1.27.9.{build}@1.27.9-b{build}"))
        .collect();
    let catalogue: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1.27.9")).collect();
    let width = options.width.to_string();
    // Observations of the mesh are no part of a roll-out, so they are made too rare to disturb
    // either side.
    let settings = [
        "--max-concurrent-restarts",
        &width,
        "--observe-seconds",
        "3600",
        "--step-seconds",
        "600",
    ];
    let mut parts = PartTimings::new();
    let lab = parts.run_part("start a lab", || Lab::start("bench", 1))?;
    let server = parts.run_part("start Meshwright", || {
        DevServer::start(&lab, &options.dir, &options.listen, &catalogue, &settings)
    })?;
    parts.run_part("bring a mesh and its workloads up", || {
        deploy_workloads(&lab, &server, options)
    })?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for pair in 0..options.pairs {
        let mut upgrade = || measure_upgrade(&lab, &server, pair + 2).map(|run| ours.push(run));
        let mut kubectl = || measure_kubectl(&lab, options).map(|run| theirs.push(run));
        if pair % 2 == 0 {
            upgrade()?;
            kubectl()?;
        } else {
            kubectl()?;
            upgrade()?;
        }
        println!(
            "pair {}: ours {:?}, kubectl {:?}",
            pair + 1,
            ours[pair],
            theirs[pair]
        );
    }
    print_figures(options, &ours, &theirs);
    Ok(())
}

fn deploy_workloads(lab: &Lab, server: &DevServer, options: &RolloutOptions) -> Result<()> {
    let kubeconfig = lab.kubeconfig_path("c1")?.display().to_string();
    server.run_cli(&[
        "cluster",
        "register",
        "c1",
        "--kubeconfig",
        &kubeconfig,
        "--wait",
    ])?;
    server.run_cli(&[
        "mesh",
        "create",
        "demo",
        "--version",
        "1.27.9.1",
        "--cluster",
        "c1",
        "--wait",
    ])?;
    let mut manifest = String::from(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: load, labels: {istio.io/rev: stable}}\n",
    );
    for number in 0..options.workloads {
        manifest += &format!(
            "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: w{number}, namespace: load}}\nspec:\n  replicas: 1\n  selector: {{matchLabels: {{app: w{number}}}}}\n  template:\n    metadata: {{labels: {{app: w{number}}}}}\n    spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: app, image: registry.example/load:1}}]}}\n"
        );
    }
    let file = options.dir.join("load.yaml");
    std::fs::write(&file, manifest)?;
    lab.run_kubectl("c1", &["apply", "-f", &file.display().to_string()])?;
    wait_until("every workload is ready", ROLLOUT_TIMEOUT, || {
        all_ready(lab, options.workloads)
            .ok()
            .filter(|ready| *ready)
    })
    .map(drop)
}

fn all_ready(lab: &Lab, wanted: usize) -> Result<bool> {
    let ready = |deployment: &&Value| {
        deployment["status"]["availableReplicas"] == 1 && deployment["status"]["replicas"] == 1
    };
    let deployments = lab.list_objects("c1", &["deployments", "-n", "load"])?;
    Ok(deployments.iter().filter(ready).count() == wanted
        && lab.list_objects("c1", &["pods", "-n", "load"])?.len() == wanted)
}

/// Upgrades the mesh in place to a build with another proxy image, and measures the roll-out only.
fn measure_upgrade(lab: &Lab, server: &DevServer, build: usize) -> Result<RolloutSample> {
    let mut audit = lab.tail_audit_log("c1")?;
    let version = format!("1.27.9.{build}");
    let plan = [
        "upgrade",
        "plan",
        "demo",
        "--version",
        &version,
        "--strategy",
        "in_place",
        "--hold-seconds",
        "0",
        "--start",
    ];
    let upgrade = text_field(&server.run_json(&plan)?, "id")?;
    server.wait_for_state(&upgrade, "succeeded", ROLLOUT_TIMEOUT)?;
    let operations = server.run_json(&["operation", "list"])?;
    let mut all = operations["items"].as_array().into_iter().flatten();
    let roll = all.find(|operation| {
        operation["upgrade_id"] == upgrade.as_str() && operation["kind"] == "roll"
    });
    let roll = roll.context("the upgrade has no roll-out")?;
    let time = |key: &str| {
        text_field(roll, key)?
            .parse::<Timestamp>()
            .map_err(anyhow::Error::from)
    };
    let (begun, ended) = (time("created_at")?, time("ended_at")?);
    let inside = |entry: &Value| {
        let at = entry["requestReceivedTimestamp"]
            .as_str()
            .and_then(|text| text.parse::<Timestamp>().ok());
        at.is_some_and(|at| at >= begun && at <= ended)
    };
    let requests = audit
        .read_new_entries()?
        .iter()
        .filter(|entry| crate::lab::is_from_meshwright(entry) && inside(entry))
        .count();
    if requests == 0 {
        bail!("the audit log shows nothing of the roll-out");
    }
    Ok(RolloutSample {
        seconds: ended.duration_since(begun).as_secs_f64(),
        requests,
    })
}

fn measure_kubectl(lab: &Lab, options: &RolloutOptions) -> Result<RolloutSample> {
    let mut audit = lab.tail_audit_log("c1")?;
    let kubectl = format!(
        "{} kubectl --kubeconfig {} -n load",
        lab.kubernetes_binary()?,
        lab.kubeconfig_path("c1")?.display()
    );
    let one = format!(
        "{kubectl} rollout restart deployment/w$1 >/dev/null && {kubectl} rollout status deployment/w$1 >/dev/null"
    );
    let last = options.workloads - 1;
    let all = format!(
        "seq 0 {last} | xargs -P {} -n 1 sh -ec '{one}' sh",
        options.width
    );
    let start = Instant::now();
    // kubectl caches a cluster's kinds below its home folder, so it gets a home folder of its own.
    let home = format!("HOME={}", options.dir.display());
    run_command(
        lab.command_in_network(None)
            .args(["env", &home, "sh", "-ec", &all]),
    )?;
    let seconds = start.elapsed().as_secs_f64();
    let by = |entry: &&Value| {
        entry["userAgent"]
            .as_str()
            .is_some_and(|agent| agent.contains("kubectl"))
    };
    Ok(RolloutSample {
        seconds,
        requests: audit.read_new_entries()?.iter().filter(by).count(),
    })
}

fn round_to_thousandths(ratio: f64) -> f64 {
    (ratio * 1000.0).round() / 1000.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print_figures(options: &RolloutOptions, ours: &[RolloutSample], theirs: &[RolloutSample]) {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand requests")]
    let each = |run: &RolloutSample| run.requests as f64 / options.workloads as f64;
    let ratios = ours
        .iter()
        .zip(theirs)
        .map(|(ours, theirs)| ours.seconds / theirs.seconds)
        .collect();
    let figures = json!({
        "workloads": options.workloads, "width": options.width, "pairs": options.pairs,
        "requests_per_workload": median(ours.iter().map(each).collect()),
        "requests_per_workload_kubectl": median(theirs.iter().map(each).collect()),
        "seconds": ours.iter().map(|run| run.seconds).collect::<Vec<_>>(),
        "seconds_kubectl": theirs.iter().map(|run| run.seconds).collect::<Vec<_>>(),
        "time_ratio": median(ratios),
    });
    if options.json {
        println!("{figures:#}");
    } else {
        println!(
            "{} workloads, {} at once: {:.2} requests each against {:.2}, {:.2} of the time",
            options.workloads,
            options.width,
            figures["requests_per_workload"]
                .as_f64()
                .unwrap_or_default(),
            figures["requests_per_workload_kubectl"]
                .as_f64()
                .unwrap_or_default(),
            figures["time_ratio"].as_f64().unwrap_or_default(),
        );
    }
}
