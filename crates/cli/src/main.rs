//! Runs the command line client `meshwright`.
//!
//! Exit codes: 0 success (also when the reader of a pipe, such as `head`, has gone), 1 another
//! failure, 2 wrong usage, 3 not found, 4 conflict or failed precondition, 5 not allowed, 6 an
//! operation failed or needs a person, 7 still running at the end of the wait.

// `println!` and `eprintln!` panic when the reader of a pipe has gone. The functions in `output` do
// not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

mod access;
mod arguments;
mod audit;
mod catalogue;
mod client;
mod clusters;
mod commands;
mod data_plane;
mod deletion;
mod events;
mod meshes;
mod operation_output;
mod operations;
mod options;
mod output;
mod profile;
mod rollout_policy;
mod rollouts;
mod upgrades;
mod watch;
mod webhooks;

/// Failure of a command: a message for the user and the exit code of the program.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// Returns the failure for an output whose reader has gone. The program ends without a message
    /// and with exit code 0, because nothing went wrong.
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
        clap_complete::generate(
            shell,
            &mut options::CliArgs::command(),
            "meshwright",
            &mut script,
        );
        return exit_code(output::print_line(
            String::from_utf8_lossy(&script).trim_end(),
        ));
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
