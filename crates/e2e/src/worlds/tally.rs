//! Counts worlds, runs and their ends, and keeps the first failures.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::description::{Description, StageName};
use super::driver::Ending;
use super::faults::Fault;

/// Number of kinds of failures that are kept with a world.
const MAX_FAILURES: usize = 20;

/// Run that has failed.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) world: Description,
    pub(super) fault: Option<(u32, Fault)>,
    pub(super) reason: String,
}

impl Failure {
    /// Returns the text that failures of one cause have in common.
    fn kind(&self) -> String {
        let fault = self.fault.map_or("", |(_, fault)| fault.family());
        let reason: String = self
            .reason
            .chars()
            .filter(|letter| !letter.is_ascii_digit())
            .collect();
        format!("{} {fault} {reason}", self.world.stage.word())
    }
}

/// Runs with one family of faults in one stage.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) runs: u64,
    /// Runs that came to a state of the run without a fault, which was judged already.
    pub(super) merged: u64,
    /// Runs that reached the goal by themselves.
    pub(super) goals: u64,
    /// Runs that a named problem has stopped.
    pub(super) stops: u64,
}

/// Results of many worlds.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Worlds of each stage, with those that are alike.
    pub(super) worlds: BTreeMap<StageName, u64>,
    pub(super) counts: BTreeMap<(StageName, &'static str), Counts>,
    /// Problems that stopped the runs without a fault.
    pub(super) stops: BTreeMap<(StageName, String), u64>,
    /// First failure of each kind, with the number of its kind.
    failures: BTreeMap<String, (Failure, u64)>,
    pub(super) failed: u64,
}

impl Tally {
    /// Counts a run without a fault; `None` if it came to a state that was judged already.
    pub(super) fn count_baseline(&mut self, stage: StageName, ended: Option<&Ending>) {
        let counts = self.counts.entry((stage, "no fault")).or_default();
        counts.add(ended.is_none(), ended);
        if let Some(Ending::Paused(problem) | Ending::Failed(problem)) = ended {
            let code = problem.code.as_str().to_owned();
            *self.stops.entry((stage, code)).or_default() += 1;
        }
    }

    pub(super) fn count_run(
        &mut self,
        stage: StageName,
        fault: Fault,
        merged: bool,
        ended: Option<&Ending>,
    ) {
        let counts = self.counts.entry((stage, fault.family())).or_default();
        counts.add(merged, ended);
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        self.failed += 1;
        let kind = failure.kind();
        let room = self.failures.len() < MAX_FAILURES;
        if room || self.failures.contains_key(&kind) {
            self.failures.entry(kind).or_insert((failure, 0)).1 += 1;
        }
    }

    /// Returns the first failure of each kind, with the number of its kind.
    pub(super) fn failures(&self) -> impl Iterator<Item = &(Failure, u64)> {
        self.failures.values()
    }

    /// Adds the results of other worlds.
    pub(super) fn add(&mut self, other: Self) {
        for (stage, count) in other.worlds {
            *self.worlds.entry(stage).or_default() += count;
        }
        for (key, counts) in other.counts {
            let known = self.counts.entry(key).or_default();
            known.runs += counts.runs;
            known.merged += counts.merged;
            known.goals += counts.goals;
            known.stops += counts.stops;
        }
        for (key, count) in other.stops {
            *self.stops.entry(key).or_default() += count;
        }
        self.failed += other.failed;
        for (kind, (failure, count)) in other.failures {
            self.failures.entry(kind).or_insert((failure, 0)).1 += count;
        }
    }

    /// Returns the number of all runs.
    pub(super) fn runs(&self) -> u64 {
        self.counts.values().map(|counts| counts.runs).sum()
    }

    /// Returns the tables of counts.
    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "{:10} {:12} {:>12} {:>12} {:>12} {:>12}\n",
            "stage", "fault", "runs", "merged", "goal", "named stop"
        );
        for ((stage, fault), counts) in &self.counts {
            let Counts {
                runs,
                merged,
                goals,
                stops,
            } = counts;
            let stage = stage.word();
            let _ = writeln!(
                text,
                "{stage:10} {fault:12} {runs:>12} {merged:>12} {goals:>12} {stops:>12}"
            );
        }
        text.push_str("\nstops without a fault:\n");
        for ((stage, code), count) in &self.stops {
            let _ = writeln!(text, "{:10} {code:30} {count:>12}", stage.word());
        }
        text
    }
}

impl Counts {
    fn add(&mut self, merged: bool, ended: Option<&Ending>) {
        self.runs += 1;
        self.merged += u64::from(merged);
        self.goals += u64::from(matches!(ended, Some(Ending::Succeeded)));
        self.stops += u64::from(matches!(ended, Some(Ending::Paused(_) | Ending::Failed(_))));
    }
}
