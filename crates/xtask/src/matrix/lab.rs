//! Runs chosen cuts on the lab: real workers behind relays are killed or stopped, and the API
//! servers' audit logs show what they wrote.
//!
//! Each worker is cut off at its boundary and is the predecessor of the next one, so one canary and
//! one rollback see all cuts.

use std::path::Path;
use std::time::Duration;

use meshwright_testkit::relay::{CutPoint, Relay};
use serde_json::Value;

use super::Totals;
use crate::Result;
use crate::lab::{Audit, Lab, accepted, until};
use crate::scenario::{
    CATALOGUE, NEW_RELEASE, OLD_RELEASE, PartTimings, apply_verb, bring_up_mesh, plan_upgrade,
    text_field,
};
use crate::server::Server;
use crate::story::{carries, is_gone, stamps};
use crate::worker::{Step, Worker};

/// Point at which a worker is cut off, and its fate there.
struct Boundary {
    step: Step,
    moment: CutPoint,
    fate: Fate,
}

/// Treatment of the worker at the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The worker gets `SIGKILL`.
    Killed,
    /// The worker gets `SIGSTOP`, and `SIGCONT` when its successor has continued the work.
    Continued,
    /// The worker gets the same signals, and the operation is paused in between.
    ContinuedInPause,
}

const fn at(kind: &'static str, title: &'static str, moment: CutPoint, fate: Fate) -> Boundary {
    Boundary {
        step: Step { kind, title },
        moment,
        fate,
    }
}

/// Cuts of a canary, in the order in which they come.
const CANARY: [Boundary; 6] = [
    at(
        "deploy",
        "control plane 1-27-9 →",
        CutPoint::BeforeEffect,
        Fate::Continued,
    ),
    at(
        "deploy",
        "tag canary in c1",
        CutPoint::AfterEffect,
        Fate::Killed,
    ),
    at(
        "promote",
        "tag default in c1",
        CutPoint::BeforeEffect,
        Fate::Continued,
    ),
    at(
        "promote",
        "tag default in c2",
        CutPoint::Recording,
        Fate::Killed,
    ),
    at(
        "roll",
        "restart ",
        CutPoint::BeforeEffect,
        Fate::ContinuedInPause,
    ),
    at(
        "retire",
        "remove objects of 1-25-1 in c1",
        CutPoint::AfterEffect,
        Fate::Continued,
    ),
];
/// Cuts of a rollback, in the order in which they come.
const ROLLBACK: [Boundary; 3] = [
    at(
        "rollback",
        "tag stable in c1",
        CutPoint::BeforeEffect,
        Fate::Continued,
    ),
    at("rollback", "restart ", CutPoint::AfterEffect, Fate::Killed),
    at(
        "rollback",
        "remove control plane 1-27-9",
        CutPoint::BeforeEffect,
        Fate::Continued,
    ),
];

const LIMIT: Duration = Duration::from_mins(2);
/// Time for which a worker that woke up late is watched.
const WATCHED: Duration = Duration::from_secs(2);
const CLUSTERS: [&str; 3] = ["hosting", "c1", "c2"];

pub(super) fn matrix(dir: &Path, runtime: &tokio::runtime::Runtime) -> Result<Totals> {
    let mut parts = PartTimings::new();
    let lab = parts.run_part("start a lab", || Lab::start("matrix", 2))?;
    let server = parts.run_part("start Meshwright without a worker", || {
        Server::start(&lab, dir, "127.0.0.1:18090", &CATALOGUE, &["--no-work"])
    })?;
    let mut stage = Stage {
        lab: &lab,
        server: &server,
        runtime,
        born: 0,
    };
    let first = stage.worker(None)?;
    bring_up_mesh(&lab, &server, &mut parts)?;
    let mut totals = Totals {
        boundaries: CANARY.len() + ROLLBACK.len(),
        ..Totals::default()
    };
    parts.run_part("a canary, and back with three cuts", || {
        let upgrade = plan_upgrade(&server, NEW_RELEASE.0, "canary", "3600")?;
        apply_verb(&server, "promote", &upgrade, "holding")?;
        // The first worker must not claim the operation that the first victim is meant to run.
        drop(first);
        stage.chain(&ROLLBACK, &upgrade, &mut totals, || {
            server.cli(&["upgrade", "rollback", &upgrade]).map(drop)
        })?;
        server.await_state(&upgrade, "rolled_back", LIMIT)?;
        judge(&lab, OLD_RELEASE, NEW_RELEASE.1, &mut totals);
        Ok(())
    })?;
    let before = stamps(&lab)?;
    parts.run_part("a canary with six cuts", || {
        let planned = [
            "upgrade",
            "plan",
            "demo",
            "--version",
            NEW_RELEASE.0,
            "--strategy",
            "canary",
            "--hold-seconds",
            "0",
        ];
        let upgrade = text_field(&server.ask(&planned)?, "id")?;
        stage.chain(&CANARY, &upgrade, &mut totals, || {
            server.cli(&["upgrade", "start", &upgrade]).map(drop)
        })?;
        server.await_state(&upgrade, "succeeded", LIMIT)?;
        judge(&lab, NEW_RELEASE, OLD_RELEASE.1, &mut totals);
        Ok(())
    })?;
    for (workload, count) in stamps(&lab)? {
        let restarts = count - before.get(&workload).copied().unwrap_or(0);
        if restarts > 1 {
            totals.doubled += 1;
            eprintln!("doubled: {workload} was restarted {restarts} times");
        }
    }
    Ok(totals)
}

/// Checks that every live pod carries the wanted revision and that nothing of the other one is
/// left: objects that a late worker made must have been removed too.
fn judge(lab: &Lab, wanted: crate::scenario::LabRelease, gone: &str, totals: &mut Totals) {
    let verdict = carries(lab, wanted.1, wanted.2).and_then(|_| is_gone(lab, gone));
    if let Err(error) = verdict {
        totals.lost += 1;
        eprintln!("lost: {error}");
    }
}

struct Stage<'a> {
    lab: &'a Lab,
    server: &'a Server,
    runtime: &'a tokio::runtime::Runtime,
    born: usize,
}

impl Stage<'_> {
    fn worker(&mut self, boundary: Option<&'static Boundary>) -> Result<Worker> {
        self.born += 1;
        let name = format!("cut-{}", self.born);
        let relay = boundary.map(|boundary| {
            let _inside = self.runtime.enter();
            let relay = Relay::start(&self.server.postgres());
            relay.stop_at(
                boundary.moment,
                boundary.step.record(self.server.client(), boundary.moment),
            );
            relay
        });
        Worker::start(
            self.lab,
            self.server,
            &name,
            relay,
            &["--lease-seconds", "4"],
        )
    }

    /// Cuts off one worker after the other, each at its boundary; the last worker runs the
    /// operation to its end.
    fn chain(
        &mut self,
        boundaries: &'static [Boundary],
        upgrade: &str,
        totals: &mut Totals,
        begin: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut begin = Some(begin);
        let mut stopped: Option<(Worker, &Boundary)> = None;
        for boundary in boundaries {
            let worker = self.worker(Some(boundary))?;
            if let Some(begin) = begin.take() {
                begin()?;
            }
            let relay = worker.relay.as_ref().expect("a victim has one");
            // A person must ask for the promotion before the first boundary in it can be reached.
            if boundary.step.kind == "promote" && boundary.step.title.ends_with("c1") {
                self.server.await_state(upgrade, "verifying", LIMIT)?;
                self.server.cli(&["upgrade", "promote", upgrade])?;
            }
            if !self.runtime.block_on(relay.wait_for_stop(LIMIT)) {
                return Err(format!(
                    "{} never came to {}",
                    worker.name, boundary.step.title
                ));
            }
            println!(
                "  {} {:?} at {} ({:?})",
                worker.name, boundary.fate, boundary.step.title, boundary.moment
            );
            self.settle(stopped.take(), totals)?;
            if boundary.moment == CutPoint::AfterEffect {
                // Give the request that was sent time to arrive.
                std::thread::sleep(Duration::from_secs(1));
            }
            worker.signal(if boundary.fate == Fate::Killed {
                "KILL"
            } else {
                "STOP"
            })?;
            if boundary.fate == Fate::ContinuedInPause {
                self.paused(upgrade, &worker, totals)?;
            } else {
                stopped = Some((worker, boundary));
            }
        }
        let last = self.worker(None)?;
        until("the last worker has gone on", LIMIT, || {
            let state = self.server.ask(&["upgrade", "get", upgrade]).ok()?;
            (state["done"] == true).then_some(())
        })?;
        self.settle(stopped, totals)?;
        drop(last);
        Ok(())
    }

    /// Wakes a worker whose successor has continued, and counts the verdict: no cluster may accept
    /// a write that it still sends.
    fn settle(&self, stopped: Option<(Worker, &Boundary)>, totals: &mut Totals) -> Result<()> {
        let Some((worker, boundary)) = stopped else {
            return Ok(());
        };
        let verdict = if boundary.fate == Fate::Killed {
            None
        } else {
            self.late(&worker)?
        };
        totals.count(boundary.step.title, verdict);
        Ok(())
    }

    /// Lets a stopped worker continue, and returns the first write of it that a cluster accepted.
    fn late(&self, worker: &Worker) -> Result<Option<String>> {
        let mut audits: Vec<Audit> = CLUSTERS
            .iter()
            .map(|cluster| self.lab.audit(cluster))
            .collect::<Result<_>>()?;
        worker.relay.as_ref().expect("a victim has one").resume();
        worker.signal("CONT")?;
        std::thread::sleep(WATCHED);
        for audit in &mut audits {
            let late = audit
                .fresh()?
                .into_iter()
                .find(|entry| writes(entry, &worker.name) && accepted(entry));
            if let Some(entry) = late {
                return Ok(Some(format!(
                    "late: {} {} {}",
                    worker.name, entry["verb"], entry["requestURI"]
                )));
            }
        }
        Ok(None)
    }

    /// Starts a successor that pauses the operation, and wakes the stopped worker when the pause is
    /// visible.
    fn paused(&mut self, upgrade: &str, worker: &Worker, totals: &mut Totals) -> Result<()> {
        self.server.cli(&["upgrade", "pause", upgrade])?;
        let successor = self.worker(None)?;
        self.server.await_state(upgrade, "paused", LIMIT)?;
        totals.count("paused", self.late(worker)?);
        drop(successor);
        self.server.cli(&["upgrade", "resume", upgrade]).map(drop)
    }
}

fn writes(entry: &Value, worker: &str) -> bool {
    let by = entry["userAgent"]
        .as_str()
        .is_some_and(|agent| agent.ends_with(&format!("({worker})")));
    by && ["create", "update", "patch", "delete"]
        .iter()
        .any(|verb| entry["verb"] == *verb)
}
