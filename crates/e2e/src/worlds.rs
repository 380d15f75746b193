//! Runs the pure decisions of upgrades from every small world: two control planes, two members, three
//! tags, each form of label and each state of pods. Each world is run without a fault and with each
//! single fault at each call.
//!
//! Each run has to reach its goal, or to stop with a named problem; then a retry has to reach the
//! goal after the fault has ended. No run may do harm on its way.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{anyhow, bail};
use clap::Args;

use crate::Result;

mod cells;
mod clusters;
mod description;
mod driver;
mod faults;
mod fingerprint;
mod goals;
mod judge;
mod planted;
mod ports;
mod stages;
mod tally;
mod world;

use description::{Description, STAGES, StageName};
use judge::{Conditions, Results, judge_world};
use planted::Planted;
use tally::Tally;

/// Number of worlds that a thread takes at once.
const CHUNK: u32 = 512;
/// Parts of a hundredth, in which the share of worlds is counted.
const PARTS: u64 = 10_000;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Percentage of the worlds to run, from 0.01 to 100; the same worlds each time.
    #[arg(long, default_value_t = 100.0)]
    share: f64,
    /// Number of threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Stage to run; all stages by default.
    #[arg(long, value_enum)]
    only: Option<StageName>,
    /// World to run alone, as a failure names it, for example `roll:4711`.
    #[arg(long, value_name = "ID")]
    world: Option<String>,
    /// Fault to plant into the driver; the run then has to fail.
    #[arg(long, value_enum, default_value_t = Planted::None)]
    planted: Planted,
}

impl Options {
    fn conditions(&self, verbose: bool) -> Conditions {
        Conditions {
            planted: self.planted,
            verbose,
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let begun = Instant::now();
    let mut tally = Tally::default();
    if let Some(id) = &options.world {
        let mut results = Results::default();
        judge_world(parse_id(id)?, options.conditions(true), &mut results);
        tally = results.tally;
    } else {
        for stage in STAGES {
            if options.only.is_none_or(|only| only == stage) {
                let before = Instant::now();
                let found = run_stage(stage, options);
                let (runs, failed) = (found.runs(), found.failed);
                let seconds = before.elapsed().as_secs_f64();
                let stage = stage.word();
                eprintln!("{stage}: {runs} runs, {failed} failed, {seconds:.1} s");
                tally.add(found);
            }
        }
    }
    print!("{}", tally.table());
    let worlds: u64 = tally.worlds.values().sum();
    println!(
        "\n{worlds} worlds, {} runs, {} failed, {:.1} s",
        tally.runs(),
        tally.failed,
        begun.elapsed().as_secs_f64()
    );
    for (failure, count) in tally.failures() {
        print_failure(failure, *count);
    }
    if tally.failed == 0 {
        Ok(())
    } else {
        Err(anyhow!("{} runs of small worlds failed", tally.failed))
    }
}

fn print_failure(failure: &tally::Failure, count: u64) {
    println!(
        "\n{}\n    {} ({count} times)",
        failure.world, failure.reason
    );
    if let Some((call, fault)) = failure.fault {
        println!("    fault at call {call}: {fault}");
    }
}

fn parse_id(id: &str) -> Result<Description> {
    let (word, index) = id
        .split_once(':')
        .ok_or_else(|| anyhow!("{id} is no id of a world"))?;
    let stage = STAGES.into_iter().find(|stage| stage.word() == word);
    let stage = stage.ok_or_else(|| anyhow!("{word} is no stage"))?;
    let index: u32 = index.parse()?;
    if index >= Description::count(stage) {
        bail!("{id} is no world of this stage");
    }
    Ok(Description::from_index(stage, index))
}

/// Runs the worlds of a stage, on several threads.
fn run_stage(stage: StageName, options: &Options) -> Tally {
    let (next, count) = (AtomicU32::new(0), Description::count(stage));
    let work = || {
        let mut results = Results::default();
        loop {
            let first = next.fetch_add(CHUNK, Ordering::Relaxed);
            if first >= count {
                return results.tally;
            }
            for index in first..count.min(first + CHUNK) {
                run_index(stage, index, options, &mut results);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.threads.max(1))
            .map(|_| scope.spawn(work))
            .collect();
        let mut all = Tally::default();
        for thread in threads {
            all.add(
                thread
                    .join()
                    .expect("a thread of small worlds does not panic"),
            );
        }
        all
    })
}

/// Runs the world with this index, unless another one stands for it or it is not in the share.
fn run_index(stage: StageName, index: u32, options: &Options, results: &mut Results) {
    let world = Description::from_index(stage, index);
    let canonical = world.canonical();
    // The stages that look at no pods have few worlds, so a sample takes all of them.
    if stage.looks_at_pods() && !is_in_share(stage, canonical.family(), options.share) {
        return;
    }
    *results.tally.worlds.entry(stage).or_default() += 1;
    if canonical == world {
        judge_world(world, options.conditions(false), results);
    }
}

/// Returns true if a world is in the share, by a hash that is the same on every machine.
fn is_in_share(stage: StageName, index: u32, share: f64) -> bool {
    let mut mixed = u64::from(index) ^ ((stage as u64) << 40);
    for factor in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(factor);
    }
    let part = (mixed ^ (mixed >> 31)) % PARTS;
    let parts = u32::try_from(part).expect("fewer than ten thousand");
    f64::from(parts) < share * 100.0
}

#[cfg(test)]
mod tests;
