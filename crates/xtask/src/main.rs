//! Runs the checks of this repository that cargo itself does not have.
//! `cargo xtask --help` lists them.

use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use clap::Parser;

mod check;
mod circles;
mod contract;
mod fresh;
mod hints;
mod links;
mod pages;
mod source_files;
mod voice;

/// Runs the checks of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Check which crate uses which, how long files are, that every problem code has its section in
    /// `docs/problems.md`, and that every command and file that a hint or a page names exists. Build
    /// the programs first.
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
}

/// Result of a task. The error and its causes are printed before the task exits with a failure.
pub(crate) type Result<T> = anyhow::Result<T>;

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Check => check::check_repository(),
        Task::Fresh { write } => fresh::check_generated_files(write),
        Task::Contract => contract::check_contract(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
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
