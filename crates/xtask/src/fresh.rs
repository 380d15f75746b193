//! Generates the files that are committed, the `OpenAPI` document and the checked queries, and
//! compares them with the committed ones.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use meshwright_store::embedded_postgres::EmbeddedPostgres;
use meshwright_store::{Sealer, Store};

use crate::{Result, run_command};

const OPENAPI_FILE: &str = "openapi/meshwright.json";
/// Folder of the queries that sqlx has checked.
const QUERIES_DIR: &str = ".sqlx";
/// Name of the database that [`start_migrated_postgres`] creates.
const DATABASE_NAME: &str = "fresh";

pub(crate) fn check_generated_files(write: bool) -> Result<()> {
    let document = meshwright_api::openapi();
    let scratch = tempfile::tempdir()?;
    generate_queries(scratch.path())?;
    let (generated, committed) = (
        read_files(&scratch.path().join("queries"))?,
        read_files(Path::new(QUERIES_DIR))?,
    );
    if write {
        std::fs::write(OPENAPI_FILE, document)?;
        return replace_queries(&generated);
    }
    if std::fs::read_to_string(OPENAPI_FILE).unwrap_or_default() != document {
        bail!("{OPENAPI_FILE} is not what the code says: cargo xtask fresh --write");
    }
    if generated != committed {
        bail!("{QUERIES_DIR} is not what the code says: cargo xtask fresh --write");
    }
    println!(
        "the OpenAPI document and {} checked queries are fresh",
        committed.len()
    );
    Ok(())
}

fn read_files(folder: &Path) -> Result<BTreeMap<String, String>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let read = entries.map(|entry| {
        let path = entry?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        Ok((name, std::fs::read_to_string(&path)?))
    });
    Ok(read.collect::<std::io::Result<_>>()?)
}

fn replace_queries(files: &BTreeMap<String, String>) -> Result<()> {
    let swap = || {
        std::fs::remove_dir_all(QUERIES_DIR)?;
        std::fs::create_dir(QUERIES_DIR)?;
        files
            .iter()
            .try_for_each(|(name, text)| std::fs::write(Path::new(QUERIES_DIR).join(name), text))
    };
    Ok(swap()?)
}

/// Generates the checked queries: sqlx's macros write what they learn from a live database into a
/// folder. The crate is compiled in a target folder of its own, so that the macros run.
fn generate_queries(scratch: &Path) -> Result<()> {
    let postgres = start_migrated_postgres(scratch)?;
    let folder = scratch.join("queries");
    std::fs::create_dir(&folder)?;
    // The macros run only while the crate is compiled, so remove its previous build.
    run_command(Command::new("cargo").args([
        "clean",
        "--package",
        "meshwright-store",
        "--target-dir",
        "target/fresh",
    ]))?;
    let mut cargo = Command::new("cargo");
    cargo.args([
        "check",
        "--package",
        "meshwright-store",
        "--target-dir",
        "target/fresh",
    ]);
    cargo
        .env("DATABASE_URL", postgres.url("mw_owner", DATABASE_NAME))
        .env("SQLX_OFFLINE_DIR", &folder)
        .env_remove("SQLX_OFFLINE");
    run_command(&mut cargo).map(|_| ())
}

/// Starts a private Postgres with an empty database of the current schema.
fn start_migrated_postgres(scratch: &Path) -> Result<EmbeddedPostgres> {
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
