//! The crash matrix: an upgrade is cut at each of its writes and records, in each way, and another worker must finish it.
//!
//! A superseded operation's worker is a predecessor too: what it wakes up to do after a rollback is refused.
//!
//! Oracles: it ends in the same state as an uncut run (nothing lost), each workload is restarted once (nothing doubled), it
//! ends at all (nothing stuck), and a worker that wakes up late writes nothing.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::Result;

mod fake;
mod lab;
mod superseded;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Imagined clusters with every cut, or the lab with a few named ones.
    #[arg(long, value_enum, default_value_t = World::Fake)]
    world: World,
    /// How many runs: each takes a quarter of all cuts, another one than its neighbours, with another width of its waves.
    #[arg(long, default_value_t = 1)]
    seeds: usize,
    /// Print the totals as JSON.
    #[arg(long)]
    json: bool,
    /// Folder for the lab's server.
    #[arg(long, default_value = "/tmp/meshwright-matrix")]
    dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum World {
    Fake,
    Lab,
}

/// What came of all cuts.
#[derive(Debug, Default)]
struct Totals {
    boundaries: usize,
    cuts: usize,
    lost: usize,
    doubled: usize,
    stuck: usize,
    late_writes: usize,
    /// Cuts that a run did not come to: how records group depends on who answers first. More than one in fifty is a fault.
    unreached: usize,
}

impl Totals {
    /// Takes in one verdict; its first word says what it is about.
    fn count(&mut self, title: &str, verdict: Option<String>) {
        self.cuts += 1;
        let Some(verdict) = verdict else { return };
        eprintln!("{title}: {verdict}");
        match verdict.split(':').next() {
            Some("doubled") => self.doubled += 1,
            Some("stuck") => self.stuck += 1,
            Some("late") => self.late_writes += 1,
            Some("unreached") => self.unreached += 1,
            _ => self.lost += 1,
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let totals = match options.world {
        World::Fake => runtime.block_on(fake::matrix(options.seeds))?,
        World::Lab => lab::matrix(&options.dir, &runtime)?,
    };
    let reached = totals.unreached * 50 <= totals.cuts;
    let clean = reached && totals.lost + totals.doubled + totals.stuck + totals.late_writes == 0;
    if options.json {
        let Totals { boundaries, cuts, lost, doubled, stuck, late_writes, unreached } = totals;
        println!(
            "{}",
            json!({ "boundaries": boundaries, "cuts": cuts, "lost": lost, "doubled": doubled, "stuck": stuck, "late_writes": late_writes, "unreached": unreached })
        );
    } else {
        println!("{totals:?}");
    }
    if clean { Ok(()) } else { Err("the crash matrix found something".into()) }
}
