//! Plants bugs into a copy of the source, one at a time, and checks that the fuzzing finds each of
//! them. Fuzzing that finds no planted bug proves nothing.

use std::path::Path;
use std::process::Command;

use clap::Args;
use serde::Deserialize;

use super::Options;
use crate::isolation::copy_sources;
use crate::{Result, run_command};

const BUG_LIST: &str = "tests/fuzz/bugs.toml";
/// Target folder of the builds with bugs, so that they are not mixed up with builds without bugs.
const TARGET_DIR: &str = "target/bugs";

#[derive(Debug, Args)]
pub(crate) struct BugsOptions {
    /// Run only the bugs whose title contains this text.
    #[arg(long)]
    only: Option<String>,
}

#[derive(Deserialize)]
struct BugList {
    bug: Vec<Bug>,
}

/// One bug: a change of one source file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bug {
    title: String,
    file: String,
    /// Text that is replaced; it must occur exactly once in the file.
    instead: String,
    /// Text that replaces it.
    put: String,
    /// Text that is added at the end of the file.
    #[serde(default)]
    and: String,
}

pub(crate) fn find_planted_bugs(options: &BugsOptions) -> Result<()> {
    let text = std::fs::read_to_string(BUG_LIST).map_err(|error| error.to_string())?;
    let mut list: BugList =
        toml::from_str(&text).map_err(|error| format!("{BUG_LIST}: {error}"))?;
    list.bug.retain(|bug| {
        options
            .only
            .as_ref()
            .is_none_or(|only| bug.title.contains(only))
    });
    let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
    let copy = scratch.path().join("copy");
    copy_sources(&copy)?;
    let target = std::env::current_dir()
        .map_err(|error| error.to_string())?
        .join(TARGET_DIR);
    let mut missed = Vec::new();
    for bug in &list.bug {
        let found = bug.with_bug_planted(&copy, || {
            build_server(&copy, &target)?;
            fuzz_for_bug(
                &target.join("debug").join("meshwright-server"),
                scratch.path(),
            )
        });
        let check = found.map_err(|error| format!("{}: {error}", bug.title))?;
        println!(
            "{}: {}",
            check
                .as_deref()
                .map_or("MISSED".into(), |check| format!("found ({check})")),
            bug.title
        );
        if check.is_none() {
            missed.push(bug.title.as_str());
        }
    }
    println!(
        "{} bugs, {} found",
        list.bug.len(),
        list.bug.len() - missed.len()
    );
    if missed.is_empty() {
        Ok(())
    } else {
        Err(format!("missed: {}", missed.join(", ")))
    }
}

impl Bug {
    /// Writes the bug into the copy, runs `work`, and restores the file.
    fn with_bug_planted<T>(&self, copy: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let file = copy.join(&self.file);
        let text =
            std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", self.file))?;
        if text.matches(&self.instead).count() != 1 {
            return Err(format!(
                "{} does not hold once: {}",
                self.file, self.instead
            ));
        }
        let planted = text.replace(&self.instead, &self.put) + &self.and;
        std::fs::write(&file, planted).map_err(|error| error.to_string())?;
        let done = work();
        std::fs::write(&file, text).map_err(|error| error.to_string())?;
        done
    }
}

fn build_server(copy: &Path, target: &Path) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(copy).args([
        "build",
        "--locked",
        "--quiet",
        "--package",
        "meshwright-server",
    ]);
    run_command(
        cargo
            .env("CARGO_TARGET_DIR", target)
            .env("SQLX_OFFLINE", "true"),
    )
    .map(drop)
}

/// Fuzzes a server with a bug in it, and returns the name of the check that found the bug.
fn fuzz_for_bug(server: &Path, scratch: &Path) -> Result<Option<String>> {
    let dir = tempfile::tempdir_in(scratch).map_err(|error| error.to_string())?;
    let options = Options {
        cases: 1,
        each: 20,
        dir: None,
        first: true,
        seed: 1,
    };
    let (_, failures) = super::fuzz_all_roles(&options, server, dir.path())?;
    let check = |said: &String| {
        said.lines()
            .find(|line| line.starts_with("- ST"))
            .map(|line| line[2..].to_owned())
    };
    Ok(failures
        .first()
        .map(|said| check(said).unwrap_or_else(|| "an error".into())))
}
