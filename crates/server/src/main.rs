//! Starts the commands of the binary `meshwright-server`. This crate holds configuration and wiring
//! only.

use std::process::ExitCode;

use clap::Parser;

mod args;
mod audit_anchors;
mod charts;
mod cluster_provider;
mod commands;
mod database;
mod dev;
mod import;
mod open_files;
mod public_http;
mod renamed_options;
mod service;
mod telemetry;
mod tenants;
mod vault_transit;

use args::{Command, ServerArgs};

/// Reason why the server stopped, in words for the operator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The arguments or a configuration file are wrong.
    #[error("{0}")]
    Config(String),
    /// The database failed or refused a request.
    #[error("the database")]
    Store(#[from] meshwright_store::StoreError),
    /// The embedded Postgres failed.
    #[error("the private Postgres")]
    Private(#[from] meshwright_store::embedded_postgres::EmbeddedPostgresError),
    /// A file, folder or socket failed.
    #[error("{what}")]
    Io {
        /// File, socket or action that failed.
        what: String,
        /// Error of the operating system.
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
    renamed_options::warn_of_renamed_options();
    let options = ServerArgs::parse();
    // This guard is dropped last, so that the remaining spans are sent.
    let traces = match telemetry::init_telemetry(&options.telemetry) {
        Ok(traces) => traces,
        Err(failure) => return print_failure(&failure),
    };
    open_files::raise_open_file_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("meshwright-server: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run_command(options.command));
    drop(traces);
    ended.map_or_else(|failure| print_failure(&failure), |()| ExitCode::SUCCESS)
}

fn print_failure(failure: &Failure) -> ExitCode {
    let mut message = format!("meshwright-server: {failure}");
    let mut source = std::error::Error::source(failure);
    while let Some(cause) = source {
        message += &format!(": {cause}");
        source = cause.source();
    }
    eprintln!("{message}");
    ExitCode::FAILURE
}

async fn run_command(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve {
            database,
            listen,
            networks,
            rate_limit_multiplier,
            connections,
            metrics,
        } => {
            commands::serve_api(
                &database,
                &listen,
                &networks,
                (rate_limit_multiplier, connections),
                &metrics,
            )
            .await
        }
        Command::Work {
            database,
            clusters,
            anchors,
            metrics,
        } => commands::run_worker(&database, &clusters, &anchors, &metrics).await,
        Command::Migrate { database } => commands::migrate_schema(&database).await,
        Command::Roles => {
            print!("{}", meshwright_store::CREATE_ROLES_SQL);
            Ok(())
        }
        Command::Openapi => {
            print!("{}", meshwright_api::openapi());
            Ok(())
        }
        Command::Releases { command, database } => {
            import::run_releases_command(&database, command).await
        }
        Command::Hosting { command, database } => {
            import::run_hosting_command(&database, command).await
        }
        Command::Tenants { command, database } => {
            tenants::run_tenants_command(&database, command).await
        }
        Command::Audit { command, database } => {
            tenants::run_audit_command(&database, command).await
        }
        Command::Dev(options) => dev::run_dev(options).await,
    }
}
