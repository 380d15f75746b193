//! Checks and measurements that cargo itself does not do. `cargo xtask --help` lists them.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

mod bad_input;
mod bench;
mod beside;
mod canary;
mod check;
mod contract;
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
mod scenario;
mod server;
mod service;
mod slow;
mod storm;
mod story;
mod variants;
mod vault;
mod worker;

/// Checks and measurements of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Which crate may use which, how long files and functions may be, whether every problem has its page, and whether every
    /// command that a hint or a page names exists. Build the programs first.
    Check,
    /// Compare what is generated and committed with what would be generated now, or write it anew.
    Fresh {
        /// Write instead of comparing.
        #[arg(long)]
        write: bool,
    },
    /// Compare the API with what its last release promised: `openapi/released.json`, which a release replaces.
    Contract,
    /// Run the isolation tests with both walls between tenants, with each alone, and with neither.
    Isolation,
    /// Load hostile kubeconfigs under a tracer, as Meshwright does and as a general loader does.
    Kubeconfigs(kubeconfigs::Options),
    /// Send what Schemathesis can think of to every route, as every role.
    FuzzApi(fuzz::Options),
    /// Plant bugs into a copy of the source, from `tests/fuzz/bugs.toml`, and see each of them found by the fuzzing.
    FuzzBugs(fuzz::Bugs),
    /// Change one thing at a time in what decides who may do what and who sees which secret, and see a test fail each time.
    Mutants(mutants::Options),
    /// Send a word in every secret, and look for it everywhere.
    Canary(canary::Options),
    /// Send copies of requests to two API processes and kill them in the middle: one effect each, equal answers.
    Storm(storm::Options),
    /// Run cargo's tests where transactions are serializable, where no hint arrives, and on `PostgreSQL` 18.
    Variants(variants::Options),
    /// Have a real Vault keep the master key, seal it, rotate its key, take the token away, and see what becomes of secrets.
    Vault,
    /// Cut an upgrade at every write of it, in an imagined world on a real Postgres, and judge what comes of it.
    CrashMatrix(matrix::Options),
    /// Run every kind of work where clusters, the database and the processor are slow, and see each operation end.
    Slow(slow::Options),
    /// Measure on the lab.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Run what people and clusters do wrong on the lab, from `tests/bad-input.toml`, and compare the answers.
    BadInput(bad_input::Options),
    /// Read a recording of a lab and say whether anybody was ever without a sidecar or below the availability that is allowed.
    Judge {
        /// The recording: the output of `tests/lab/lab record`.
        recording: std::path::PathBuf,
    },
    /// The main job on the lab, with what it must end in.
    #[command(subcommand)]
    Scenario(ScenarioCommand),
}

#[derive(Debug, Subcommand)]
enum ScenarioCommand {
    /// Register, create, canary, promote, roll, retire; what `deploy/quickstart` runs.
    Quickstart(scenario::TourOptions),
    /// The main job on clusters that are there already; what `deploy/quickstart --kubeconfig` runs.
    Own(scenario::own::Own),
    /// Everything that `tests/run` wants to see on the lab.
    All(scenario::suite::All),
}

/// Why a task ended badly.
pub(crate) type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    show_logs();
    let done = match Task::parse() {
        Task::Check => check::check(),
        Task::Fresh { write } => fresh::fresh(write),
        Task::Contract => contract::contract(),
        Task::Isolation => isolation::run(),
        Task::Kubeconfigs(options) => kubeconfigs::run(&options),
        Task::FuzzApi(options) => fuzz::run(&options),
        Task::FuzzBugs(options) => fuzz::bugs(&options),
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
        Task::Scenario(ScenarioCommand::All(options)) => scenario::suite::all(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command and answers what it printed, or what went wrong.
pub(crate) fn run_command(command: &mut std::process::Command) -> Result<String> {
    let name = format!("{command:?}");
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Err(format!("{name} failed: {} {}", said(&output.stderr), said(&output.stdout)))
}

/// Shows what the product's own parts log within this process, as far as `RUST_LOG` asks for it.
fn show_logs() {
    if let Ok(filter) = EnvFilter::try_from_default_env() {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
}
