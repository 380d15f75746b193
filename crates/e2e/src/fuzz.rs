//! Runs Schemathesis as every role against a real API process. The workers behind it change fake
//! clusters.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use meshwright_model::Clock;
use meshwright_model::access::Role;
use meshwright_model::clock::SystemClock;
use meshwright_model::ids::TenantId;
use meshwright_testkit::Fleet;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::service::{self, ApiProcess, ApiProcessConfig, SERVER_BINARY};
use crate::{Result, run_command};

mod bugs;
mod document;
mod resources;

pub(crate) use bugs::{BugsOptions, find_planted_bugs};

/// Script that installs Schemathesis if needed and runs it.
const SCHEMATHESIS_PROGRAM: &str = "tests/fuzz/schemathesis";
/// File name of the `OpenAPI` document that one round uses, in the round's folder.
const DOCUMENT_FILE: &str = "openapi.json";
/// Settings that all rounds share.
const BASE_CONFIG: &str = "tests/fuzz/schemathesis.toml";
/// File name of the complete settings of one round, in the round's folder.
const ROUND_CONFIG_FILE: &str = "schemathesis.toml";

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Minimum number of cases that are sent in total.
    #[arg(long, default_value_t = 100_000)]
    cases: usize,
    /// Number of random cases for each route in one turn.
    #[arg(long, default_value_t = 100)]
    each: usize,
    /// Roles that send the cases: owner, operator, viewer, auditor or platform; without it, all.
    #[arg(long = "role", value_parser = ROLES.map(|(title, _)| title))]
    roles: Vec<String>,
    /// Folder in which reports and logs are kept; without it they are deleted.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Stop after the first role that finds something.
    #[arg(long)]
    first: bool,
    /// Seed of the random number generator.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// One round of one role, with its key and its input for Schemathesis.
struct Round {
    title: &'static str,
    key: String,
    inputs: document::RoundInputs,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    // Install Schemathesis before the first round, so that no round waits for it.
    println!(
        "{}",
        run_command(Command::new(SCHEMATHESIS_PROGRAM).arg("--version"))?.trim()
    );
    let scratch = tempfile::tempdir()?;
    let dir = options
        .dir
        .clone()
        .unwrap_or_else(|| scratch.path().to_owned());
    std::fs::create_dir_all(&dir)?;
    let (cases, failures) = fuzz_all_roles(options, Path::new(SERVER_BINARY), &dir)?;
    println!("{}", json!({ "cases": cases, "failures": failures.len() }));
    if failures.is_empty() {
        Ok(())
    } else {
        bail!(failures.join("\n"))
    }
}

/// Runs turns of one round for each role until there are enough cases or something was found.
/// Returns the number of cases and the failures.
fn fuzz_all_roles(options: &Options, server: &Path, dir: &Path) -> Result<(usize, Vec<String>)> {
    let runtime = tokio::runtime::Runtime::new()?;
    let secret = dir.join("secret");
    std::fs::write(&secret, "2a".repeat(32))?;
    let (mut cases, mut failures) = (0, Vec::new());
    let mut turn = 0_u64;
    while cases < options.cases && failures.is_empty() {
        let chosen = |title: &str| {
            options.roles.is_empty() || options.roles.iter().any(|role| role == title)
        };
        for whom in ROLES.into_iter().filter(|(title, _)| chosen(title)) {
            let (fleet, key) = runtime.block_on(prepare_fleet(whom))?;
            let working = BackgroundWorker::start(&runtime, &fleet);
            let config = ApiProcessConfig::new(&fleet.db.url("mw_api"), &secret);
            let (program, log) = (server.to_owned(), Some(dir.join("api.log")));
            let api = ApiProcess::start(ApiProcessConfig {
                program,
                log_file: log,
                log_level: "warn",
                ..config
            })?;
            let given = runtime.block_on(document::prepare_inputs(&fleet, &api, whom))?;
            let round = Round {
                title: whom.0,
                key,
                inputs: given,
            };
            let (count, found) = run_round(&api, &round, options, turn, dir)?;
            runtime.block_on(check_key_still_valid(&api, &round))?;
            drop((api, working));
            println!("{}: {count} cases", round.title);
            cases += count;
            failures.extend(found);
            if options.first && !failures.is_empty() {
                break;
            }
        }
        turn += 1;
    }
    Ok((cases, failures))
}

/// A running worker; it is stopped when this value is dropped.
struct BackgroundWorker<'a> {
    runtime: &'a tokio::runtime::Runtime,
    stop: CancellationToken,
    work: Option<tokio::task::JoinHandle<()>>,
}

impl<'a> BackgroundWorker<'a> {
    fn start(runtime: &'a tokio::runtime::Runtime, fleet: &Fleet) -> Self {
        let (worker, stop) = (
            fleet.build_worker("fuzzed", Duration::from_secs(30)),
            CancellationToken::new(),
        );
        let until = stop.clone();
        let work = Some(runtime.spawn(async move { worker.run_until_stopped(until).await }));
        Self {
            runtime,
            stop,
            work,
        }
    }
}

impl Drop for BackgroundWorker<'_> {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(Err(error)) = self.work.take().map(|work| self.runtime.block_on(work)) {
            eprintln!("e2e: the worker did not end well: {error:#}");
        }
    }
}

/// The roles that rounds run as. Each role gets a fleet of its own, because one role's requests
/// revoke the keys of other roles and suspend the tenant.
const ROLES: [(&str, Role); 5] = [
    ("owner", Role::Owner),
    ("operator", Role::Operator),
    ("viewer", Role::Viewer),
    ("auditor", Role::Auditor),
    (PLATFORM, Role::Owner),
];
const PLATFORM: &str = "platform";

/// Creates a fleet with an upgrade under way, and a key of this role.
async fn prepare_fleet(
    (title, role): (&'static str, Role),
) -> std::result::Result<(Fleet, String), meshwright_store::StoreError> {
    let mut fleet = Fleet::new().await;
    // Notifications wake the worker, so it may poll rarely: frequent polls would take processor
    // time from the fuzzing.
    fleet.poll_interval = Duration::from_secs(1);
    fleet.get_or_plan_upgrade().await;
    fleet.db.api.ensure_platform_key(SystemClock.now()).await?;
    let tenant = if title == PLATFORM {
        TenantId::PLATFORM
    } else {
        fleet.db.tenant
    };
    let key = service::create_api_key(&fleet.db.api, tenant, role).await?;
    Ok((fleet, key))
}

/// Checks that the key of the round still works, because a round that has revoked its own key finds
/// nothing from then on.
async fn check_key_still_valid(api: &ApiProcess, round: &Round) -> Result<()> {
    let request = reqwest::Client::new()
        .get(format!("http://{}/v1/releases", api.address))
        .bearer_auth(&round.key);
    let status = request.send().await?.status();
    if status.is_success() {
        Ok(())
    } else {
        Err(anyhow!(
            "{}: the key of the round was refused: {status}",
            round.title
        ))
    }
}

/// Cases in sequences of requests, for each random case of a route.
const SEQUENCE_CASES_PER_EXAMPLE: usize = 100;

/// Runs one round. Returns the number of cases and the failures.
fn run_round(
    api: &ApiProcess,
    round: &Round,
    options: &Options,
    turn: u64,
    dir: &Path,
) -> Result<(usize, Vec<String>)> {
    let seed = options.seed + turn;
    let (mut cases, mut failures) = (0, Vec::new());
    let given = &round.inputs;
    // The examples and the coverage are the same in every turn, so they run in the first turn only;
    // random cases run in every turn.
    for (phases, given) in [
        ("examples,coverage", &given.coverage),
        ("fuzzing", &given.fuzzing),
    ]
    .into_iter()
    .skip(usize::from(turn > 0))
    {
        let (count, found) =
            run_schemathesis(api, round, (phases, given), (options.each, seed), dir)?;
        cases += count;
        failures.extend(found);
    }
    // One run of sequences ends early when the same request gets another answer than before, for
    // example because a name is taken by then. Run again until there were enough cases.
    let (mut gone, mut run) = (0, 0);
    while gone < SEQUENCE_CASES_PER_EXAMPLE * options.each && failures.is_empty() {
        let (count, found) = run_schemathesis(
            api,
            round,
            ("stateful", &given.stateful),
            (SEQUENCE_CASES_PER_EXAMPLE, seed * 1000 + run),
            dir,
        )?;
        if count == 0 {
            bail!("{}: a run without a case", round.title);
        }
        failures.extend(found);
        (gone, run) = (gone + count, run + 1);
    }
    cases += gone;
    Ok((cases, failures))
}

/// Runs Schemathesis once with these phases, at most `most` examples and this seed. Returns the
/// number of cases, and the output if something was wrong.
fn run_schemathesis(
    api: &ApiProcess,
    round: &Round,
    (phases, given): (&str, &document::PhaseInput),
    (most, seed): (usize, u64),
    dir: &Path,
) -> Result<(usize, Option<String>)> {
    let dir = dir.canonicalize()?;
    // Schemathesis keeps notes in its working directory, so it runs in the round's folder and needs
    // absolute paths.
    let here = std::env::current_dir()?;
    let same = std::fs::read_to_string(BASE_CONFIG).with_context(|| BASE_CONFIG.to_owned())?;
    let settings = format!("{same}\n[parameters]\n{}", given.settings);
    std::fs::write(dir.join(ROUND_CONFIG_FILE), settings)?;
    std::fs::write(dir.join(DOCUMENT_FILE), given.document.to_string())?;
    let report = dir.join(format!("{}-{seed}-{phases}.json", round.title));
    let mut run = Command::new(here.join(SCHEMATHESIS_PROGRAM));
    run.current_dir(&dir)
        .arg("--config-file")
        .arg(dir.join(ROUND_CONFIG_FILE));
    run.arg("run")
        .arg(dir.join(DOCUMENT_FILE))
        .args(["--url", &format!("http://{}", api.address)]);
    run.args([
        "--phases",
        phases,
        "--max-examples",
        &most.to_string(),
        "--seed",
        &seed.to_string(),
    ]);
    run.args(["--report", "json", "--report-json-path"])
        .arg(&report);
    run.env("MESHWRIGHT_FUZZ_KEY", &round.key)
        .env("NO_COLOR", "1");
    let out = run.output()?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let text = std::fs::read_to_string(&report).map_err(|error| anyhow!("{error:#}: {said}"))?;
    let report: Value = serde_json::from_str(&text)?;
    let count = report["test_cases"]["generated"]
        .as_u64()
        .and_then(|count| usize::try_from(count).ok());
    let count = count.context("the report does not say how many cases there were")?;
    Ok((count, (!out.status.success()).then_some(said)))
}
