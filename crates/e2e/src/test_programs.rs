//! Finds the test programs that `cargo test --workspace` builds, and runs single ones again. A
//! build of one package alone would choose other features and compile most of the workspace again.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::{Result, run_command};

/// Environment variables of a build or a run, each with its value.
pub(crate) type EnvSetting = (&'static str, String);

/// Test program of one package.
#[derive(Debug, Clone)]
pub(crate) struct TestProgram {
    /// Name of the test target: the file below `tests`, or the crate.
    pub(crate) target: String,
    program: PathBuf,
    package_dir: PathBuf,
}

/// Builds test programs of the workspace in a folder, and returns those of one package. With a
/// target, only test programs of this name are built.
pub(crate) fn build_test_programs(
    workspace: &Path,
    (package, target): (&str, Option<&str>),
    settings: &[EnvSetting],
) -> Result<Vec<TestProgram>> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(workspace).args([
        "test",
        "--locked",
        "--quiet",
        "--workspace",
        "--no-run",
        "--message-format=json",
    ]);
    cargo.args(target.map(|name| format!("--test={name}")));
    cargo.envs(settings.iter().map(|(name, value)| (*name, value)));
    let messages = run_command(&mut cargo)?;
    let built = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let programs: Vec<TestProgram> = built
        .filter(|message| message["profile"]["test"] == true)
        .filter_map(|message| test_program(&message, package))
        .collect();
    if programs.is_empty() {
        bail!("cargo built no test program of {package}");
    }
    Ok(programs)
}

/// Reads a test program of a package from a message of cargo about an artifact.
fn test_program(message: &Value, package: &str) -> Option<TestProgram> {
    let package_dir = Path::new(message["manifest_path"].as_str()?).parent()?;
    let named = format!("meshwright-{}", package_dir.file_name()?.to_str()?);
    (named == package).then_some(TestProgram {
        target: message["target"]["name"].as_str()?.to_owned(),
        program: message["executable"].as_str()?.into(),
        package_dir: package_dir.to_owned(),
    })
}

impl TestProgram {
    /// Builds the command that runs the tests whose name contains a text, or all tests. Cargo runs
    /// a test program in the folder of its package, and so does this.
    pub(crate) fn command(&self, filter: Option<&str>, settings: &[EnvSetting]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .current_dir(&self.package_dir)
            .env("CARGO_MANIFEST_DIR", &self.package_dir)
            .envs(settings.iter().map(|(name, value)| (*name, value)))
            .args(filter);
        command
    }

    /// Runs all tests of the program, and shows their output.
    pub(crate) fn run_all(&self, settings: &[EnvSetting]) -> Result<()> {
        let status = self
            .command(None, settings)
            .arg("--quiet")
            .status()
            .with_context(|| self.target.clone())?;
        if status.success() {
            Ok(())
        } else {
            bail!("tests failed: {}", self.target)
        }
    }
}
