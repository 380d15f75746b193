//! A private Postgres for `dev` and the tests: found on the system, reached by a socket only, gone with its owner.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The superuser of a private server. The service itself never connects as it.
pub const SUPERUSER: &str = "mw_root";

/// Starting takes a quarter of a second; a machine under load may take far longer.
const START_LIMIT: Duration = Duration::from_mins(1);

/// Why there is no private Postgres.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// No Postgres on this machine.
    #[error(
        "no PostgreSQL 15 or newer was found; install it (Debian: apt-get install postgresql), or set PG_BIN to its bin folder"
    )]
    NotFound,
    /// No account to run it as.
    #[error("PostgreSQL refuses to run as root, and there is no account 'postgres' or 'nobody' to run it as")]
    NoAccount,
    /// A command failed.
    #[error("{command} failed: {output}")]
    Failed {
        /// Which.
        command: String,
        /// What it said.
        output: String,
    },
    /// The folder cannot be used.
    #[error("{path} cannot be used")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It did not come up.
    #[error("PostgreSQL did not start; {log} says why")]
    NotStarted {
        /// Its log.
        log: PathBuf,
    },
}

/// A running private server.
#[derive(Debug)]
pub struct PrivatePostgres {
    dir: PathBuf,
}

impl PrivatePostgres {
    /// Starts a server whose data live in `dir`, which is made where it is missing. The server ends with this process.
    ///
    /// # Errors
    /// There is no Postgres, or it does not start.
    pub fn start(dir: &Path) -> Result<Self, PrivateError> {
        let bin = find_binaries().ok_or(PrivateError::NotFound)?;
        let account = account()?;
        let folder = |source| PrivateError::Folder { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(folder)?;
        let dir = dir.canonicalize().map_err(folder)?;
        if let Some(account) = &account {
            run(Command::new("chown").arg(account).arg(&dir))?;
        }
        let data = dir.join("data");
        if !data.join("PG_VERSION").exists() {
            let auth = ["--auth=trust", "--encoding=UTF8", "--no-sync", "--username"];
            run(as_account(account.as_deref(), &bin.join("initdb"))
                .args(auth)
                .arg(SUPERUSER)
                .arg("--pgdata")
                .arg(&data)
                .current_dir("/"))?;
        }
        let mut server = as_account(account.as_deref(), &bin.join("postgres"));
        server.arg("-D").arg(&data).arg("-k").arg(&dir).args(["-c", "listen_addresses=", "-c", "max_connections=200"]);
        server.args(["-c", "logging_collector=off", "-c", "fsync=off", "-c", "full_page_writes=off"]);
        let log_path = dir.join("postgres.log");
        let log = std::fs::File::create(&log_path).map_err(folder)?;
        server.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        spawn_for_life(server)?;
        let started = Instant::now();
        while !accepts(&dir) {
            if started.elapsed() > START_LIMIT {
                return Err(PrivateError::NotStarted { log: log_path });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { dir })
    }

    /// The address of a database as a role. Everybody who can reach the socket's folder may connect.
    pub fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@localhost/{database}?host={}", self.dir.display())
    }
}

/// A server listens before it lets anybody in: its own file says when it does, in the line that `pg_ctl` waits for. A server
/// that was killed left that line behind, and nobody who listens.
fn accepts(dir: &Path) -> bool {
    const STATE: usize = 7;
    let listens = std::os::unix::net::UnixStream::connect(dir.join(".s.PGSQL.5432")).is_ok();
    let file = || std::fs::read_to_string(dir.join("data").join("postmaster.pid")).unwrap_or_default();
    listens && file().lines().nth(STATE).is_some_and(|line| line.trim() == "ready")
}

/// The signal at its parent's death follows the *thread* that started it, so a thread that never ends does.
fn spawn_for_life(mut server: Command) -> Result<(), PrivateError> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let child = server.spawn();
        let started = child.as_ref().map(|_| ()).map_err(ToString::to_string);
        if sender.send(started).is_ok()
            && let Ok(mut child) = child
        {
            // Nobody waits for this thread; the server's end is seen by those who connect.
            child.wait().ok();
        }
    });
    let started = receiver.recv().map_err(|error| error.to_string()).and_then(|started| started);
    started.map_err(|output| PrivateError::Failed { command: "postgres".into(), output })
}

/// A command that ends with the process that started it, under another account where there is one.
fn as_account(account: Option<&str>, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "INT"]);
    if let Some(account) = account {
        command.args(["--reuid", account, "--regid", account, "--clear-groups"]);
    }
    command.arg("--").arg(program);
    command
}

/// Whom to run Postgres as: root must not.
fn account() -> Result<Option<String>, PrivateError> {
    let id =
        |arguments: &[&str]| Command::new("id").args(arguments).output().ok().filter(|output| output.status.success());
    let root = id(&["-u"]).is_some_and(|output| output.stdout.trim_ascii() == b"0");
    if !root {
        return Ok(None);
    }
    let known = ["postgres", "nobody"].into_iter().find(|name| id(&["-u", name]).is_some());
    known.map(|name| Some(name.to_owned())).ok_or(PrivateError::NoAccount)
}

fn run(command: &mut Command) -> Result<(), PrivateError> {
    let name = format!("{command:?}");
    let output =
        command.output().map_err(|error| PrivateError::Failed { command: name.clone(), output: error.to_string() })?;
    if output.status.success() {
        return Ok(());
    }
    Err(PrivateError::Failed { command: name, output: String::from_utf8_lossy(&output.stderr).into_owned() })
}

/// Where Postgres' programs are: `PG_BIN`, the search path, then where distributions keep theirs, newest first.
pub fn find_binaries() -> Option<PathBuf> {
    let complete = |dir: &PathBuf| dir.join("initdb").exists() && dir.join("postgres").exists();
    let named = std::env::var_os("PG_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut versioned: Vec<(u32, PathBuf)> = ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"]
        .iter()
        .filter_map(|root| std::fs::read_dir(root).ok())
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.trim_start_matches("postgresql@").parse().ok()?;
            Some((version, path.join("bin")))
        })
        .collect();
    versioned.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let installed = versioned.into_iter().map(|(_, dir)| dir);
    named.into_iter().chain(installed).chain(std::env::split_paths(&path)).find(complete)
}
