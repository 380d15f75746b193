//! Runs mutation tests, with a pinned version of cargo-mutants, on the code that decides access and
//! protects secrets. Every mutant that compiles must make a test fail.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use serde_json::json;

use crate::{Result, run_command};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Run only the modules whose title contains this text; repeatable.
    #[arg(long)]
    only: Vec<String>,
    /// Folder for the records of cargo-mutants.
    #[arg(long, default_value = "/tmp/meshwright-mutants")]
    dir: PathBuf,
}

/// Pinned version of cargo-mutants.
const CARGO_MUTANTS_VERSION: &str = "27.1.0";
/// Seconds that the tests may take for one mutant, as an argument. A mutant that makes a test run
/// for ever counts as caught too.
const TEST_TIMEOUT_SECONDS: &str = "300";

/// Source files of one package, with the packages and the tests that must catch mutants in them.
struct MutatedModule {
    title: &'static str,
    package: &'static str,
    files: &'static [&'static str],
    tests: &'static [&'static str],
    /// Arguments for cargo test after `--`, which select the tests.
    test_args: &'static [&'static str],
}

const MUTATED_MODULES: [MutatedModule; 4] = [
    MutatedModule {
        title: "authorization and audit rules",
        package: "meshwright-model",
        files: &[
            "crates/model/src/access.rs",
            "crates/model/src/audit.rs",
            "crates/model/src/audit/*.rs",
        ],
        tests: &["meshwright-model"],
        test_args: &[],
    },
    MutatedModule {
        title: "kubeconfigs and addresses",
        package: "meshwright-kubernetes",
        files: &[
            "crates/kubernetes/src/credential.rs",
            "crates/kubernetes/src/kubeconfig.rs",
            "crates/kubernetes/src/address_policy.rs",
        ],
        tests: &["meshwright-kubernetes"],
        test_args: &[],
    },
    MutatedModule {
        title: "envelope and vault",
        package: "meshwright-store",
        files: &[
            "crates/store/src/sealing/aead.rs",
            "crates/store/src/sealing/data_keys.rs",
            "crates/store/src/sealing/tenant_keys.rs",
            "crates/store/src/sealing/key_rotation.rs",
            "crates/store/src/sealing/master_key.rs",
            "crates/store/src/sealing/sealer.rs",
        ],
        tests: &["meshwright-store", "meshwright-testkit"],
        test_args: &[],
    },
    MutatedModule {
        title: "callers and tokens",
        package: "meshwright-api",
        files: &[
            "crates/api/src/request/caller.rs",
            "crates/api/src/oidc.rs",
            "crates/api/src/oidc/jwks.rs",
        ],
        tests: &["meshwright-api"],
        test_args: &[
            "--lib", "--test", "service", "--", "oidc", "keys", "access", "requests", "limits",
            "events", "tenants",
        ],
    },
];

pub(crate) fn run(options: &Options) -> Result<()> {
    let program = install_cargo_mutants()?;
    let wanted = |module: &&MutatedModule| {
        options.only.is_empty()
            || options
                .only
                .iter()
                .any(|only| module.title.contains(only.as_str()))
    };
    let mut missed = 0;
    for module in MUTATED_MODULES.iter().filter(wanted) {
        println!("== {}", module.title);
        missed += module.count_missed_mutants(&program, &options.dir)?;
    }
    if missed == 0 {
        Ok(())
    } else {
        Err(anyhow!("{missed} mutants were missed"))
    }
}

impl MutatedModule {
    /// Runs the mutants of this module, and returns how many of them no test noticed.
    fn count_missed_mutants(&self, program: &Path, dir: &Path) -> Result<usize> {
        let records = dir.join(self.title.replace(' ', "-"));
        std::fs::create_dir_all(&records)?;
        let mut run = Command::new(program);
        run.args([
            "mutants",
            "--package",
            self.package,
            "--colors",
            "never",
            "--no-times",
            "--timeout",
            TEST_TIMEOUT_SECONDS,
        ]);
        run.args(["--test-package", &self.tests.join(",")])
            .arg("--output")
            .arg(&records);
        for file in self.files {
            run.args(["--file", file]);
        }
        if !self.test_args.is_empty() {
            run.arg("--").args(self.test_args);
        }
        let status = run.env("SQLX_OFFLINE", "true").status()?;
        // Exit code 2 means that mutants were missed, and 3 that one took too long; the records say
        // which.
        if !matches!(status.code(), Some(0 | 2 | 3)) {
            bail!("{}: cargo-mutants ended with {status}", self.title);
        }
        let list = |name: &str| -> Result<Vec<String>> {
            let path = records.join("mutants.out").join(name);
            let text =
                std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        let (caught, late, survivors) = (
            list("caught.txt")?,
            list("timeout.txt")?,
            list("missed.txt")?,
        );
        println!(
            "{}",
            json!({ "module": self.title, "caught": caught.len(), "too_long": late, "missed": survivors })
        );
        if caught.is_empty() {
            Err(anyhow!("{}: nothing was tested", self.title))
        } else {
            Ok(survivors.len())
        }
    }
}

/// Returns the path of cargo-mutants in the cache of the lab's programs, and installs it there if
/// it is missing.
fn install_cargo_mutants() -> Result<PathBuf> {
    let base = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = base("MESHWRIGHT_CACHE")
        .or_else(|| base("XDG_CACHE_HOME").map(|cache| cache.join("meshwright")))
        .or_else(|| base("HOME").map(|home| home.join(".cache").join("meshwright")))
        .context("MESHWRIGHT_CACHE, XDG_CACHE_HOME or HOME must be set")?;
    let folder = cache
        .join("tools")
        .join(format!("cargo-mutants-{CARGO_MUTANTS_VERSION}"));
    let program = folder.join("bin").join("cargo-mutants");
    if !program.is_file() {
        let mut install = Command::new("cargo");
        install
            .args([
                "install",
                "--quiet",
                "--locked",
                "cargo-mutants",
                "--version",
                CARGO_MUTANTS_VERSION,
                "--root",
            ])
            .arg(&folder);
        run_command(&mut install)?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mutated_file_exists() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for file in MUTATED_MODULES.iter().flat_map(|module| module.files) {
            // A pattern ends with `*.rs`, and its folder must exist.
            let path = repository.join(file.trim_end_matches("/*.rs"));
            assert!(path.exists(), "there is no file {file}");
        }
    }
}
