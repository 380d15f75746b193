//! Starts the migrated Postgres that the suites and benchmarks use.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use meshwright_store::embedded_postgres::EmbeddedPostgres;
use meshwright_store::{Sealer, Store};

use crate::Result;

/// Name of the database that [`start_migrated_postgres`] creates.
pub(crate) const DATABASE_NAME: &str = "fresh";

/// Returns the path of a program, such as `psql`, of the Postgres installation that was found.
pub(crate) fn postgres_program(name: &str) -> Result<PathBuf> {
    let bin = meshwright_store::embedded_postgres::find_postgres_binaries()
        .context("there is no Postgres")?;
    Ok(bin.join(name))
}

/// Starts a private Postgres with an empty database of the current schema.
pub(crate) fn start_migrated_postgres(scratch: &Path) -> Result<EmbeddedPostgres> {
    let postgres = EmbeddedPostgres::start(&scratch.join("postgres"))?;
    let runtime = tokio::runtime::Runtime::new()?;
    let key = Sealer::new([0; 32]);
    runtime.block_on(Store::prepare_private_database(
        &postgres,
        DATABASE_NAME,
        &key,
    ))?;
    Ok(postgres)
}
