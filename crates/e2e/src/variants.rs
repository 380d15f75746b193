//! Runs cargo's tests with other databases: with every transaction serializable, without work
//! notifications, and with the newest `PostgreSQL`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, anyhow};
use clap::Args;

use crate::test_programs::{EnvSetting, build_test_programs};
use crate::{Result, run_command};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Run only the packages that keep and do the work, once with all variants together, instead
    /// of all tests once for each variant.
    #[arg(long)]
    together: bool,
}

/// Packages whose tests are run with all variants together: those that keep and do the work. The
/// other packages with a database use it through the store.
const SAMPLE_PACKAGES: [&str; 3] = [
    "meshwright-store",
    "meshwright-testkit",
    "meshwright-worker",
];

pub(crate) fn run(options: &Options) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let settings = [
        (
            "serializable",
            (
                "PGOPTIONS",
                "-c default_transaction_isolation=serializable".to_owned(),
            ),
        ),
        (
            "without hints",
            (meshwright_testkit::NOTIFICATIONS_ENV, "off".to_owned()),
        ),
        (
            "PostgreSQL 18",
            ("PG_BIN", copy_newest_postgres(dir.path())?),
        ),
    ];
    if options.together {
        let settings = settings.map(|(_, setting)| setting);
        for package in SAMPLE_PACKAGES {
            for program in build_test_programs(Path::new("."), (package, None), &[])? {
                program.run_all(&settings)?;
            }
        }
        return Ok(());
    }
    settings
        .into_iter()
        .try_for_each(|(title, setting)| run_tests(title, &setting))
}

/// Copies the newest `PostgreSQL` out of the cache and returns the folder of its programs, because
/// the account that Postgres runs as may have no access to the cache.
fn copy_newest_postgres(dir: &Path) -> Result<String> {
    let bin = run_command(&mut Command::new("tests/postgres-18"))?;
    let native = Path::new(bin.trim())
        .parent()
        .context("the folder of PostgreSQL 18 has no parent")?;
    run_command(Command::new("cp").arg("-r").arg(native).arg(dir))?;
    run_command(Command::new("chmod").args(["-R", "a+rX"]).arg(dir))?;
    Ok(dir.join("native").join("bin").display().to_string())
}

/// Runs all tests of the workspace with one setting.
fn run_tests(title: &str, (name, value): &EnvSetting) -> Result<()> {
    println!("-- {title}");
    let mut run = Command::new("cargo");
    run.args([
        "test",
        "--locked",
        "--quiet",
        "--no-fail-fast",
        "--workspace",
    ])
    .env(name, value);
    let status = run.status()?;
    if status.success() {
        Ok(())
    } else {
        Err(anyhow!("tests failed: {title}"))
    }
}
