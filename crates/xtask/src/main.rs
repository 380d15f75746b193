//! Runs the checks and measurements of this repository that cargo itself does not have.
//! `cargo xtask --help` lists them.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

mod bad_input;
mod bench;
mod canary;
mod check;
mod circles;
mod contract;
mod end_state;
mod fresh;
mod fuzz;
mod hints;
mod isolation;
mod judge;
mod kubeconfigs;
mod lab;
mod links;
mod matrix;
mod mutants;
mod pages;
mod process;
mod process_stat;
mod scenario;
mod server;
mod service;
mod slow;
mod source_files;
mod storm;
mod tls_program;
mod variants;
mod vault;
mod voice;
mod worker;

/// Runs the checks and measurements of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Check which crate uses which, how long files are, that every problem code has its section in
    /// `docs/problems.md`, that every command and file that a hint or a page names exists, and that
    /// each bug of `tests/fuzz/bugs.toml` and each mutated file has its place. Build the programs
    /// first.
    Check,
    /// Compare the committed generated files, the `OpenAPI` document and the checked queries, with
    /// what the code generates now.
    Fresh {
        /// Write the generated files instead of comparing them.
        #[arg(long)]
        write: bool,
    },
    /// Compare the API with its last released contract, `openapi/released.json`, which each release
    /// replaces.
    Contract,
    /// Run the tenant isolation tests four times: with both row-level security and tenant filters
    /// in queries, with each of them alone, and with neither.
    Isolation,
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
    Canary(canary::Options),
    /// Send copies of requests to two API processes that are killed meanwhile, and check that each
    /// request has one effect and that all its copies get the same answer.
    Storm(storm::Options),
    /// Run cargo's tests with serializable transactions, without work notifications, and on
    /// `PostgreSQL` 18.
    Variants(variants::Options),
    /// Let a real Vault keep the master key; then seal it, rotate its key and revoke the token, and
    /// check which secrets still open.
    Vault,
    /// Stop a worker at each of its writes during an upgrade, on fake clusters and a real Postgres
    /// or on the lab, and check that another worker brings the upgrade to the same end.
    CrashMatrix(matrix::Options),
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
    Own(scenario::own::OwnClustersOptions),
    /// Run every scenario that `tests/run` needs on the lab.
    All(scenario::suite::SuiteOptions),
}

/// Result of a task; the error is the text that is printed before the task exits with a failure.
pub(crate) type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    show_logs();
    let done = match Task::parse() {
        Task::Check => check::check_repository(),
        Task::Fresh { write } => fresh::check_generated_files(write),
        Task::Contract => contract::check_contract(),
        Task::Isolation => isolation::run(),
        Task::Kubeconfigs(options) => kubeconfigs::run(&options),
        Task::FuzzApi(options) => fuzz::run(&options),
        Task::FuzzBugs(options) => fuzz::find_planted_bugs(&options),
        Task::Mutants(options) => mutants::run(&options),
        Task::Canary(options) => canary::run(&options),
        Task::Storm(options) => storm::run(&options),
        Task::Variants(options) => variants::run(&options),
        Task::Vault => vault::run(),
        Task::CrashMatrix(options) => matrix::run(&options),
        Task::Slow(options) => slow::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::BadInput(options) => bad_input::run(&options),
        Task::Judge { recording } => judge::print_verdict(&recording),
        Task::Scenario(ScenarioCommand::Quickstart(options)) => scenario::run_quickstart(&options),
        Task::Scenario(ScenarioCommand::Own(options)) => scenario::own::run(&options),
        Task::Scenario(ScenarioCommand::All(options)) => scenario::suite::run_suite(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command and returns its standard output.
///
/// # Errors
///
/// Returns an error when the command cannot be started or exits with a failure; the text then holds
/// the command's standard error and output.
pub(crate) fn run_command(command: &mut std::process::Command) -> Result<String> {
    let name = format!("{command:?}");
    let output = command
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Err(format!(
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
