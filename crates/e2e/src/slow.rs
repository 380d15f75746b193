//! Runs every kind of operation where everything is slow, once for each seed, and checks that each
//! operation ends.

use clap::Args;
use serde_json::json;

use crate::Result;

/// Minutes that a seed takes at scale 1.
const MINUTES_PER_SEED: u32 = 45;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Number of runs, each drawn from its own seed.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// Seed of the first run; the next runs count up from it.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Factor from 1 to 200 by which all times are divided; 1 is real time and takes hours.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    scale: u32,
    /// Print the figures as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let (mut runs, mut failed) = (Vec::new(), Vec::new());
    eprintln!(
        "a seed takes about {} minutes",
        MINUTES_PER_SEED.div_ceil(options.scale)
    );
    for seed in options.first..options.first + options.seeds {
        match runtime.block_on(meshwright_testkit::slow::run_slow_upgrade(
            seed,
            options.scale,
        )) {
            Ok(report) => {
                eprintln!("seed {seed}: {} s, {report:?}", report.took.as_secs());
                runs.push(json!({
                    "seed": seed, "strategy": report.strategy, "rolled_back_from": report.rolled_back_from,
                    "seconds": report.took.as_secs(), "claims": report.claims,
                }));
            }
            Err(why) => failed.push(format!("seed {seed}: {why}")),
        }
    }
    if options.json {
        println!(
            "{:#}",
            json!({ "scale": options.scale, "ended": runs.len(), "failed": failed.len(), "runs": runs })
        );
    } else {
        println!("{} of {} seeds ended", runs.len(), options.seeds);
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("\n"))
    }
}
