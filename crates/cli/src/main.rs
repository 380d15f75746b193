//! The command line `meshwright`.
//!
//! Exit codes: 0 fine (also when a pipe's reader, such as `head`, has gone), 1 something else, 2 usage, 3 not found, 4 conflict or precondition, 5 not allowed, 6 an operation failed
//! or needs a person, 7 still running when the wait was over.

// Both panic when the reader has gone: `output` has the ways to write.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

mod access;
mod audit;
mod catalogue;
mod client;
mod commands;
mod leaving;
mod meshes;
mod options;
mod output;
mod profile;
mod upgrades;
mod watch;
mod webhooks;

/// Why a command ended badly, with the exit code that says so.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The reader of our output has gone: nothing went wrong, and nothing more is to be said.
    pub(crate) fn output_closed() -> Self {
        Self::new(0, "")
    }

    pub(crate) fn other(message: impl std::fmt::Display) -> Self {
        Self::new(1, message.to_string())
    }
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = options::CliArgs::parse();
    if let options::Command::Completion { shell } = options.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut options::CliArgs::command(), "meshwright", &mut script);
        return exit_code(output::print_line(String::from_utf8_lossy(&script).trim_end()));
    }
    exit_code(commands::run_command(options).await)
}

fn exit_code(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                output::eprint_line(&format!("meshwright: {}", failure.message));
            }
            ExitCode::from(failure.code)
        }
    }
}
