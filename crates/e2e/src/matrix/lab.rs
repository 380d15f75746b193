//! Runs chosen cuts on the lab: real workers behind relays are killed or stopped, and the API
//! servers' audit logs show what they wrote.
//!
//! Each worker is cut off at its boundary and is the predecessor of the next one, so one canary and
//! one rollback see all cuts.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use meshwright_testkit::relay::{CutPoint, Relay};
use serde_json::Value;

use super::MatrixTotals;
use crate::Result;
use crate::assertions::{assert_revision_gone, assert_sidecars, restarts_per_workload};
use crate::lab::{AuditLogTail, Lab, is_accepted, wait_until};
use crate::scenario::{
    CATALOGUE, NEW_RELEASE, OLD_RELEASE, PartTimings, apply_verb, bring_up_mesh, plan_upgrade,
    text_field,
};
use crate::server::DevServer;
use crate::worker::{StepSelector, WorkerProcess};

/// Point at which a worker is cut off, and its fate there.
struct CutBoundary {
    step: StepSelector,
    moment: CutPoint,
    fate: LabInterruption,
}

/// Treatment of the worker at the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LabInterruption {
    /// The worker gets `SIGKILL`.
    Killed,
    /// The worker gets `SIGSTOP`, and `SIGCONT` when its successor has continued the work.
    Suspended,
    /// The worker gets the same signals, and the operation is paused in between.
    SuspendedDuringPause,
}

const fn cut_at(
    kind: &'static str,
    title: &'static str,
    moment: CutPoint,
    fate: LabInterruption,
) -> CutBoundary {
    CutBoundary {
        step: StepSelector { kind, title },
        moment,
        fate,
    }
}

/// Cuts of a canary, in the order in which they come.
const CANARY_CUTS: [CutBoundary; 6] = [
    cut_at(
        "deploy",
        "control plane 1-27-9 →",
        CutPoint::BeforeEffect,
        LabInterruption::Suspended,
    ),
    cut_at(
        "deploy",
        "tag canary in c1",
        CutPoint::AfterEffect,
        LabInterruption::Killed,
    ),
    cut_at(
        "promote",
        "tag default in c1",
        CutPoint::BeforeEffect,
        LabInterruption::Suspended,
    ),
    cut_at(
        "promote",
        "tag default in c2",
        CutPoint::Recording,
        LabInterruption::Killed,
    ),
    cut_at(
        "roll",
        "restart ",
        CutPoint::BeforeEffect,
        LabInterruption::SuspendedDuringPause,
    ),
    cut_at(
        "retire",
        "remove objects of 1-25-1 in c1",
        CutPoint::AfterEffect,
        LabInterruption::Suspended,
    ),
];
/// Cuts of a rollback, in the order in which they come.
const ROLLBACK_CUTS: [CutBoundary; 3] = [
    cut_at(
        "rollback",
        "tag stable in c1",
        CutPoint::BeforeEffect,
        LabInterruption::Suspended,
    ),
    cut_at(
        "rollback",
        "restart ",
        CutPoint::AfterEffect,
        LabInterruption::Killed,
    ),
    cut_at(
        "rollback",
        "remove control plane 1-27-9",
        CutPoint::BeforeEffect,
        LabInterruption::Suspended,
    ),
];

const STATE_TIMEOUT: Duration = Duration::from_mins(2);
/// Time for which a worker that woke up late is watched.
const LATE_WRITE_WATCH: Duration = Duration::from_secs(2);
const ALL_CLUSTERS: [&str; 3] = ["hosting", "c1", "c2"];

pub(super) fn run_lab_matrix(
    dir: &Path,
    runtime: &tokio::runtime::Runtime,
) -> Result<MatrixTotals> {
    let mut parts = PartTimings::new();
    let lab = parts.run_part("start a lab", || Lab::start("matrix", 2))?;
    let server = parts.run_part("start Meshwright without a worker", || {
        DevServer::start(&lab, dir, "127.0.0.1:18090", &CATALOGUE, &["--no-work"])
    })?;
    let mut stage = MatrixStage {
        lab: &lab,
        server: &server,
        runtime,
        workers_started: 0,
    };
    let first = stage.start_worker(None)?;
    bring_up_mesh(&lab, &server, &mut parts)?;
    let mut totals = MatrixTotals {
        boundaries: CANARY_CUTS.len() + ROLLBACK_CUTS.len(),
        ..MatrixTotals::default()
    };
    parts.run_part("a canary, and back with three cuts", || {
        let upgrade = plan_upgrade(&server, NEW_RELEASE.0, "canary", "3600")?;
        apply_verb(&server, "promote", &upgrade, "holding")?;
        // The first worker must not claim the operation that the first victim is meant to run.
        drop(first);
        stage.run_cut_chain(&ROLLBACK_CUTS, &upgrade, &mut totals, || {
            server.run_cli(&["upgrade", "rollback", &upgrade]).map(drop)
        })?;
        server.wait_for_state(&upgrade, "rolled_back", STATE_TIMEOUT)?;
        check_end_state(&lab, OLD_RELEASE, NEW_RELEASE.1, &mut totals);
        Ok(())
    })?;
    let before = restarts_per_workload(&lab)?;
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
        let upgrade = text_field(&server.run_json(&planned)?, "id")?;
        stage.run_cut_chain(&CANARY_CUTS, &upgrade, &mut totals, || {
            server.run_cli(&["upgrade", "start", &upgrade]).map(drop)
        })?;
        server.wait_for_state(&upgrade, "succeeded", STATE_TIMEOUT)?;
        check_end_state(&lab, NEW_RELEASE, OLD_RELEASE.1, &mut totals);
        Ok(())
    })?;
    for (workload, count) in restarts_per_workload(&lab)? {
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
fn check_end_state(
    lab: &Lab,
    wanted: crate::scenario::LabRelease,
    gone: &str,
    totals: &mut MatrixTotals,
) {
    let verdict =
        assert_sidecars(lab, wanted.1, wanted.2).and_then(|_| assert_revision_gone(lab, gone));
    if let Err(error) = verdict {
        totals.lost += 1;
        eprintln!("lost: {error:#}");
    }
}

struct MatrixStage<'a> {
    lab: &'a Lab,
    server: &'a DevServer,
    runtime: &'a tokio::runtime::Runtime,
    workers_started: usize,
}

impl MatrixStage<'_> {
    fn start_worker(&mut self, boundary: Option<&'static CutBoundary>) -> Result<WorkerProcess> {
        self.workers_started += 1;
        let name = format!("cut-{}", self.workers_started);
        let relay = boundary.map(|boundary| {
            let _inside = self.runtime.enter();
            let relay = Relay::start(&self.server.postgres_dir());
            relay.stop_at(
                boundary.moment,
                boundary
                    .step
                    .record_matcher(self.server.clone_client(), boundary.moment),
            );
            relay
        });
        WorkerProcess::start(
            self.lab,
            self.server,
            &name,
            relay,
            &["--lease-seconds", "4"],
        )
    }

    /// Cuts off one worker after the other, each at its boundary; the last worker runs the
    /// operation to its end.
    fn run_cut_chain(
        &mut self,
        boundaries: &'static [CutBoundary],
        upgrade: &str,
        totals: &mut MatrixTotals,
        begin: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut begin = Some(begin);
        let mut stopped: Option<(WorkerProcess, &CutBoundary)> = None;
        for boundary in boundaries {
            let worker = self.start_worker(Some(boundary))?;
            if let Some(begin) = begin.take() {
                begin()?;
            }
            let relay = worker.relay.as_ref().expect("a victim has one");
            // A person must ask for the promotion before the first boundary in it can be reached.
            if boundary.step.kind == "promote" && boundary.step.title.ends_with("c1") {
                self.server
                    .wait_for_state(upgrade, "verifying", STATE_TIMEOUT)?;
                self.server.run_cli(&["upgrade", "promote", upgrade])?;
            }
            if !self.runtime.block_on(relay.wait_for_stop(STATE_TIMEOUT)) {
                bail!("{} never came to {}", worker.name, boundary.step.title);
            }
            println!(
                "  {} {:?} at {} ({:?})",
                worker.name, boundary.fate, boundary.step.title, boundary.moment
            );
            self.resume_and_count(stopped.take(), totals)?;
            if boundary.moment == CutPoint::AfterEffect {
                // Give the request that was sent time to arrive.
                std::thread::sleep(Duration::from_secs(1));
            }
            worker.send_signal(if boundary.fate == LabInterruption::Killed {
                "KILL"
            } else {
                "STOP"
            })?;
            if boundary.fate == LabInterruption::SuspendedDuringPause {
                self.pause_and_resume(upgrade, &worker, totals)?;
            } else {
                stopped = Some((worker, boundary));
            }
        }
        let last = self.start_worker(None)?;
        wait_until("the last worker has gone on", STATE_TIMEOUT, || {
            let state = self.server.run_json(&["upgrade", "get", upgrade]).ok()?;
            (state["done"] == true).then_some(())
        })?;
        self.resume_and_count(stopped, totals)?;
        drop(last);
        Ok(())
    }

    /// Wakes a worker whose successor has continued, and counts the verdict: no cluster may accept
    /// a write that it still sends.
    fn resume_and_count(
        &self,
        stopped: Option<(WorkerProcess, &CutBoundary)>,
        totals: &mut MatrixTotals,
    ) -> Result<()> {
        let Some((worker, boundary)) = stopped else {
            return Ok(());
        };
        let verdict = if boundary.fate == LabInterruption::Killed {
            None
        } else {
            self.find_late_write(&worker)?
        };
        totals.count_verdict(boundary.step.title, verdict);
        Ok(())
    }

    /// Lets a stopped worker continue, and returns the first write of it that a cluster accepted.
    fn find_late_write(&self, worker: &WorkerProcess) -> Result<Option<String>> {
        let mut audits: Vec<AuditLogTail> = ALL_CLUSTERS
            .iter()
            .map(|cluster| self.lab.tail_audit_log(cluster))
            .collect::<Result<_>>()?;
        worker.relay.as_ref().expect("a victim has one").resume();
        worker.send_signal("CONT")?;
        std::thread::sleep(LATE_WRITE_WATCH);
        for audit in &mut audits {
            let late = audit
                .read_new_entries()?
                .into_iter()
                .find(|entry| is_write_by(entry, &worker.name) && is_accepted(entry));
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
    fn pause_and_resume(
        &mut self,
        upgrade: &str,
        worker: &WorkerProcess,
        totals: &mut MatrixTotals,
    ) -> Result<()> {
        self.server.run_cli(&["upgrade", "pause", upgrade])?;
        let successor = self.start_worker(None)?;
        self.server
            .wait_for_state(upgrade, "paused", STATE_TIMEOUT)?;
        totals.count_verdict("paused", self.find_late_write(worker)?);
        drop(successor);
        self.server
            .run_cli(&["upgrade", "resume", upgrade])
            .map(drop)
    }
}

fn is_write_by(entry: &Value, worker: &str) -> bool {
    let by = entry["userAgent"]
        .as_str()
        .is_some_and(|agent| agent.ends_with(&format!("({worker})")));
    by && ["create", "update", "patch", "delete"]
        .iter()
        .any(|verb| entry["verb"] == *verb)
}
