//! Runs mutation tests, with a pinned version of cargo-mutants, on the code that decides access and
//! protects secrets. Every mutant that compiles must make a test fail.

use std::path::{Path, PathBuf};
use std::process::Command;

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
const VERSION: &str = "27.1.0";
/// Seconds that the tests may take for one mutant, as an argument. A mutant that makes a test run
/// for ever counts as caught too.
const LIMIT: &str = "300";

/// Source files of one package, with the packages and the tests that must catch mutants in them.
struct Module {
    title: &'static str,
    package: &'static str,
    files: &'static [&'static str],
    tests: &'static [&'static str],
    /// Arguments for cargo test after `--`, which select the tests.
    narrow: &'static [&'static str],
}

const MODULES: [Module; 4] = [
    Module {
        title: "authorization and audit rules",
        package: "meshwright-model",
        files: &[
            "crates/model/src/access.rs",
            "crates/model/src/audit.rs",
            "crates/model/src/audit/*.rs",
        ],
        tests: &["meshwright-model"],
        narrow: &[],
    },
    Module {
        title: "kubeconfigs and addresses",
        package: "meshwright-kubernetes",
        files: &[
            "crates/kubernetes/src/credential.rs",
            "crates/kubernetes/src/kubeconfig.rs",
            "crates/kubernetes/src/address_policy.rs",
        ],
        tests: &["meshwright-kubernetes"],
        narrow: &[],
    },
    Module {
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
        narrow: &[],
    },
    Module {
        title: "callers and tokens",
        package: "meshwright-api",
        files: &[
            "crates/api/src/request/caller.rs",
            "crates/api/src/oidc.rs",
            "crates/api/src/oidc/jwks.rs",
        ],
        tests: &["meshwright-api"],
        narrow: &[
            "--lib", "--test", "service", "--", "oidc", "keys", "access", "requests", "limits",
            "events", "tenants",
        ],
    },
];

pub(crate) fn run(options: &Options) -> Result<()> {
    let program = installed()?;
    let wanted = |module: &&Module| {
        options.only.is_empty()
            || options
                .only
                .iter()
                .any(|only| module.title.contains(only.as_str()))
    };
    let mut missed = 0;
    for module in MODULES.iter().filter(wanted) {
        println!("== {}", module.title);
        missed += module.judged(&program, &options.dir)?;
    }
    if missed == 0 {
        Ok(())
    } else {
        Err(format!("{missed} mutants were missed"))
    }
}

impl Module {
    /// Runs the mutants of this module, and returns how many of them no test noticed.
    fn judged(&self, program: &Path, dir: &Path) -> Result<usize> {
        let records = dir.join(self.title.replace(' ', "-"));
        std::fs::create_dir_all(&records).map_err(|error| error.to_string())?;
        let mut run = Command::new(program);
        run.args([
            "mutants",
            "--package",
            self.package,
            "--colors",
            "never",
            "--no-times",
            "--timeout",
            LIMIT,
        ]);
        run.args(["--test-package", &self.tests.join(",")])
            .arg("--output")
            .arg(&records);
        for file in self.files {
            run.args(["--file", file]);
        }
        if !self.narrow.is_empty() {
            run.arg("--").args(self.narrow);
        }
        let status = run
            .env("SQLX_OFFLINE", "true")
            .status()
            .map_err(|error| error.to_string())?;
        // Exit code 2 means that mutants were missed, and 3 that one took too long; the records say
        // which.
        if !matches!(status.code(), Some(0 | 2 | 3)) {
            return Err(format!("{}: cargo-mutants ended with {status}", self.title));
        }
        let list = |name: &str| -> Result<Vec<String>> {
            let path = records.join("mutants.out").join(name);
            let text = std::fs::read_to_string(&path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
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
            Err(format!("{}: nothing was tested", self.title))
        } else {
            Ok(survivors.len())
        }
    }
}

/// Returns the path of cargo-mutants in the cache of the lab's programs, and installs it there if
/// it is missing.
fn installed() -> Result<PathBuf> {
    let base = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = base("MESHWRIGHT_CACHE")
        .or_else(|| base("XDG_CACHE_HOME").map(|cache| cache.join("meshwright")))
        .or_else(|| base("HOME").map(|home| home.join(".cache").join("meshwright")))
        .ok_or("MESHWRIGHT_CACHE, XDG_CACHE_HOME or HOME must be set")?;
    let folder = cache.join("tools").join(format!("cargo-mutants-{VERSION}"));
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
                VERSION,
                "--root",
            ])
            .arg(&folder);
        run_command(&mut install)?;
    }
    Ok(program)
}
