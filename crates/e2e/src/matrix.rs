//! Runs the crash matrix: a worker is cut off at each write and record of an upgrade, in each way,
//! and another worker must finish the upgrade.
//!
//! The worker of a superseded operation is a predecessor too: after a rollback, all its late writes
//! must be refused.
//!
//! Each run is checked for four faults: lost (the end differs from a run without a cut), doubled (a
//! workload was restarted more than once), stuck (the upgrade does not end), and late (a worker
//! that woke up late has written).

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::Result;

mod fake;
mod lab;
mod superseded;
mod verdict;
mod victim;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Clusters to run on: `fake` clusters with every cut, or the `lab` with a few chosen ones.
    #[arg(long, value_enum, default_value_t = MatrixBackend::Fake)]
    world: MatrixBackend,
    /// Number of seeds; each takes a quarter of all cuts, a different one than its neighbours, with
    /// another limit of steps that run at once in a wave.
    #[arg(long, default_value_t = 1)]
    seeds: usize,
    /// Print the totals as one JSON object.
    #[arg(long)]
    json: bool,
    /// Folder for the state of the lab's server.
    #[arg(long, default_value = "/tmp/meshwright-matrix")]
    dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MatrixBackend {
    Fake,
    Lab,
}

/// Results of all cuts.
#[derive(Debug, Default)]
struct MatrixTotals {
    boundaries: usize,
    cuts: usize,
    lost: usize,
    doubled: usize,
    stuck: usize,
    late_writes: usize,
    /// Cuts that a run did not reach, because the grouping of records depends on which cluster
    /// answers first. More than one in fifty counts as a fault.
    unreached: usize,
}

impl MatrixTotals {
    /// Counts one verdict, whose first word names the fault; `None` is a good end.
    fn count_verdict(&mut self, title: &str, verdict: Option<String>) {
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
    let runtime = tokio::runtime::Runtime::new()?;
    let totals = match options.world {
        MatrixBackend::Fake => runtime.block_on(fake::run_fake_matrix(options.seeds))?,
        MatrixBackend::Lab => lab::run_lab_matrix(&options.dir, &runtime)?,
    };
    let reached = totals.unreached * 50 <= totals.cuts;
    let clean = reached && totals.lost + totals.doubled + totals.stuck + totals.late_writes == 0;
    if options.json {
        let MatrixTotals {
            boundaries,
            cuts,
            lost,
            doubled,
            stuck,
            late_writes,
            unreached,
        } = totals;
        println!(
            "{}",
            json!({ "boundaries": boundaries, "cuts": cuts, "lost": lost, "doubled": doubled, "stuck": stuck, "late_writes": late_writes, "unreached": unreached })
        );
    } else {
        println!("{totals:?}");
    }
    if clean {
        Ok(())
    } else {
        Err(anyhow!("the crash matrix found something"))
    }
}
