//! Repeats the scenarios of the zoo with other random numbers, and kills Meshwright's own parts
//! meanwhile.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::interruptions::SHORT_LEASE;
use super::{ALL_STARTS, ZooRun, check_zoo};
use crate::named_tests::{NamedTest, TestSelection, run_named_tests};
use crate::scenario::OLD_RELEASE;
use crate::scenario::fixture::SuiteFixture;
use crate::scenario::releases::CATALOGUE;
use crate::scenario::start_state::StartState;

#[derive(Debug, Args)]
pub(crate) struct ZooOptions {
    #[command(flatten)]
    selection: TestSelection,
    /// Number of runs. Each begins its rollback from another stage than the run before.
    #[arg(long, default_value_t = 3)]
    runs: u64,
    /// Seed of the first run; the next runs count up from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Kill the worker and restart Postgres at random.
    #[arg(long)]
    kill: bool,
    /// Name of the lab.
    #[arg(long, default_value = "zoo")]
    lab: String,
    /// Folder for all files that the run writes.
    #[arg(long, default_value = "/tmp/meshwright-zoo")]
    dir: PathBuf,
    /// Address and port that the API listens on.
    #[arg(long, default_value = "127.0.0.1:18091")]
    listen: String,
}

pub(crate) fn run_zoo(options: ZooOptions) -> ExitCode {
    let ZooOptions {
        selection,
        runs,
        seed: first,
        kill,
        lab,
        dir,
        listen,
    } = options;
    let tests = (first..first + runs).zip(ALL_STARTS.into_iter().cycle());
    let tests = tests.map(|(seed, start)| {
        let title = format!("{}, seed {seed}", start.title());
        let run = ZooRun { start, seed, kill };
        NamedTest::new(title.clone(), move |fixture: &mut SuiteFixture| {
            fixture.run_scenario(&title, StartState::Release(OLD_RELEASE), |on| {
                check_zoo(on, run)
            })
        })
    });
    let prepare = move || SuiteFixture::prepare(&lab, &dir, &listen, &CATALOGUE, &SHORT_LEASE);
    run_named_tests(&selection, prepare, tests.collect())
}
