//! The binary `meshwright-server`: configuration and wiring, nothing else.

use std::process::ExitCode;

use clap::Parser;

mod commands;
mod descriptors;
mod dev;
mod fetch;
mod import;
mod options;
mod service;
mod telemetry;
mod tenants;
mod transit;
mod worlds;

use options::{Command, Options};

/// Why the server stopped, in words for the operator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Something about the options or files.
    #[error("{0}")]
    Config(String),
    /// The database.
    #[error("the database")]
    Store(#[from] store::StoreError),
    /// The private Postgres.
    #[error("the private Postgres")]
    Private(#[from] store::private::PrivateError),
    /// A file or socket.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// How it failed.
        #[source]
        source: std::io::Error,
    },
}

impl Failure {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    // Dropped last: what is still to be said is sent.
    let traces = match telemetry::start(&options.telemetry) {
        Ok(traces) => traces,
        Err(failure) => return failed(&failure),
    };
    descriptors::raise_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("meshwright-server: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(options.command));
    drop(traces);
    ended.map_or_else(|failure| failed(&failure), |()| ExitCode::SUCCESS)
}

fn failed(failure: &Failure) -> ExitCode {
    let mut message = format!("meshwright-server: {failure}");
    let mut source = std::error::Error::source(failure);
    while let Some(cause) = source {
        message += &format!(": {cause}");
        source = cause.source();
    }
    eprintln!("{message}");
    ExitCode::FAILURE
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve { database, listen, networks, share, connections, metrics } => {
            commands::serve(&database, &listen, &networks, (share, connections), &metrics).await
        }
        Command::Work { database, clusters, anchors, metrics } => {
            commands::work(&database, &clusters, &anchors, &metrics).await
        }
        Command::Migrate { database } => commands::migrate(&database).await,
        Command::Roles => {
            print!("{}", store::ROLES);
            Ok(())
        }
        Command::Openapi => {
            print!("{}", api::openapi());
            Ok(())
        }
        Command::Releases { command, database } => import::releases(&database, command).await,
        Command::Hosting { command, database } => import::hosting(&database, command).await,
        Command::Tenants { command, database } => tenants::tenants(&database, command).await,
        Command::Audit { command, database } => tenants::audit(&database, command).await,
        Command::Dev(options) => dev::dev(options).await,
    }
}
