//! Tests each of the two protections between tenants alone. The isolation tests run with both,
//! without row-level security, with queries that leave out the tenant, and with neither. Without
//! both they must fail; otherwise they prove nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, anyhow, bail};
use meshwright_store::embedded_postgres::EmbeddedPostgres;

use crate::named_tests::{NamedTest, TestSelection, run_named_tests};
use crate::test_programs::{EnvSetting, build_test_programs};
use crate::{Result, database, run_command};

/// Condition by which a query filters its tenant.
const TENANT_FILTER: &str = "tenant_id = $";
/// Minimum number of filters in the source. Fewer would mean that filters are written in another
/// way, and those would stay in place.
const MIN_FILTERS: usize = 50;
/// Folder of the source files with the queries.
const STORE_SOURCES: &str = "crates/store/src";
/// Environment variable; with the value `queries`, test databases have no row-level security.
const WALLS_ENV: &str = "MESHWRIGHT_TEST_WALLS";
/// Package with the isolation tests.
const TESTED_PACKAGE: &str = "meshwright-api";
/// Test target with the isolation tests.
const TEST_TARGET: &str = "service";

pub(crate) fn run(selection: &TestSelection) -> ExitCode {
    let test = |name, work: fn(&mut IsolationFixture) -> Result<()>| NamedTest::new(name, work);
    let tests = vec![
        test("isolation, both walls", |_| {
            run_isolation_tests(Path::new("."), None, &[]).map(drop)
        }),
        test("isolation, row-level security switched off", |_| {
            run_isolation_tests(Path::new("."), Some("queries"), &[]).map(drop)
        }),
        test("isolation, queries that forget the tenant", |fixture| {
            let (copy, build) = fixture.forgetful_sources()?;
            run_isolation_tests(&copy, None, &build).map(drop)
        }),
        test("the isolation tests fail without either wall", |fixture| {
            let (copy, build) = fixture.forgetful_sources()?;
            // The tests must fail for the expected reason.
            match run_isolation_tests(&copy, Some("queries"), &build) {
                Err(said)
                    if said
                        .to_string()
                        .contains("nothing_of_another_tenant_is_seen_or_changed") =>
                {
                    Ok(())
                }
                other => Err(anyhow!(
                    "without either wall the isolation tests must fail, and said: {other:?}"
                )),
            }
        }),
    ];
    run_named_tests(selection, IsolationFixture::prepare, tests)
}

/// The builds of the isolation tests.
struct IsolationFixture {
    // Field order matters: Postgres is stopped before its folder is removed.
    postgres: Option<EmbeddedPostgres>,
    scratch: tempfile::TempDir,
    target: PathBuf,
}

impl IsolationFixture {
    fn prepare() -> Result<Self> {
        let here = std::env::current_dir()?;
        Ok(Self {
            postgres: None,
            scratch: tempfile::tempdir()?,
            target: here.join("target"),
        })
    }

    /// Returns a copy of the source whose queries leave out the tenant, and the settings of its
    /// build: these queries are checked with a database.
    fn forgetful_sources(&mut self) -> Result<(PathBuf, [EnvSetting; 3])> {
        let copy = self.scratch.path().join("copy");
        let postgres = if let Some(postgres) = self.postgres.take() {
            postgres
        } else {
            copy_sources(&copy)?;
            let removed = remove_tenant_filters(&copy.join(STORE_SOURCES))?;
            if removed < MIN_FILTERS {
                bail!("only {removed} filters were found in {STORE_SOURCES}");
            }
            database::start_migrated_postgres(self.scratch.path())?
        };
        let url = postgres.url("mw_owner", database::DATABASE_NAME);
        self.postgres = Some(postgres);
        let settings = [
            ("DATABASE_URL", url),
            ("SQLX_OFFLINE", "false".to_owned()),
            ("CARGO_TARGET_DIR", self.target.display().to_string()),
        ];
        Ok((copy, settings))
    }
}

/// Runs the isolation tests of a workspace, with the settings of the build and of the run.
fn run_isolation_tests(
    workspace: &Path,
    walls: Option<&str>,
    build: &[EnvSetting],
) -> Result<String> {
    // All test programs of this tree are built already; of a copy, one is enough.
    let only = (workspace != Path::new(".")).then_some(TEST_TARGET);
    let programs = build_test_programs(workspace, (TESTED_PACKAGE, only), build)?;
    let service = programs
        .iter()
        .find(|program| program.target == TEST_TARGET)
        .context("the package has no such test")?;
    let mut command = service.command(Some("isolation::"), &[]);
    command.env("RUST_BACKTRACE", "0");
    match walls {
        Some(walls) => command.env(WALLS_ENV, walls),
        None => command.env_remove(WALLS_ENV),
    };
    run_command(&mut command)
}

/// Copies the source files that git tracks or would track to a folder where they can be changed.
pub(crate) fn copy_sources(to: &Path) -> Result<()> {
    let files = run_command(Command::new("git").args(["ls-files", "-co", "--exclude-standard"]))?;
    for file in files.lines().filter(|file| Path::new(file).is_file()) {
        let new = to.join(file);
        let made = new
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::copy(file, &new));
        made.with_context(|| file.to_owned())?;
    }
    Ok(())
}

/// Removes the filter by tenant from every query, and returns the number of filters. The parameter
/// stays in use, so that the other parameters keep their numbers.
fn remove_tenant_filters(folder: &Path) -> Result<usize> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut removed = 0;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            removed += remove_tenant_filters(&path)?;
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        let (changed, count) = replace_tenant_filters(&text);
        std::fs::write(&path, changed)?;
        removed += count;
    }
    Ok(removed)
}

fn replace_tenant_filters(text: &str) -> (String, usize) {
    let mut parts = text.split(TENANT_FILTER);
    let mut changed = parts.next().unwrap_or_default().to_owned();
    let mut count = 0;
    for part in parts {
        // Remove the table alias before the column as well.
        if changed.ends_with('.') {
            changed.pop();
            changed.truncate(
                changed
                    .trim_end_matches(|letter: char| letter.is_ascii_lowercase() || letter == '_')
                    .len(),
            );
        }
        let digits = part.len()
            - part
                .trim_start_matches(|letter: char| letter.is_ascii_digit())
                .len();
        let (number, rest) = part.split_at(digits);
        changed += &format!("${number}::uuid IS NOT NULL{rest}");
        count += 1;
    }
    (changed, count)
}

#[cfg(test)]
mod tests {
    use super::replace_tenant_filters;

    #[test]
    fn a_condition_forgets_its_tenant_and_keeps_its_parameters() {
        let query = "SELECT x FROM a m WHERE m.tenant_id = $1 AND id = $2 OR tenant_id = $10";
        let forgotten =
            "SELECT x FROM a m WHERE $1::uuid IS NOT NULL AND id = $2 OR $10::uuid IS NOT NULL";
        assert_eq!(replace_tenant_filters(query), (forgotten.to_owned(), 2));
    }
}
