//! Starts a lab and gives access to its clusters, its processes and the audit logs of its API
//! servers.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::{Result, run_command};

/// A running lab; it is taken down when this value is dropped.
pub(crate) struct Lab {
    name: String,
    state: Value,
    keep_running: bool,
}

fn lab_command(name: &str, command: &str) -> Command {
    let mut run = Command::new("tests/lab/lab");
    run.args([command, "--name", name]);
    run
}

/// Calls `ask` every 300 ms until it returns a value.
///
/// # Errors
///
/// Returns an error when the limit has passed.
pub(crate) fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Option<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if start.elapsed() > limit {
            bail!("gave up after {} s waiting until {what}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

impl Lab {
    /// Starts a lab with this number of user clusters. Its builds and its progress are printed.
    pub(crate) fn start(name: &str, users: usize) -> Result<Self> {
        Self::start_without(name, users, &[])
    }

    /// Starts a lab without waiting for programs that are still being built.
    pub(crate) fn start_without(name: &str, users: usize, later: &[&str]) -> Result<Self> {
        let later = later.iter().flat_map(|program| ["--later", program]);
        let started = lab_command(name, "up")
            .arg("--user-clusters")
            .arg(users.to_string())
            .args(later)
            .status();
        if !started?.success() {
            bail!("the lab did not start");
        }
        let state = run_command(lab_command(name, "status").args(["-o", "json"]))?;
        let state = serde_json::from_str(&state)?;
        Ok(Self {
            name: name.into(),
            state,
            keep_running: false,
        })
    }

    /// Leaves the lab running when this value is dropped.
    pub(crate) fn keep_running(&mut self) {
        self.keep_running = true;
    }

    fn state_text(&self, pointer: &str) -> Result<String> {
        self.state
            .pointer(pointer)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .with_context(|| format!("the lab does not say {pointer}"))
    }

    pub(crate) fn kubeconfig_path(&self, cluster: &str) -> Result<PathBuf> {
        let clusters = self.state["clusters"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let found = clusters
            .iter()
            .find(|known| known["name"] == cluster)
            .and_then(|known| known["kubeconfig"].as_str());
        found
            .map(PathBuf::from)
            .with_context(|| format!("the lab has no cluster {cluster}"))
    }

    pub(crate) fn run_kubectl(&self, cluster: &str, arguments: &[&str]) -> Result<String> {
        let mut run = lab_command(&self.name, "exec");
        run.arg("--")
            .arg(self.state_text("/kubernetes")?)
            .args(["kubectl", "--kubeconfig"])
            .arg(self.kubeconfig_path(cluster)?)
            .args(arguments);
        run_command(&mut run)
    }

    /// Returns the certificates of the authorities that these clusters' API servers use, as PEM.
    pub(crate) fn ca_bundle(&self, clusters: &[&str]) -> Result<String> {
        use base64::Engine as _;
        let field = "jsonpath={.clusters[0].cluster.certificate-authority-data}";
        let read = |cluster: &&str| {
            let text = self.run_kubectl(cluster, &["config", "view", "--raw", "-o", field])?;
            let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim());
            Ok(String::from_utf8_lossy(&bytes?).into_owned())
        };
        clusters.iter().map(read).collect()
    }

    /// Asks istioctl about a cluster, as an opinion that is independent of Meshwright.
    pub(crate) fn run_istioctl(&self, cluster: &str, arguments: &[&str]) -> Result<String> {
        let newest = self.state["releases"]
            .as_array()
            .and_then(|releases| releases.last())
            .and_then(|release| release["istioctl"].as_str());
        let mut run = lab_command(&self.name, "exec");
        run.arg("--")
            .arg(newest.context("the lab has no istioctl")?)
            .args(["istioctl", "--kubeconfig"]);
        run_command(run.arg(self.kubeconfig_path(cluster)?).args(arguments))
    }

    /// Sends a signal, such as `STOP`, to one of the lab's processes.
    pub(crate) fn signal_process(&self, process: &str, signal: &str) -> Result<()> {
        run_command(lab_command(&self.name, "signal").args([process, signal])).map(|_| ())
    }

    /// Stops one of the lab's processes until the returned value is dropped.
    pub(crate) fn stop_process<'a>(&'a self, process: &'a str) -> Result<StoppedProcess<'a>> {
        self.signal_process(process, "STOP")?;
        Ok(StoppedProcess { lab: self, process })
    }

    pub(crate) fn list_objects(&self, cluster: &str, what: &[&str]) -> Result<Vec<Value>> {
        let text = self.run_kubectl(cluster, &[&["get", "-o", "json"], what].concat())?;
        let list: Value = serde_json::from_str(&text)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Returns every object of every cluster, one a line, without the fields that differ between
    /// two dumps of the same state.
    pub(crate) fn dump_objects(&self) -> Result<Vec<String>> {
        let text = run_command(lab_command(&self.name, "dump").arg("--normal"))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Starts to record every watch event into a file.
    pub(crate) fn start_recording(&self, file: &Path) -> Result<Recorder> {
        let out = File::create(file)?;
        let errors = File::create(file.with_extension("err"))?;
        let process = lab_command(&self.name, "record")
            .stdout(out)
            .stderr(errors)
            .spawn();
        Ok(Recorder(process?))
    }

    /// Starts to build programs in the background. Output is shown only if the build fails.
    pub(crate) fn start_build(programs: &[&str]) -> Result<ProgramBuild> {
        let mut run = Command::new("tests/lab/lab");
        run.arg("build")
            .args(programs)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        Ok(ProgramBuild(run.spawn()?))
    }

    /// Returns a command that runs inside the lab's network; the address in `listen` is reachable
    /// from outside.
    pub(crate) fn command_in_network(&self, listen: Option<&str>) -> Command {
        let mut run = lab_command(&self.name, "exec");
        if let Some(address) = listen {
            run.args(["--listen", address]);
        }
        run.arg("--");
        run
    }

    /// Returns the path of the multi-call binary that also contains kubectl.
    pub(crate) fn kubernetes_binary(&self) -> Result<String> {
        self.state_text("/kubernetes")
    }

    pub(crate) fn helm_binary(&self) -> Result<String> {
        self.state_text("/helm")
    }

    /// Opens the audit log of a cluster's API server; entries from now on are read.
    pub(crate) fn tail_audit_log(&self, cluster: &str) -> Result<AuditLogTail> {
        let path = self.kubeconfig_path(cluster)?.with_file_name("audit.log");
        let offset = std::fs::metadata(&path)?.len();
        Ok(AuditLogTail { path, offset })
    }

    /// Returns the folder with the charts of a community version.
    pub(crate) fn charts_path(&self, version: &str) -> Result<String> {
        let releases = self.state["releases"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let found = releases
            .iter()
            .find(|release| release["version"] == version)
            .and_then(|known| known["charts"].as_str());
        found
            .map(str::to_owned)
            .with_context(|| format!("the lab has no charts of {version}"))
    }
}

/// A stopped process; it continues when this value is dropped.
pub(crate) struct StoppedProcess<'a> {
    lab: &'a Lab,
    process: &'a str,
}

impl Drop for StoppedProcess<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.lab.signal_process(self.process, "CONT") {
            eprintln!("e2e: {error:#}");
        }
    }
}

/// A build that runs in the background.
pub(crate) struct ProgramBuild(Child);

impl ProgramBuild {
    pub(crate) fn wait_for_build(self) -> Result<()> {
        let out = self.0.wait_with_output()?;
        if out.status.success() {
            Ok(())
        } else {
            bail!(String::from_utf8_lossy(&out.stderr).into_owned())
        }
    }
}

/// A running recording; it ends when this value is dropped.
pub(crate) struct Recorder(Child);

impl Drop for Recorder {
    fn drop(&mut self) {
        let asked = run_command(Command::new("kill").arg(self.0.id().to_string()));
        if let Err(error) = asked.and_then(|_| Ok(self.0.wait()?)) {
            eprintln!("e2e: {error:#}");
        }
    }
}

/// A position in the audit log of an API server.
pub(crate) struct AuditLogTail {
    path: PathBuf,
    offset: u64,
}

impl AuditLogTail {
    /// Returns the entries that were written since the last call.
    pub(crate) fn read_new_entries(&mut self) -> Result<Vec<Value>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        // Keep the last line for the next call if it is not complete yet.
        let whole = text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        self.offset += whole as u64;
        let lines = text[..whole]
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        lines
            .map(|line| Ok(serde_json::from_slice(line)?))
            .collect()
    }
}

/// Returns whether a request came from one of our workers, by its user agent.
pub(crate) fn is_from_meshwright(entry: &Value) -> bool {
    entry["userAgent"]
        .as_str()
        .is_some_and(|agent| agent.starts_with("meshwright/"))
}

pub(crate) fn is_accepted(entry: &Value) -> bool {
    entry
        .pointer("/responseStatus/code")
        .and_then(Value::as_i64)
        .is_some_and(|code| code < 300)
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.keep_running
            && let Err(error) = run_command(&mut lab_command(&self.name, "down"))
        {
            eprintln!("e2e: {error:#}");
        }
    }
}
