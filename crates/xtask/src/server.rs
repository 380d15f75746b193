//! `meshwright-server dev` inside a lab's network, and the command line that talks to it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{Lab, until};
use crate::story::MEMBERS;
use crate::{Result, run_command};

/// What a lab's server is started with: seconds are short, because a lab's proxies do not come and go.
pub(crate) const SETTINGS: [&str; 18] = [
    "--allow-network",
    "10.0.0.0/8",
    "--unused-seconds",
    "3",
    "--observe-seconds",
    "2",
    "--cluster-seconds",
    "2",
    "--replicas",
    "2",
    "--width",
    "6",
    "--silent-seconds",
    "15",
    "--step-seconds",
    "60",
    "--dry-run-seconds",
    "15",
];

/// `meshwright-server dev` inside a lab's network, and the command line that talks to it.
pub(crate) struct Server {
    process: Child,
    client: Client,
}

impl Server {
    /// Starts it, with releases in the catalogue, each as `version` or `version@tag` with the charts that it takes.
    pub(crate) fn start(
        lab: &Lab,
        dir: &Path,
        listen: &str,
        catalogue: &[(&str, &str)],
        more: &[&str],
    ) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|error| error.to_string())?;
        let authorities = dir.join("authorities.pem");
        std::fs::write(&authorities, lab.ca_bundle(&MEMBERS)?).map_err(|error| error.to_string())?;
        let mut run = lab.inside(Some(listen));
        // What it asks for at addresses that tenants choose is as genuine as a lab's clusters.
        run.env("SSL_CERT_FILE", authorities);
        run.args(["target/debug/meshwright-server", "dev", "--hub", "lab", "--dir"]).arg(dir.join("server"));
        run.arg("--hosting-kubeconfig").arg(lab.kubeconfig_path("hosting")?).args(["--helm", &lab.helm()?]);
        run.args(SETTINGS).args(more);
        for (version, charts) in catalogue {
            run.arg("--release").arg(format!("{version}={}", lab.charts(charts)?));
        }
        Self::spawn(run, dir, listen)
    }

    /// Starts what was put together, and waits until it serves.
    pub(crate) fn spawn(mut run: Command, dir: &Path, listen: &str) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|error| error.to_string())?;
        let log = File::create(dir.join("server.log")).map_err(|error| error.to_string())?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let process = run.stdout(log).stderr(errors).stdin(Stdio::null()).spawn().map_err(|error| error.to_string())?;
        let client = Client { dir: dir.to_owned(), address: format!("http://{listen}"), key: None, authorities: None };
        let server = Self { process, client };
        let ready = || server.cli(&["releases", "-o", "json"]).ok();
        until("the server serves", Duration::from_mins(1), ready).map_err(|error| {
            let log = std::fs::read_to_string(dir.join("server.log")).unwrap_or_default();
            format!("{error}; it said:\n{log}")
        })?;
        Ok(server)
    }

    /// Adds a release to the catalogue, as an operator does.
    pub(crate) fn import(&self, version: &str, charts: &str, more: &[&str]) -> Result<()> {
        let state = self.state_dir();
        let url = format!("postgres://mw_worker@localhost/meshwright?host={}", self.postgres().display());
        let mut run = Command::new("target/debug/meshwright-server");
        run.args(["releases", "--database-url", &url, "--vault-key-file"]).arg(state.join("vault-key"));
        run.args(["import", "--hub", "lab", "--version", version, "--charts", charts]).args(more);
        run_command(&mut run).map(drop)
    }

    /// Lets an upgrade in place move so many minors. The policy is a row of the database and has no other door yet.
    pub(crate) fn in_place_minors(&self, minors: u32) -> Result<()> {
        let url = format!("postgres://mw_owner@localhost/meshwright?host={}", self.postgres().display());
        let change = format!("UPDATE upgrade_policies SET body = jsonb_set(body, '{{in_place_minors}}', '{minors}')");
        run_command(Command::new(crate::fresh::program("psql")?).args(["--quiet", "--command", &change, &url])).map(drop)
    }

    /// The command line alone, for another thread.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where the private Postgres and the sealing key are.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.client.dir.join("server")
    }

    /// The folder of the private Postgres' socket.
    pub(crate) fn postgres(&self) -> PathBuf {
        self.state_dir().join("postgres")
    }
}

impl std::ops::Deref for Server {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// The command line, told which server to talk to.
#[derive(Clone)]
pub(crate) struct Client {
    dir: PathBuf,
    pub(crate) address: String,
    /// Another key than the first owner's.
    key: Option<PathBuf>,
    /// Whom it believes, in a file, where not only the system's authorities.
    authorities: Option<PathBuf>,
}

impl Client {
    pub(crate) fn key_file(&self) -> PathBuf {
        self.key.clone().unwrap_or_else(|| self.dir.join("server").join("api-key"))
    }

    /// The command line in other hands.
    pub(crate) fn with_key(self, file: PathBuf) -> Self {
        Self { key: Some(file), ..self }
    }

    /// The command line on a machine that believes who is in this file.
    pub(crate) fn believing(self, authorities: PathBuf) -> Self {
        Self { authorities: Some(authorities), ..self }
    }

    /// Runs the command line with `-o json` and answers what it said.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.cli(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// Waits until an upgrade is in a state.
    pub(crate) fn await_state(&self, upgrade: &str, wanted: &str, limit: Duration) -> Result<Value> {
        let start = Instant::now();
        loop {
            let now = self.ask(&["upgrade", "get", upgrade])?;
            if now["state"] == wanted {
                return Ok(now);
            }
            if start.elapsed() > limit {
                return Err(format!("{upgrade} is {} and not {wanted}: {}", now["state"], now["problem"]));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut run = Command::new("target/debug/meshwright");
        run.args(["--server", &self.address, "--key-file"]).arg(self.key_file()).args(arguments);
        // The profile of whoever runs this is none of its business.
        run.env("XDG_CONFIG_HOME", &self.dir);
        run.envs(self.authorities.iter().map(|file| ("SSL_CERT_FILE", file)));
        run
    }

    /// Runs the command line and answers what it printed.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Result<String> {
        run_command(&mut self.command(arguments))
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
        let asked = run_command(Command::new("kill").arg(self.process.id().to_string()));
        let ended = asked.and_then(|_| self.process.wait().map_err(|error| error.to_string()));
        if let Err(error) = ended {
            eprintln!("xtask: {error}");
        }
    }
}
