//! Runs workers on the lab as separate processes, which can be stopped right before a step.

use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::anyhow;
use meshwright_model::ids::OperationId;
use meshwright_testkit::relay::{CutPoint, RecordMatcher, Relay, StepRecord};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::lab::Lab;
use crate::process::ChildProcess;
use crate::server::{CliClient, DevServer, LAB_SERVER_ARGS};
use crate::{Result, run_command};

const PAUSE_TIMEOUT: Duration = Duration::from_secs(90);

/// A step of an operation, found by the texts that people read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepSelector {
    /// Kind of the operation, such as `promote`.
    pub(crate) kind: &'static str,
    /// Text that the title of the step contains.
    pub(crate) title: &'static str,
}

impl StepSelector {
    /// Returns a matcher for the record that starts such a step, or, for [`CutPoint::Recording`],
    /// the record that it is done.
    pub(crate) fn record_matcher(self, client: CliClient, moment: CutPoint) -> RecordMatcher {
        Box::new(move |sent| {
            let numbers = if moment == CutPoint::Recording {
                &sent.done
            } else {
                &sent.started
            };
            !numbers.is_empty() && self.matches_any(&client, sent, numbers)
        })
    }

    /// Asks the service which steps these numbers are, and whether one of them is this step.
    fn matches_any(self, client: &CliClient, sent: &StepRecord, numbers: &[i32]) -> bool {
        let Ok(operation) =
            client.run_json(&["operation", "get", &OperationId(sent.operation).to_string()])
        else {
            return false;
        };
        let steps = operation["waves"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|wave| wave["steps"].as_array())
            .flatten();
        let meant = |step: &Value| {
            let number = step["number"]
                .as_i64()
                .and_then(|number| i32::try_from(number).ok());
            let title = step["title"].as_str().unwrap_or_default();
            number.is_some_and(|number| numbers.contains(&number)) && title.contains(self.title)
        };
        operation["kind"] == self.kind && steps.into_iter().any(meant)
    }
}

/// A running worker, with or without a relay before its database; it is killed when this value is
/// dropped.
pub(crate) struct WorkerProcess {
    pub(crate) name: String,
    process: ChildProcess,
    pub(crate) relay: Option<Relay>,
}

/// Starts a worker whose database has its socket in the folder `socket_dir`.
fn spawn_worker(
    lab: &Lab,
    server: &DevServer,
    name: &str,
    socket_dir: &Path,
    more: &[&str],
) -> Result<ChildProcess> {
    let state = server.state_dir();
    let limit = "options=-c%20idle_in_transaction_session_timeout%3D1500";
    let url = format!(
        "postgres://mw_worker@localhost/meshwright?host={}&{limit}",
        socket_dir.display()
    );
    let log = std::fs::File::create(state.join(format!("{name}.log")))?;
    let mut run = lab.command_in_network(None);
    run.args([
        "target/debug/meshwright-server",
        "work",
        "--worker-name",
        name,
        "--database-url",
        &url,
    ]);
    run.args(["--helm", &lab.helm_binary()?, "--server-secret-file"])
        .arg(state.join("vault-key"));
    run.args(LAB_SERVER_ARGS)
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    ChildProcess::start(name, &mut run)
}

impl WorkerProcess {
    pub(crate) fn start(
        lab: &Lab,
        server: &DevServer,
        name: &str,
        relay: Option<Relay>,
        more: &[&str],
    ) -> Result<Self> {
        let postgres = server.postgres_dir();
        let socket_dir = relay.as_ref().map_or(postgres.as_path(), Relay::socket_dir);
        let process = spawn_worker(lab, server, name, socket_dir, more)?;
        Ok(Self {
            name: name.to_owned(),
            process,
            relay,
        })
    }

    pub(crate) fn send_signal(&self, signal: &str) -> Result<()> {
        let pid = self.process.id().to_string();
        run_command(std::process::Command::new("kill").args([&format!("-{signal}"), &pid]))
            .map(drop)
    }
}

/// The only worker of a lab, which can be stopped at its records: so a test acts right before a
/// step, on slow and on fast machines alike.
pub(crate) struct PausableLabWorker {
    // Field order matters: the worker and its relay are dropped before the runtime, because the
    // relay's tasks run on it.
    process: Mutex<Option<ChildProcess>>,
    relay: Relay,
    /// Arguments of the worker besides those of each worker of a lab.
    more: Vec<String>,
    client: CliClient,
    runtime: Runtime,
}

impl PausableLabWorker {
    /// Starts the worker, and a server that runs no operations itself.
    pub(crate) fn start_with_server(
        lab: &Lab,
        dir: &Path,
        listen: &str,
        catalogue: &[(&str, &str)],
        more: &[&str],
    ) -> Result<(DevServer, Self)> {
        let server = DevServer::start(lab, dir, listen, catalogue, &["--no-work"])?;
        let runtime = Runtime::new()?;
        let relay = {
            let _inside = runtime.enter();
            Relay::start(&server.postgres_dir())
        };
        let process = spawn_worker(lab, &server, "holdable", relay.socket_dir(), more)?;
        let client = server.clone_client();
        Ok((
            server,
            Self {
                process: Mutex::new(Some(process)),
                relay,
                more: more.iter().map(|&more| more.to_owned()).collect(),
                client,
                runtime,
            },
        ))
    }

    /// Kills the worker with `SIGKILL`, and starts another one with this name.
    pub(crate) fn kill_and_replace(&self, lab: &Lab, server: &DevServer, name: &str) -> Result<()> {
        let mut process = self.process.lock().expect("no holder panics");
        drop(process.take());
        let more: Vec<&str> = self.more.iter().map(String::as_str).collect();
        *process = Some(spawn_worker(
            lab,
            server,
            name,
            self.relay.socket_dir(),
            &more,
        )?);
        Ok(())
    }

    /// Stops the worker when it is about to start a step; the worker continues when the returned
    /// value is dropped.
    pub(crate) fn pause_before(
        &self,
        step: StepSelector,
        begin: impl FnOnce() -> Result<()>,
    ) -> Result<PauseGuard<'_>> {
        self.relay.stop_at(
            CutPoint::BeforeEffect,
            step.record_matcher(self.client.clone(), CutPoint::BeforeEffect),
        );
        let stopped = begin().and_then(|()| {
            let stopped = self.relay.wait_for_stop(PAUSE_TIMEOUT);
            if self.runtime.block_on(stopped) {
                Ok(())
            } else {
                Err(anyhow!("the worker never came to {}", step.title))
            }
        });
        match stopped {
            Ok(()) => Ok(PauseGuard(&self.relay)),
            Err(error) => {
                self.release();
                Err(error)
            }
        }
    }

    /// Lets the worker continue, and forgets the step that it was to be stopped at.
    pub(crate) fn release(&self) {
        self.relay
            .stop_at(CutPoint::BeforeEffect, Box::new(|_| false));
        self.relay.resume();
        // If the worker was stopped after the limit, the next pause must not take that for its own.
        self.runtime
            .block_on(self.relay.wait_for_stop(Duration::ZERO));
    }
}

/// A stopped worker; it continues when this value is dropped.
pub(crate) struct PauseGuard<'a>(&'a Relay);

impl Drop for PauseGuard<'_> {
    fn drop(&mut self) {
        self.0.resume();
    }
}
