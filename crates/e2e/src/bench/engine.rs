//! Measures the cost of the engine against the database alone: operations and steps that do no work
//! in their clusters are claimed, committed and recorded, against inserts of one row by pgbench on
//! the same server in the same run.

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use meshwright_model::operation::{OperationKind, OperationState};
use meshwright_model::plan::Target;
use meshwright_store::embedded_postgres::find_postgres_binaries;
use meshwright_testkit::Fleet;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{median, round_to_thousandths};
use crate::{Result, run_command};

#[derive(Debug, Args)]
pub(crate) struct EngineOptions {
    /// Number of runs of each side; the sides take turns, and each goes first every other time.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Number of operations with one step that each pair runs.
    #[arg(long, default_value_t = 300)]
    operations: usize,
    /// Number of steps of the one long operation that each pair runs.
    #[arg(long, default_value_t = 300)]
    steps: usize,
    /// Seconds that pgbench runs in each pair.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// Clients of pgbench, as many as a worker's pool has connections.
const PGBENCH_CLIENTS: &str = "10";
/// Longest time that the registrations may take.
const WORK_TIMEOUT: Duration = Duration::from_mins(5);

pub(crate) fn run(options: &EngineOptions) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (mut operations, mut steps, mut inserts) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..options.pairs {
        let fleet = Fleet {
            max_concurrent_restarts: 10,
            ..runtime.block_on(Fleet::new())
        };
        let mut ours = || -> Result<()> {
            operations.push(runtime.block_on(measure_registrations(&fleet, options.operations))?);
            steps.push(runtime.block_on(measure_restart_steps(&fleet, options.steps))?);
            Ok(())
        };
        if pair % 2 == 0 {
            ours()?;
            inserts.push(measure_inserts(&runtime, &fleet, options.seconds)?);
        } else {
            inserts.push(measure_inserts(&runtime, &fleet, options.seconds)?);
            ours()?;
        }
        eprintln!(
            "pair {}: {:.0} operations/s, {:.0} steps/s, {:.0} inserts/s",
            pair + 1,
            operations[pair],
            steps[pair],
            inserts[pair]
        );
    }
    let ratio = |ours: &[f64]| {
        round_to_thousandths(median(
            ours.iter()
                .zip(&inserts)
                .map(|(ours, theirs)| ours / theirs)
                .collect(),
        ))
    };
    println!(
        "{:#}",
        json!({
            "pairs": options.pairs,
            "operations_per_second": operations, "steps_per_second": steps, "pgbench_inserts_per_second": inserts,
            "operations_ratio": ratio(&operations), "steps_ratio": ratio(&steps),
        })
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
fn rate_per_second(count: usize, since: Instant) -> f64 {
    count as f64 / since.elapsed().as_secs_f64()
}

/// Returns the registrations per second of clusters that answer at once. Each is claimed, shown as
/// running, records a credential, and ends.
async fn measure_registrations(fleet: &Fleet, count: usize) -> Result<f64> {
    let mut last = None;
    for number in 0..count {
        last = Some(fleet.register_cluster(&format!("r{number}")).await.1);
    }
    let last = last.context("no operations were asked for")?;
    let (begun, stop) = (Instant::now(), CancellationToken::new());
    let engine = fleet.build_worker("bench", Duration::from_secs(30));
    let working = tokio::spawn({
        let stop = stop.clone();
        async move { engine.run_until_stopped(stop).await }
    });
    let open = "SELECT count(*)::text FROM work_queue";
    while fleet.db.query_text("mw_worker", open).await != ["0"] {
        if begun.elapsed() > WORK_TIMEOUT {
            bail!("the registrations do not end");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rate = rate_per_second(count, begun);
    stop.cancel();
    working.await?;
    match fleet.operation(last).await.state {
        OperationState::Succeeded => Ok(rate),
        state => Err(anyhow!("a registration is {state:?}")),
    }
}

/// Returns the steps per second of one operation. The intent of each step is recorded, its write
/// goes to a fake cluster, and its result is read and recorded.
async fn measure_restart_steps(fleet: &Fleet, steps: usize) -> Result<f64> {
    for number in 0..steps {
        let workload = fleet
            .clusters
            .add_workload("c1", &format!("n{number}"), None, 1);
        let label = Target::NamespaceLabel {
            member: "c1".parse().expect("a name"),
            namespace: workload.namespace,
        };
        fleet
            .clusters
            .change_externally(label, Some("istio.io/rev=stable"));
    }
    let operation = fleet
        .queue_operation(OperationKind::Restart, Value::Null)
        .await;
    let begun = Instant::now();
    fleet.run_due().await;
    let rate = rate_per_second(steps, begun);
    let shown = fleet.operation(operation).await;
    if shown.state != OperationState::Succeeded {
        bail!("the restart is {:?}", shown.state);
    }
    Ok(rate)
}

/// Returns the inserts per second of one row each, every one in its own transaction.
fn measure_inserts(runtime: &tokio::runtime::Runtime, fleet: &Fleet, seconds: u64) -> Result<f64> {
    let table = "CREATE TABLE IF NOT EXISTS bench (id bigserial PRIMARY KEY, at timestamptz NOT NULL, body jsonb NOT NULL)";
    runtime
        .block_on(
            fleet
                .db
                .execute(meshwright_store::embedded_postgres::SUPERUSER, table),
        )
        .map_err(anyhow::Error::msg)?;
    let script = tempfile::NamedTempFile::new()?;
    let insert = "INSERT INTO bench (at, body) VALUES (now(), '{\"fact\": \"done\"}');\n";
    std::fs::write(script.path(), insert)?;
    let program = find_postgres_binaries()
        .context("there is no PostgreSQL")?
        .join("pgbench");
    let mut command = std::process::Command::new(program);
    command
        .args([
            "-n",
            "-M",
            "prepared",
            "-c",
            PGBENCH_CLIENTS,
            "-T",
            &seconds.to_string(),
            "-f",
        ])
        .arg(script.path());
    let printed =
        run_command(command.arg(fleet.db.url(meshwright_store::embedded_postgres::SUPERUSER)))?;
    let tps = printed
        .lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    tps.with_context(|| format!("pgbench printed no tps: {printed}"))
}
