//! Checks the crate graph and the lengths of files, and runs the checks of pages, hints, links,
//! imports and wording.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::anyhow;
use serde_json::Value;

use crate::source_files::read_files;
use crate::{Result, run_command};

/// Crates of this workspace that each crate may depend on, apart from dev-dependencies. `e2e`,
/// `testkit` and `xtask` are used in development only.
const ALLOWED_DEPENDENCIES: [(&str, &[&str]); 9] = [
    ("meshwright-model", &[]),
    ("meshwright-rollout", &["meshwright-model"]),
    ("meshwright-store", &["meshwright-model"]),
    (
        "meshwright-kubernetes",
        &["meshwright-model", "meshwright-rollout"],
    ),
    ("meshwright-wire", &["meshwright-model"]),
    (
        "meshwright-api",
        &["meshwright-model", "meshwright-store", "meshwright-wire"],
    ),
    (
        "meshwright-worker",
        &["meshwright-model", "meshwright-rollout", "meshwright-store"],
    ),
    (
        "meshwright-server",
        &[
            "meshwright-model",
            "meshwright-rollout",
            "meshwright-store",
            "meshwright-kubernetes",
            "meshwright-api",
            "meshwright-worker",
            "meshwright-wire",
        ],
    ),
    ("meshwright-cli", &["meshwright-wire", "meshwright-model"]),
];

/// Libraries and the crates that may depend on them, so that each concern stays in one place. An
/// empty list bans the library.
const LIBRARY_OWNERS: [(&str, &[&str]); 11] = [
    ("sqlx", &["meshwright-store", "meshwright-testkit"]),
    ("sqlx-core", &[]),
    ("tokio-postgres", &[]),
    ("kube", &["meshwright-kubernetes"]),
    ("kube-client", &[]),
    ("kube-core", &[]),
    ("kube-runtime", &[]),
    ("k8s-openapi", &["meshwright-kubernetes"]),
    ("axum", &["meshwright-api"]),
    ("tower-http", &["meshwright-api"]),
    ("jsonwebtoken", &["meshwright-api"]),
];

/// Maximum number of lines of a production file.
const MAX_FILE_LINES: usize = 400;

pub(crate) fn check_repository() -> Result<()> {
    let mut wrong = check_crate_graph()?;
    wrong.extend(check_file_sizes()?);
    wrong.extend(crate::pages::check_problem_pages());
    wrong.extend(crate::hints::check_named_commands()?);
    wrong.extend(crate::links::check_doc_links()?);
    wrong.extend(crate::circles::find_circles()?);
    wrong.extend(crate::voice::check_voice()?);
    if wrong.is_empty() {
        println!(
            "crate graph, imports, sizes, wording, pages of problems, named commands and files are fine"
        );
        return Ok(());
    }
    Err(anyhow!(wrong.join("\n")))
}

/// Compares the dependencies in `cargo metadata` with the allowed ones.
fn check_crate_graph() -> Result<Vec<String>> {
    let text = run_command(Command::new("cargo").args([
        "metadata",
        "--format-version=1",
        "--no-deps",
        "--offline",
    ]))?;
    let metadata: Value = serde_json::from_str(&text)?;
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED_DEPENDENCIES.into_iter().collect();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            let shipped = dependency["kind"].is_null();
            if let Some(uses) = allowed.get(name)
                && used.starts_with("meshwright-")
                && shipped
                && !uses.contains(&used)
            {
                wrong.push(format!("{name} may not use {used}: move the code"));
            }
            if let Some((_, owners)) = LIBRARY_OWNERS.iter().find(|(library, _)| *library == used)
                && !owners.contains(&name)
            {
                wrong.push(format!(
                    "{name} may not name {used}: that is for {owners:?}"
                ));
            }
        }
    }
    Ok(wrong)
}

/// Checks the lengths of production files. Clippy checks the lengths of functions.
fn check_file_sizes() -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (file, text) in read_files(&["*.rs", "*.go"])? {
        if file.contains("/tests") || file.ends_with("_test.go") {
            continue;
        }
        let lines = text.lines().count();
        if lines > MAX_FILE_LINES {
            wrong.push(format!(
                "{file} has {lines} lines; {MAX_FILE_LINES} is the limit: split it"
            ));
        }
    }
    Ok(wrong)
}
