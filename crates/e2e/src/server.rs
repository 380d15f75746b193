//! Runs `meshwright-server dev` inside a lab's network, and the command line against it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use serde_json::Value;

use crate::assertions::MEMBER_CLUSTERS;
use crate::lab::{Lab, wait_until};
use crate::{Result, run_command};

/// Arguments of a lab's server. Its times are short, because the proxies of a lab do not come and
/// go.
pub(crate) const LAB_SERVER_ARGS: [&str; 18] = [
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
    "--max-concurrent-restarts",
    "6",
    "--unreachable-seconds",
    "15",
    "--step-seconds",
    "60",
    "--dry-run-seconds",
    "15",
];

/// A running `meshwright-server dev` inside a lab's network, and the command line for it; the
/// server is stopped when this value is dropped.
pub(crate) struct DevServer {
    process: Child,
    client: CliClient,
    /// Whether this program has restarted the private Postgres.
    postgres_restarted: AtomicBool,
}

impl DevServer {
    /// Starts the server with releases in the catalogue, each as `version` or `version@tag` with
    /// the charts that it is installed from, and with further arguments.
    pub(crate) fn start(
        lab: &Lab,
        dir: &Path,
        listen: &str,
        catalogue: &[(&str, &str)],
        more: &[&str],
    ) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let authorities = dir.join("authorities.pem");
        std::fs::write(&authorities, lab.ca_bundle(&MEMBER_CLUSTERS)?)?;
        let mut run = lab.command_in_network(Some(listen));
        // The server calls issuers and webhooks at addresses that tenants choose; here those are
        // the lab's clusters, so trust their authorities.
        run.env("SSL_CERT_FILE", authorities);
        run.args([
            "target/debug/meshwright-server",
            "dev",
            "--hub",
            "lab",
            "--dir",
        ])
        .arg(dir.join("server"));
        run.arg("--hosting-kubeconfig")
            .arg(lab.kubeconfig_path("hosting")?)
            .args(["--helm", &lab.helm_binary()?]);
        run.args(LAB_SERVER_ARGS).args(more);
        for (version, charts) in catalogue {
            run.arg("--release")
                .arg(format!("{version}={}", lab.charts_path(charts)?));
        }
        Self::spawn_and_wait(run, dir, listen)
    }

    /// Starts the server from a complete command, and waits until it serves.
    pub(crate) fn spawn_and_wait(mut run: Command, dir: &Path, listen: &str) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let log = File::create(dir.join("server.log"))?;
        let errors = log.try_clone()?;
        let process = run
            .stdout(log)
            .stderr(errors)
            .stdin(Stdio::null())
            .spawn()?;
        let client = CliClient {
            dir: dir.to_owned(),
            address: format!("http://{listen}"),
            api_key_file: None,
            ca_file: None,
        };
        let server = Self {
            process,
            client,
            postgres_restarted: AtomicBool::new(false),
        };
        let ready = || server.run_cli(&["releases", "-o", "json"]).ok();
        wait_until("the server serves", Duration::from_mins(1), ready).map_err(|error| {
            let log = std::fs::read_to_string(dir.join("server.log")).unwrap_or_default();
            anyhow!("{error:#}; it said:\n{log}")
        })?;
        Ok(server)
    }

    /// Adds a release to the catalogue, as the operator does.
    pub(crate) fn import_release(&self, version: &str, charts: &str, more: &[&str]) -> Result<()> {
        let state = self.state_dir();
        let url = format!(
            "postgres://mw_worker@localhost/meshwright?host={}",
            self.postgres_dir().display()
        );
        let mut run = Command::new("target/debug/meshwright-server");
        run.args(["releases", "--database-url", &url, "--server-secret-file"])
            .arg(state.join("vault-key"));
        run.args([
            "import",
            "--hub",
            "lab",
            "--version",
            version,
            "--charts",
            charts,
        ])
        .args(more);
        run_command(&mut run).map(drop)
    }

    /// Allows an upgrade in place to cross this number of minors. The policy is a row of the
    /// database, and no command or API changes it yet.
    pub(crate) fn set_in_place_minors(&self, minors: u32) -> Result<()> {
        let url = format!(
            "postgres://mw_owner@localhost/meshwright?host={}",
            self.postgres_dir().display()
        );
        let change = format!(
            "UPDATE upgrade_policies SET body = jsonb_set(body, '{{in_place_minors}}', '{minors}')"
        );
        run_command(
            Command::new(crate::database::postgres_program("psql")?).args([
                "--quiet",
                "--command",
                &change,
                &url,
            ]),
        )
        .map(drop)
    }

    /// Restarts Postgres in the mode `immediate`, as an administrator might: open connections are
    /// cut.
    pub(crate) fn restart_postgres(&self) -> Result<()> {
        let process = self.postgres_dir().join("data").join("postmaster.pid");
        let first = std::fs::read_to_string(&process)?;
        self.postgres_restarted.store(true, Ordering::Relaxed);
        self.run_pg_ctl(&["restart", "-w", "-l", "/dev/null"])?;
        let second = std::fs::read_to_string(&process)?;
        if first.lines().next() == second.lines().next() {
            bail!("Postgres was not restarted");
        }
        Ok(())
    }

    /// Runs `pg_ctl` on the private Postgres, in the mode `immediate`.
    fn run_pg_ctl(&self, arguments: &[&str]) -> Result<()> {
        let folder = self.postgres_dir().join("data");
        let program = std::fs::read_to_string(folder.join("postmaster.opts"))?;
        let program = Path::new(program.split_whitespace().next().unwrap_or_default())
            .with_file_name("pg_ctl");
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&folder)?);
        // pg_ctl refuses to run as root, so run it as the owner of the data folder.
        let mut run = Command::new("setpriv");
        run.args(["--reuid", &owner.to_string(), "--clear-groups", "--"])
            .arg(program)
            .args(arguments)
            .args(["-m", "immediate", "-s", "-D"])
            .arg(&folder)
            .current_dir("/");
        run_command(&mut run).map(drop)
    }

    /// Returns the command line alone, for use in another thread.
    pub(crate) fn clone_client(&self) -> CliClient {
        self.client.clone()
    }

    /// Returns the folder with the private Postgres and the key that seals secrets.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.client.dir.join("server")
    }

    /// Returns the folder with the socket of the private Postgres.
    pub(crate) fn postgres_dir(&self) -> PathBuf {
        self.state_dir().join("postgres")
    }
}

impl std::ops::Deref for DevServer {
    type Target = CliClient;

    fn deref(&self) -> &CliClient {
        &self.client
    }
}

/// The command line for one server.
#[derive(Clone)]
pub(crate) struct CliClient {
    dir: PathBuf,
    pub(crate) address: String,
    /// File with another API key than that of the first owner.
    api_key_file: Option<PathBuf>,
    /// File with the authorities that the command line trusts, instead of those of the system.
    ca_file: Option<PathBuf>,
}

impl CliClient {
    /// Returns the file with the API key that the command line uses.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.api_key_file
            .clone()
            .unwrap_or_else(|| self.dir.join("server").join("api-key"))
    }

    /// Returns the command line with another API key.
    pub(crate) fn with_key(self, file: PathBuf) -> Self {
        Self {
            api_key_file: Some(file),
            ..self
        }
    }

    /// Returns the command line with the authorities in this file as the trusted ones.
    pub(crate) fn with_ca_file(self, authorities: PathBuf) -> Self {
        Self {
            ca_file: Some(authorities),
            ..self
        }
    }

    /// Runs the command line with `-o json`, and returns its answer.
    pub(crate) fn run_json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run_cli(&[arguments, &["-o", "json"]].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Waits until an upgrade is in a state.
    ///
    /// # Errors
    ///
    /// Returns an error with the state and the problem of the upgrade when the limit has passed.
    pub(crate) fn wait_for_state(
        &self,
        upgrade: &str,
        wanted: &str,
        limit: Duration,
    ) -> Result<Value> {
        let start = Instant::now();
        loop {
            let now = self.run_json(&["upgrade", "get", upgrade])?;
            if now["state"] == wanted {
                return Ok(now);
            }
            if start.elapsed() > limit {
                bail!(
                    "{upgrade} is {} and not {wanted}: {}",
                    now["state"],
                    now["problem"]
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn build_command(&self, arguments: &[&str]) -> Command {
        let mut run = Command::new("target/debug/meshwright");
        run.args(["--server", &self.address, "--key-file"])
            .arg(self.key_file())
            .args(arguments);
        // Keep the command line away from the profile of the user who runs this program.
        run.env("XDG_CONFIG_HOME", &self.dir);
        run.envs(self.ca_file.iter().map(|file| ("SSL_CERT_FILE", file)));
        run
    }

    /// Runs the command line, and returns its output.
    pub(crate) fn run_cli(&self, arguments: &[&str]) -> Result<String> {
        run_command(&mut self.build_command(arguments))
    }

    /// Runs the command line with `-o json` and shows its progress; returns its answer.
    pub(crate) fn run_with_progress(&self, arguments: &[&str]) -> Result<Value> {
        println!("$ meshwright {}", arguments.join(" "));
        let out = self
            .build_command(&[arguments, &["-o", "json"]].concat())
            .stderr(Stdio::inherit())
            .output()?;
        if !out.status.success() {
            bail!(
                "meshwright {} ended with {}",
                arguments.join(" "),
                out.status
            );
        }
        Ok(serde_json::from_slice(&out.stdout)?)
    }
}

impl Drop for DevServer {
    fn drop(&mut self) {
        // SIGTERM stops the server and its private Postgres. Taking the lab down would stop
        // neither.
        let asked = run_command(Command::new("kill").arg(self.process.id().to_string()));
        let ended = asked.and_then(|_| Ok(self.process.wait()?));
        // A Postgres that was restarted is no child of the server, and does not end with it.
        let stopped = if self.postgres_restarted.load(Ordering::Relaxed) {
            self.run_pg_ctl(&["stop"])
        } else {
            Ok(())
        };
        for error in ended.err().into_iter().chain(stopped.err()) {
            eprintln!("e2e: {error:#}");
        }
    }
}
