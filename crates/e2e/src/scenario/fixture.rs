//! Prepares what the scenarios share, and runs one scenario on it.

use std::path::Path;

use anyhow::Context as _;

use super::start_state::{StartState, SuiteLab, restore_lab};
use super::{PartTimings, bring_up_mesh};
use crate::Result;
use crate::lab::Lab;
use crate::named_tests::{FailureLog, catch_panic};
use crate::worker::PausableLabWorker;

/// The lab of all scenarios, and their failures so far.
pub(super) struct SuiteFixture {
    on: SuiteLab,
    failures: FailureLog,
}

impl SuiteFixture {
    /// Starts a lab and Meshwright with a mesh. `worker` has further arguments of the worker.
    pub(super) fn prepare(
        lab: &str,
        dir: &Path,
        listen: &str,
        catalogue: &[(&str, &str)],
        worker: &[&str],
    ) -> Result<Self> {
        let mut parts = PartTimings::new();
        let lab = parts.run_part("start a lab", || Lab::start(lab, 2))?;
        let (server, worker) = parts.run_part("start Meshwright", || {
            PausableLabWorker::start_with_server(&lab, dir, listen, catalogue, worker)
        })?;
        bring_up_mesh(&lab, &server, &mut parts)?;
        let dir = dir.to_owned();
        Ok(Self {
            on: SuiteLab {
                worker,
                server,
                lab,
                dir,
            },
            failures: FailureLog::default(),
        })
    }

    /// Brings the lab to the state that the scenario begins with, and runs the scenario.
    pub(super) fn run_scenario(
        &mut self,
        title: &str,
        start: StartState,
        check: impl FnOnce(&SuiteLab) -> Result<()>,
    ) -> Result<()> {
        let Self { on, failures } = self;
        failures.restore_with(|| restore_lab(on))?;
        let done = catch_panic(|| {
            start.bring_about(on).context(
                "not run: the lab could not be brought to the state that it begins with",
            )?;
            check(on)
        });
        if done.is_err() {
            failures.record_failure(title);
        }
        done
    }
}
