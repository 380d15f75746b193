//! Runs a world without a fault and with each single fault, and judges how the runs end.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::description::Description;
use super::driver::{Driver, Ending};
use super::faults::{Call, CallKind, Fault, PendingWrite};
use super::fingerprint::{fingerprint, shared_fingerprint};
use super::goals::{check_goal, mend};
use super::planted::Planted;
use super::stages::Stage;
use super::tally::{Failure, Tally};
use super::world::{World, WorldState};

/// Numbers of the operations of one run.
const OPERATION: u32 = 1;
const RESTORATION: u32 = 2;
const REPETITION: u32 = 3;
/// Retries of a person after which a run has to be at its goal.
const MAX_RETRIES: usize = 3;
/// States that one thread remembers as judged, which limits its memory.
const MAX_JUDGED: usize = 8_000_000;

/// State before a round of the run without a fault.
struct Snapshot {
    driver: Driver,
    world: WorldState,
}

/// Run without a fault.
struct Baseline {
    snapshots: Vec<Snapshot>,
    fingerprints: HashSet<u64>,
    calls: Vec<Call>,
    /// True if the run reaches its goal without a person.
    reaches_goal: bool,
}

/// Results of many worlds.
#[derive(Debug, Default)]
pub(super) struct Results {
    pub(super) tally: Tally,
    /// States from which the run without a fault, and the run with each later fault, was judged; each
    /// with true if the former reaches its goal without a person.
    judged: HashMap<u64, bool>,
}

/// Judge of one world.
pub(super) struct Judge<'a> {
    world: Description,
    stage: Arc<Stage>,
    conditions: Conditions,
    results: &'a mut Results,
}

/// Conditions under which worlds are judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conditions {
    /// Fault of the driver.
    pub(super) planted: Planted,
    /// True if each call is printed of the run without a fault and of each run that fails.
    pub(super) verbose: bool,
}

/// Judges a world: runs it without a fault, and with each fault at each call.
pub(super) fn judge_world(world: Description, conditions: Conditions, results: &mut Results) {
    let stage = Arc::new(Stage::of(&world));
    let mut judge = Judge {
        world,
        stage,
        conditions,
        results,
    };
    let Some(baseline) = judge.run_baseline() else {
        return;
    };
    for (number, call) in (0..).zip(&baseline.calls) {
        for fault in Fault::at(call.kind) {
            if baseline.is_alike(number, *call, *fault) {
                judge
                    .results
                    .tally
                    .count_run(world.stage, *fault, true, None);
            } else {
                judge.run_fault(&baseline, number, *fault);
            }
        }
    }
    if !judge.stage.open_targets.is_empty() {
        for calls in [0, 1, 2, 4, 8, 16, u32::MAX] {
            judge.run_fault(&baseline, 0, Fault::EarlierWrite(calls));
        }
    }
    judge.remember(&baseline);
}

impl Baseline {
    /// Returns the state before the round in which a call was made.
    fn before(&self, call: u32) -> &Snapshot {
        let mut rounds = self.snapshots.iter().rev();
        let begun = rounds.find(|known| known.world.calls <= call);
        begun.expect("the first round begins before the first call")
    }

    /// Returns true if the run with a fault is the same as another run: a stale look shows nothing
    /// else than a fresh one, or the worker dies in the same round before it has written anything.
    fn is_alike(&self, number: u32, call: Call, fault: Fault) -> bool {
        match fault {
            Fault::StaleLook(writes) => !call.stale[writes - 1],
            Fault::DiesBefore => {
                call.kind == CallKind::Read && self.before(number).world.calls != number
            }
            _ => false,
        }
    }
}

impl Judge<'_> {
    /// Runs the world without a fault. Returns `None` if that already fails.
    fn run_baseline(&mut self) -> Option<Baseline> {
        let world = World::new(&self.world.clusters());
        world.lock().trace = Some(Vec::new());
        self.begin_journal(&world);
        let mut driver = Driver::new(self.stage.clone(), OPERATION, self.conditions.planted);
        let (mut snapshots, mut fingerprints) = (Vec::new(), HashSet::new());
        let (judged, known) = (self.world.judged(), &self.results.judged);
        let ended = driver.run(&world, |driver, world| {
            let state = world.copy();
            let shared = shared_fingerprint(driver, &state, judged);
            if let Some(reaches_goal) = known.get(&shared) {
                return Some(*reaches_goal);
            }
            fingerprints.insert(fingerprint(driver, &state));
            snapshots.push(Snapshot {
                driver: driver.clone(),
                world: state.without_trace(),
            });
            None
        });
        let calls = world.lock().trace.take().unwrap_or_default();
        let stage = self.world.stage;
        self.results
            .tally
            .count_baseline(stage, ended.as_ref().ok());
        let reaches_goal = match &ended {
            Ok(ended) => *ended == Ending::Succeeded,
            Err(reaches_goal) => *reaches_goal,
        };
        let finished = match ended {
            Ok(ended) => self.finish(&mut driver, &world, ended, (None, None)),
            Err(_) => check_harm(&world),
        };
        print_journal(&world);
        match finished {
            Ok(()) => Some(Baseline {
                snapshots,
                fingerprints,
                calls,
                reaches_goal,
            }),
            Err(reason) => {
                self.fail(None, reason);
                None
            }
        }
    }

    /// Remembers that every run from the states of a run without a fault was judged.
    fn remember(&mut self, baseline: &Baseline) {
        if self.results.judged.len() > MAX_JUDGED {
            self.results.judged.clear();
        }
        let judged = self.world.judged();
        let states = baseline.snapshots.iter().map(|known| {
            let number = shared_fingerprint(&known.driver, &known.world, judged);
            (number, baseline.reaches_goal)
        });
        self.results.judged.extend(states);
    }

    /// Returns true if a run is in a state that was judged, and nothing of a fault is to come. A world
    /// that reaches its goal must not get into one that does not.
    fn is_judged(&self, baseline: &Baseline, driver: &Driver, world: &World) -> bool {
        let state = world.lock();
        if !state.is_settled() || state.harm.is_some() {
            return false;
        }
        baseline.fingerprints.contains(&fingerprint(driver, &state)) || {
            let shared = shared_fingerprint(driver, &state, self.world.judged());
            let known = self.results.judged.get(&shared);
            known.is_some_and(|reaches_goal| *reaches_goal || !baseline.reaches_goal)
        }
    }

    fn begin_journal(&self, world: &World) {
        if self.conditions.verbose {
            let mut state = world.lock();
            state.journal = Some(vec![state.clusters.describe()]);
        }
    }

    fn fail(&mut self, fault: Option<(u32, Fault)>, reason: String) {
        let world = self.world;
        self.results.tally.fail(Failure {
            world,
            fault,
            reason,
        });
    }

    /// Runs the world with a fault at a call.
    fn run_fault(&mut self, baseline: &Baseline, call: u32, fault: Fault) {
        let snapshot = baseline.before(call);
        let world = World::restored(&snapshot.world);
        self.begin_journal(&world);
        match fault {
            Fault::EarlierWrite(calls) => world.lock().pending = Some(self.earlier_write(calls)),
            fault => world.arm(call, fault),
        }
        let mut driver = snapshot.driver.clone();
        let ended = driver.run(&world, |driver, world| {
            self.is_judged(baseline, driver, world).then_some(())
        });
        let merged = ended.is_err();
        self.results
            .tally
            .count_run(self.world.stage, fault, merged, ended.as_ref().ok());
        let Ok(ended) = ended else { return };
        if let Err(reason) = self.finish(&mut driver, &world, ended, (Some(baseline), Some(fault)))
        {
            if self.conditions.verbose {
                println!("{fault} at call {call}: {reason}");
            }
            self.fail(Some((call, fault)), reason);
            print_journal(&world);
        }
    }

    /// Returns the write of the operation before, which is still on its way.
    fn earlier_write(&self, arrives: u32) -> PendingWrite {
        let cell = super::cells::cell_of(&self.stage.open_targets[0]);
        PendingWrite {
            cell,
            value: super::cells::Value::revision(super::cells::NEW),
            version: self.world.clusters().version(cell),
            arrives,
        }
    }

    /// Judges the end of a run. If the operation stopped, the fault ends, and a retry has to lead to
    /// the goal: without further ado after a fault in a world that reaches its goal by itself, and
    /// otherwise after a person has mended the world.
    fn finish(
        &mut self,
        driver: &mut Driver,
        world: &World,
        mut ended: Ending,
        (known, fault): (Option<&Baseline>, Option<Fault>),
    ) -> Result<(), String> {
        let mut mended = false;
        let looked_back = matches!(fault, Some(Fault::StaleLook(_)));
        for retries in 0..=MAX_RETRIES {
            world.lock().deliver(u32::MAX);
            check_harm(world)?;
            if retries == 0 {
                check_restarts(world)?;
            }
            match ended {
                // A look from before a change may hide a pod without a sidecar.
                Ending::Succeeded => {
                    return check_goal(&self.world, &world.lock().clusters, !looked_back);
                }
                Ending::Endless => return Err("the operation neither ends nor stops".to_owned()),
                Ending::Paused(problem) | Ending::Failed(problem)
                    if problem.code.known().is_none() || problem.message.is_empty() =>
                {
                    return Err("the operation stops without a reason".to_owned());
                }
                Ending::Paused(_) => world.lock().heal(),
                Ending::Failed(_) => self.restore(driver, world)?,
            }
            // A stale look can begin a restart that only a person can end, because the pods of its
            // workload are refused.
            let sound = known.is_some_and(|known| known.reaches_goal) && !looked_back;
            if !mended && !sound && (known.is_none() || retries > 0) {
                mend(&self.world, &mut world.lock().clusters);
                mended = true;
            }
            driver.retry();
            world.lock().note(|| "a person asks for a retry".to_owned());
            let same = |driver: &Driver, world: &World| {
                let known = known.filter(|_| !mended)?;
                self.is_judged(known, driver, world).then_some(())
            };
            match driver.run(world, same) {
                // The rest of the run was judged as a part of the run without a fault.
                Err(()) => return Ok(()),
                Ok(next) => ended = next,
            }
        }
        Err(format!(
            "{MAX_RETRIES} retries do not lead to the goal: {ended:?}"
        ))
    }

    /// Restores the tags of a failed promotion, and lets the promotion begin again.
    fn restore(&self, driver: &mut Driver, world: &World) -> Result<(), String> {
        world.lock().heal();
        let started: Vec<_> = driver.started().collect();
        let stage = Arc::new(Stage::restore(started));
        let mut restoration = Driver::new(stage, RESTORATION, self.conditions.planted);
        for _ in 0..=MAX_RETRIES {
            match restoration.run(world, |_, _| None::<()>) {
                Ok(Ending::Succeeded) => {
                    *driver = Driver::new(self.stage.clone(), REPETITION, self.conditions.planted);
                    return Ok(());
                }
                Ok(Ending::Paused(_)) => {
                    world.lock().clusters.up = [true; 2];
                    restoration.retry();
                }
                ended => return Err(format!("the tags were not restored: {ended:?}")),
            }
        }
        Err("the tags were not restored".to_owned())
    }
}

/// Returns the first harm of a run as an error.
fn check_harm(world: &World) -> Result<(), String> {
    world.lock().harm.clone().map_or(Ok(()), Err)
}

/// Checks that no fault has made a workload restart twice.
fn check_restarts(world: &World) -> Result<(), String> {
    let state = world.lock();
    let restarts = state.clusters.workloads.map(|known| known.restarts);
    match restarts.into_iter().max() {
        Some(most @ 2..) => Err(format!("a workload was restarted {most} times")),
        _ => Ok(()),
    }
}

/// Prints the calls of a run, if they were recorded.
fn print_journal(world: &World) {
    let lines = world.lock().journal.take().unwrap_or_default();
    if !lines.is_empty() {
        println!("{}\n", lines.join("\n"));
    }
}
