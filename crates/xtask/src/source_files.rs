//! Reads the files of the repository for the checks.

use std::io::ErrorKind;
use std::process::Command;

use anyhow::bail;

use crate::{Result, run_command};

/// Reads the files that match patterns of git, committed or not, each with its path. A file that
/// was deleted and not yet committed is still listed by git and left out.
pub(crate) fn read_files(patterns: &[&str]) -> Result<Vec<(String, String)>> {
    let mut list = Command::new("git");
    list.args(["ls-files", "-co", "--exclude-standard", "--"])
        .args(patterns);
    let mut files = Vec::new();
    for file in run_command(&mut list)?.lines() {
        match std::fs::read_to_string(file) {
            Ok(text) => files.push((file.to_owned(), text)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => bail!("{file}: {error}"),
        }
    }
    Ok(files)
}

/// True for files that hold tests only.
pub(crate) fn is_test_file(file: &str) -> bool {
    file.split('/')
        .any(|part| part == "tests" || part == "tests.rs")
        || file.ends_with("_test.rs")
}

/// The part of a file before its inline tests.
pub(crate) fn production_part(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text)
}
