//! Runs every kind of operation where everything is slow, once for each seed, and checks that each
//! operation ends.

use std::process::ExitCode;

use clap::Args;
use meshwright_testkit::slow::run_slow_upgrade;
use tokio::runtime::Runtime;

use crate::named_tests::{NamedTest, TestSelection, run_named_tests};

/// Minutes that a seed takes at scale 1.
const MINUTES_PER_SEED: u32 = 45;

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    selection: TestSelection,
    /// Number of runs, each drawn from its own seed.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// Seed of the first run; the next runs count up from it.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Factor from 1 to 200 by which all times are divided; 1 is real time and takes hours.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    scale: u32,
}

pub(crate) fn run(options: &Options) -> ExitCode {
    let scale = options.scale;
    let tests = (options.first..options.first + options.seeds).map(|seed| {
        let name = format!("every operation ends where everything is slow, seed {seed}");
        NamedTest::new(name, move |runtime: &mut Runtime| {
            println!(
                "   this takes about {} minutes",
                MINUTES_PER_SEED.div_ceil(scale)
            );
            let report = runtime
                .block_on(run_slow_upgrade(seed, scale))
                .map_err(anyhow::Error::msg)?;
            println!("   {report:?}");
            Ok(())
        })
    });
    let prepare = || Ok(Runtime::new()?);
    run_named_tests(&options.selection, prepare, tests.collect())
}
