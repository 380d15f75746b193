//! Plants bugs into a copy of the source, one at a time, and checks that the fuzzing finds each of
//! them. Fuzzing that finds no planted bug proves nothing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, anyhow, bail};
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

/// Reads the list of bugs of the repository in this folder.
fn read_bug_list(repository: &Path) -> Result<BugList> {
    let text =
        std::fs::read_to_string(repository.join(BUG_LIST)).with_context(|| BUG_LIST.to_owned())?;
    toml::from_str(&text).with_context(|| BUG_LIST.to_owned())
}

/// Fuzzes the server with each bug in turn, and prints which check found it.
pub(crate) fn find_planted_bugs(options: &BugsOptions) -> Result<()> {
    let mut list = read_bug_list(Path::new("."))?;
    list.bug.retain(|bug| {
        options
            .only
            .as_ref()
            .is_none_or(|only| bug.title.contains(only))
    });
    let scratch = tempfile::tempdir()?;
    let copy = scratch.path().join("copy");
    copy_sources(&copy)?;
    let target = std::env::current_dir()?.join(TARGET_DIR);
    let mut missed = Vec::new();
    for bug in &list.bug {
        let found = bug.with_bug_planted(&copy, || {
            build_server(&copy, &target)?;
            fuzz_for_bug(
                &target.join("debug").join("meshwright-server"),
                scratch.path(),
            )
        });
        let check = found.with_context(|| bug.title.clone())?;
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
        Err(anyhow!("missed: {}", missed.join(", ")))
    }
}

impl Bug {
    /// Returns why the bug cannot be planted in this text of its file, or `None` if it can.
    fn find_place_fault(&self, text: &str) -> Option<String> {
        let count = text.matches(&self.instead).count();
        (count != 1).then(|| {
            format!(
                "`instead` occurs {count} times in {}, not once: {:?}",
                self.file, self.instead
            )
        })
    }

    /// Writes the bug into the copy, runs `work`, and restores the file.
    fn with_bug_planted<T>(&self, copy: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let file = copy.join(&self.file);
        let text = std::fs::read_to_string(&file).with_context(|| self.file.clone())?;
        if let Some(fault) = self.find_place_fault(&text) {
            bail!(fault);
        }
        let planted = text.replace(&self.instead, &self.put) + &self.and;
        std::fs::write(&file, planted)?;
        let done = work();
        std::fs::write(&file, text)?;
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
    let dir = tempfile::tempdir_in(scratch)?;
    let options = Options {
        cases: 1,
        each: 20,
        dir: None,
        first: true,
        roles: Vec::new(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn bug_at(instead: &str) -> Bug {
        Bug {
            title: "a bug".into(),
            file: "src/lib.rs".into(),
            instead: instead.into(),
            put: String::new(),
            and: String::new(),
        }
    }

    #[test]
    fn each_listed_bug_can_be_planted() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let list = read_bug_list(&repository).expect("the list is valid");
        assert!(!list.bug.is_empty());
        for bug in list.bug {
            let text = std::fs::read_to_string(repository.join(&bug.file))
                .unwrap_or_else(|error| panic!("{}: {}: {error}", bug.title, bug.file));
            assert_eq!(bug.find_place_fault(&text), None, "{}", bug.title);
        }
    }

    #[test]
    fn a_bug_needs_exactly_one_place() {
        let text = "let one = 1;\nlet two = 2;\nlet two = 2;\n";
        let fault = |instead| bug_at(instead).find_place_fault(text);
        assert_eq!(fault("one = 1"), None);
        assert!(fault("three").is_some_and(|fault| fault.contains("0 times in src/lib.rs")));
        assert!(fault("two").is_some_and(|fault| fault.contains("2 times in src/lib.rs")));
    }
}
