//! A running lab, and a server of ours inside it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Result, output};

/// One lab. Dropping it takes it down.
pub(crate) struct Lab {
    name: String,
    state: Value,
    keep: bool,
}

fn lab(name: &str, command: &str) -> Command {
    let mut run = Command::new("tests/lab/lab");
    run.args([command, "--name", name]);
    run
}

/// Repeats a question until it is answered.
pub(crate) fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if start.elapsed() > limit {
            return Err(format!("gave up after {} s waiting until {what}", limit.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

impl Lab {
    /// Starts a lab with so many user clusters. Its builds and its progress are shown.
    pub(crate) fn up(name: &str, users: usize) -> Result<Self> {
        let started = lab(name, "up").arg("--user-clusters").arg(users.to_string()).status();
        if !started.map_err(|error| error.to_string())?.success() {
            return Err("the lab did not start".into());
        }
        let state = output(lab(name, "status").args(["-o", "json"]))?;
        let state = serde_json::from_str(&state).map_err(|error| error.to_string())?;
        Ok(Self { name: name.into(), state, keep: false })
    }

    /// Leaves it running when this is dropped.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }

    fn text(&self, pointer: &str) -> Result<String> {
        self.state
            .pointer(pointer)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| format!("the lab does not say {pointer}"))
    }

    pub(crate) fn kubeconfig(&self, cluster: &str) -> Result<PathBuf> {
        let clusters = self.state["clusters"].as_array().cloned().unwrap_or_default();
        let found =
            clusters.iter().find(|known| known["name"] == cluster).and_then(|known| known["kubeconfig"].as_str());
        found.map(PathBuf::from).ok_or_else(|| format!("the lab has no cluster {cluster}"))
    }

    pub(crate) fn kubectl(&self, cluster: &str, arguments: &[&str]) -> Result<String> {
        let mut run = lab(&self.name, "exec");
        run.arg("--")
            .arg(self.text("/kubernetes")?)
            .args(["kubectl", "--kubeconfig"])
            .arg(self.kubeconfig(cluster)?)
            .args(arguments);
        output(&mut run)
    }

    /// What istioctl, an outside opinion, says about a cluster.
    pub(crate) fn istioctl(&self, cluster: &str, arguments: &[&str]) -> Result<String> {
        let newest = self.state["releases"]
            .as_array()
            .and_then(|releases| releases.last())
            .and_then(|release| release["istioctl"].as_str());
        let mut run = lab(&self.name, "exec");
        run.arg("--").arg(newest.ok_or("the lab has no istioctl")?).args(["istioctl", "--kubeconfig"]);
        output(run.arg(self.kubeconfig(cluster)?).args(arguments))
    }

    /// Sends a signal to one of the lab's processes.
    pub(crate) fn signal(&self, process: &str, signal: &str) -> Result<()> {
        output(lab(&self.name, "signal").args([process, signal])).map(|_| ())
    }

    pub(crate) fn get(&self, cluster: &str, what: &[&str]) -> Result<Vec<Value>> {
        let text = self.kubectl(cluster, &[&["get", "-o", "json"], what].concat())?;
        let list: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Every object of every cluster without what differs between two dumps of one state.
    pub(crate) fn dump(&self) -> Result<Vec<String>> {
        let text = output(lab(&self.name, "dump").arg("--normal"))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Begins to record every watch event into a file.
    pub(crate) fn record(&self, file: &Path) -> Result<Child> {
        let out = File::create(file).map_err(|error| error.to_string())?;
        lab(&self.name, "record").stdout(out).spawn().map_err(|error| error.to_string())
    }

    fn releases(&self) -> Vec<(String, String)> {
        let known = self.state["releases"].as_array().cloned().unwrap_or_default();
        let text = |release: &Value, key: &str| release[key].as_str().unwrap_or_default().to_owned();
        known.iter().map(|release| (text(release, "version"), text(release, "charts"))).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = output(&mut lab(&self.name, "down"))
        {
            eprintln!("xtask: {error}");
        }
    }
}

/// `meshwright-server dev` inside a lab's network, and the command line that talks to it.
pub(crate) struct Server {
    process: Child,
    dir: PathBuf,
    pub(crate) address: String,
}

impl Server {
    /// Starts it, with the lab's releases in the catalogue: each as build 1, and the newest as build 2 too.
    pub(crate) fn start(lab_running: &Lab, dir: &Path, listen: &str) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|error| error.to_string())?;
        let log = File::create(dir.join("server.log")).map_err(|error| error.to_string())?;
        let mut run = lab(&lab_running.name, "exec");
        run.args(["--listen", listen, "--", "target/debug/meshwright-server", "dev", "--hub", "lab", "--dir"])
            .arg(dir.join("server"));
        run.arg("--hosting-kubeconfig")
            .arg(lab_running.kubeconfig("hosting")?)
            .args(["--helm", &lab_running.text("/helm")?]);
        for (version, charts) in lab_running.releases() {
            run.arg("--release")
                .arg(format!("{version}.1={charts}"))
                .arg("--release")
                .arg(format!("{version}.2={charts}"));
        }
        // A lab's clusters are private, and its proxies do not come and go: a few seconds of silence are proof enough.
        run.args([
            "--allow-network",
            "10.0.0.0/8",
            "--unused-seconds",
            "3",
            "--observe-seconds",
            "2",
            "--replicas",
            "2",
            "--width",
            "6",
        ]);
        run.args(["--silent-seconds", "15", "--step-seconds", "180"]);
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let process = run.stdout(log).stderr(errors).stdin(Stdio::null()).spawn().map_err(|error| error.to_string())?;
        let server = Self { process, dir: dir.to_owned(), address: format!("http://{listen}") };
        let ready = || server.cli(&["releases", "-o", "json"]).ok();
        until("the server serves", Duration::from_mins(1), ready).map_err(|error| {
            let log = std::fs::read_to_string(dir.join("server.log")).unwrap_or_default();
            format!("{error}; it said:\n{log}")
        })?;
        Ok(server)
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.dir.join("server").join("api-key")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut run = Command::new("target/debug/meshwright");
        run.args(["--server", &self.address, "--key-file"]).arg(self.key_file()).args(arguments);
        // The profile of whoever runs this is none of its business.
        run.env("XDG_CONFIG_HOME", &self.dir);
        run
    }

    /// Runs the command line and answers what it printed.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Result<String> {
        output(&mut self.command(arguments))
    }

    /// Runs the command line with `-o json`, its progress in sight.
    pub(crate) fn watch(&self, arguments: &[&str]) -> Result<Value> {
        println!("$ meshwright {}", arguments.join(" "));
        let out = self
            .command(&[arguments, &["-o", "json"]].concat())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| error.to_string())?;
        if !out.status.success() {
            return Err(format!("meshwright {} ended with {}", arguments.join(" "), out.status));
        }
        serde_json::from_slice(&out.stdout).map_err(|error| error.to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends at SIGTERM, with its private Postgres; the lab's end would take neither along.
        let asked = output(Command::new("kill").arg(self.process.id().to_string()));
        let ended = asked.and_then(|_| self.process.wait().map_err(|error| error.to_string()));
        if let Err(error) = ended {
            eprintln!("xtask: {error}");
        }
    }
}
