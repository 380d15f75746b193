//! Runs the end-to-end suites and the benchmarks of this repository, on the lab or on a real
//! Postgres. `cargo e2e --help` lists them.

use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

mod assertions;
mod availability_judge;
mod bad_input;
mod bench;
mod database;
mod fuzz;
mod idempotency_storm;
mod isolation;
mod kubeconfigs;
mod lab;
mod matrix;
mod mutants;
mod named_tests;
mod process;
mod process_stat;
mod scenario;
mod secret_leaks;
mod server;
mod service;
mod slow;
mod test_programs;
mod tls_program;
mod variants;
mod vault;
mod worker;
mod worlds;

/// Runs the end-to-end suites and the benchmarks of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo e2e")]
enum Suite {
    /// Run the tenant isolation tests four times: with both row-level security and tenant filters
    /// in queries, with each of them alone, and with neither.
    ///
    /// Each run is a named test. Filters, `--list` and the exit code are those of cargo's tests.
    Isolation(named_tests::TestSelection),
    /// Load hostile kubeconfigs under a system call tracer, once with Meshwright's loader and once
    /// with a general loader.
    Kubeconfigs(kubeconfigs::Options),
    /// Send the requests that Schemathesis generates to every route, once as every role.
    FuzzApi(fuzz::Options),
    /// Plant the bugs of `tests/fuzz/bugs.toml` into a copy of the source, one at a time, and check
    /// that the fuzzing finds each of them.
    FuzzBugs(fuzz::BugsOptions),
    /// Run mutation tests on the code for authorization, kubeconfigs, secrets and tokens: change
    /// one thing at a time and check that a test fails each time.
    Mutants(mutants::Options),
    /// Send a marker word in every secret field, and check that no log, trace, metric, dump or
    /// database file shows it.
    SecretLeaks(secret_leaks::Options),
    /// Send copies of requests to two API processes that are killed meanwhile, and check that each
    /// request has one effect and that all its copies get the same answer.
    Storm(idempotency_storm::Options),
    /// Run cargo's tests with serializable transactions, without work notifications, and on
    /// `PostgreSQL` 18.
    Variants(variants::Options),
    /// Let a real Vault keep the master key; then seal it, rotate its key and revoke the token, and
    /// check which secrets still open.
    Vault,
    /// Stop a worker at each of its writes during an upgrade, on fake clusters and a real Postgres
    /// or on the lab, and check that another worker brings the upgrade to the same end.
    CrashMatrix(matrix::Options),
    /// Run the pure decisions of upgrades from every small world, without a fault and with each
    /// single fault at each call, and check that each run ends at its goal or with a named stop.
    #[command(name = "worlds")]
    SmallWorlds(worlds::Options),
    /// Run every kind of operation with slow clusters, a slow database and a slow processor, and
    /// check that each operation ends.
    Slow(slow::Options),
    /// Run one of the benchmarks.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Run the mistakes of people and clusters that `tests/bad-input.toml` lists on the lab, and
    /// compare the answers with the expected ones.
    BadInput(bad_input::Options),
    /// Read a recording of a lab, and report each namespace that was without injection and each
    /// workload that was below its allowed availability.
    Judge {
        /// File with the recording, as `tests/lab/lab record` prints it.
        recording: std::path::PathBuf,
    },
    /// Take upgrades of a mesh with odd workloads to a stage and back on the lab, while pods are
    /// evicted at random.
    Zoo(scenario::zoo::repeated::ZooOptions),
    /// Run an upgrade from 1.25.1 to 1.27.9 or other stories end to end, and check the end state.
    #[command(subcommand)]
    Scenario(ScenarioCommand),
}

#[derive(Debug, Subcommand)]
enum ScenarioCommand {
    /// Register two clusters of the lab, create a mesh, and take it through a whole canary upgrade,
    /// as `deploy/quickstart` does.
    Quickstart(scenario::TourOptions),
    /// Run the same upgrade on clusters that exist already, as `deploy/quickstart --kubeconfig`
    /// does.
    Own(scenario::own_clusters::OwnClustersOptions),
    /// Run every scenario that `tests/run` needs on the lab.
    All(scenario::suite::SuiteOptions),
}

/// Result of a suite. The error and its causes are printed before the program exits with a failure.
pub(crate) type Result<T> = anyhow::Result<T>;

fn main() -> ExitCode {
    show_logs();
    let succeed = |()| ExitCode::SUCCESS;
    let ended = match Suite::parse() {
        Suite::Isolation(selection) => Ok(isolation::run(&selection)),
        Suite::Slow(options) => Ok(slow::run(&options)),
        Suite::BadInput(options) => bad_input::run(options),
        Suite::Zoo(options) => Ok(scenario::zoo::repeated::run_zoo(options)),
        Suite::Scenario(ScenarioCommand::All(options)) => Ok(scenario::suite::run_suite(options)),
        Suite::Scenario(ScenarioCommand::Quickstart(options)) => {
            scenario::run_quickstart(&options).map(succeed)
        }
        Suite::Scenario(ScenarioCommand::Own(options)) => {
            scenario::own_clusters::run(&options).map(succeed)
        }
        Suite::Kubeconfigs(options) => kubeconfigs::run(&options).map(succeed),
        Suite::FuzzApi(options) => fuzz::run(&options).map(succeed),
        Suite::FuzzBugs(options) => fuzz::find_planted_bugs(&options).map(succeed),
        Suite::Mutants(options) => mutants::run(&options).map(succeed),
        Suite::SecretLeaks(options) => secret_leaks::run(&options).map(succeed),
        Suite::Storm(options) => idempotency_storm::run(&options).map(succeed),
        Suite::Variants(options) => variants::run(&options).map(succeed),
        Suite::Vault => vault::run().map(succeed),
        Suite::CrashMatrix(options) => matrix::run(&options).map(succeed),
        Suite::SmallWorlds(options) => worlds::run(&options).map(succeed),
        Suite::Bench(options) => bench::run(&options).map(succeed),
        Suite::Judge { recording } => availability_judge::print_verdict(&recording).map(succeed),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("e2e: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs a command and returns its standard output.
///
/// # Errors
///
/// Returns an error when the command cannot be started or exits with a failure; the text then holds
/// the command's standard error and output.
pub(crate) fn run_command(command: &mut std::process::Command) -> Result<String> {
    let name = format!("{command:?}");
    let output = command.output().with_context(|| name.clone())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Err(anyhow!(
        "{name} failed: {} {}",
        said(&output.stderr),
        said(&output.stdout)
    ))
}

/// Prints the logs that Meshwright's crates write within this process, filtered by `RUST_LOG`.
/// Without a valid `RUST_LOG`, nothing is printed.
fn show_logs() {
    if let Ok(filter) = EnvFilter::try_from_default_env() {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .init();
    }
}
