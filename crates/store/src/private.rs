//! A private Postgres for `dev` and the tests: found on the system, reached by a socket only, gone with its owner.
//!
//! Other users of the machine are kept out twice: neither the socket nor its folder can be entered by them, and the server asks
//! the kernel which account a client runs under, and lets in the one that started it only.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The superuser of a private server. The service itself never connects as it.
pub const SUPERUSER: &str = "mw_root";

/// The roles that the account which started the server may connect as.
const CONNECTABLE_ROLES: [&str; 4] = [SUPERUSER, "mw_owner", "mw_api", "mw_worker"];

/// Permissions of the socket's folder: its owner's alone.
const OWNER_ONLY_MODE: u32 = 0o700;

/// Starting takes a quarter of a second; a machine under load may take far longer.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// Why there is no private Postgres.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedPostgresError {
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
pub struct EmbeddedPostgres {
    dir: PathBuf,
}

impl EmbeddedPostgres {
    /// Starts a server whose data live in `dir`, which is made where it is missing. The server ends with this process.
    ///
    /// # Errors
    /// There is no Postgres, or it does not start.
    pub fn start(dir: &Path) -> Result<Self, EmbeddedPostgresError> {
        let bin = find_postgres_binaries().ok_or(EmbeddedPostgresError::NotFound)?;
        let account = server_account()?;
        let folder = |source| EmbeddedPostgresError::Folder { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(folder)?;
        let dir = dir.canonicalize().map_err(folder)?;
        if let Some(account) = &account {
            run_command(Command::new("chown").arg(account).arg(&dir))?;
        }
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(OWNER_ONLY_MODE)).map_err(folder)?;
        let data = dir.join("data");
        if !data.join("PG_VERSION").exists() {
            let auth = ["--auth-local=peer", "--auth-host=reject", "--encoding=UTF8", "--no-sync", "--username"];
            run_command(command_as_account(account.as_deref(), &bin.join("initdb"))
                .args(auth)
                .arg(SUPERUSER)
                .arg("--pgdata")
                .arg(&data)
                .current_dir("/"))?;
        }
        let mut server = command_as_account(account.as_deref(), &bin.join("postgres"));
        server.arg("-D").arg(&data).arg("-k").arg(&dir).args(["-c", "listen_addresses=", "-c", "max_connections=200"]);
        let (hba, ident) = write_auth_files(&dir)?;
        server.arg("-c").arg(format!("hba_file={}", hba.display()));
        server.arg("-c").arg(format!("ident_file={}", ident.display()));
        server.args(["-c", &format!("unix_socket_permissions={OWNER_ONLY_MODE:04o}")]);
        server.args(["-c", "logging_collector=off", "-c", "fsync=off", "-c", "full_page_writes=off"]);
        let log_path = dir.join("postgres.log");
        let log = std::fs::File::create(&log_path).map_err(folder)?;
        server.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        spawn_bound_to_process(server)?;
        let started = Instant::now();
        while !accepts_connections(&dir) {
            if started.elapsed() > START_TIMEOUT {
                return Err(EmbeddedPostgresError::NotStarted { log: log_path });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { dir })
    }

    /// The address of a database as a role. Only the account that started the server gets in.
    pub fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@localhost/{database}?host={}", self.dir.display())
    }
}

/// Writes down who may connect, at each start: a folder of an older server let everyone in. Answers the rules, and the file that
/// says which roles the account may take.
fn write_auth_files(dir: &Path) -> Result<(PathBuf, PathBuf), EmbeddedPostgresError> {
    let account = run_command(Command::new("id").arg("-un"))?;
    let (hba, ident) = (dir.join("pg_hba.conf"), dir.join("pg_ident.conf"));
    let roles = CONNECTABLE_ROLES.map(|role| format!("own \"{}\" {role}\n", account.trim())).concat();
    for (file, text) in [(&hba, "local all all peer map=own\n"), (&ident, roles.as_str())] {
        let failed = |source| EmbeddedPostgresError::Folder { path: file.clone(), source };
        std::fs::write(file, text).map_err(failed)?;
        // The server may run under another account.
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).map_err(failed)?;
    }
    Ok((hba, ident))
}

/// A server listens before it lets anybody in: its own file says when it does, in the line that `pg_ctl` waits for. A server
/// that was killed left that line behind, and nobody who listens.
fn accepts_connections(dir: &Path) -> bool {
    const STATUS_LINE_INDEX: usize = 7;
    let listens = std::os::unix::net::UnixStream::connect(dir.join(".s.PGSQL.5432")).is_ok();
    let file = || std::fs::read_to_string(dir.join("data").join("postmaster.pid")).unwrap_or_default();
    listens && file().lines().nth(STATUS_LINE_INDEX).is_some_and(|line| line.trim() == "ready")
}

/// The signal at its parent's death follows the *thread* that started it, so a thread that never ends does.
fn spawn_bound_to_process(mut server: Command) -> Result<(), EmbeddedPostgresError> {
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
    started.map_err(|output| EmbeddedPostgresError::Failed { command: "postgres".into(), output })
}

/// A command that ends with the process that started it, under another account where there is one.
fn command_as_account(account: Option<&str>, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "INT"]);
    if let Some(account) = account {
        // The group of an account may have another name: that of `nobody` is `nogroup` on Debian.
        let group = run_id_command(&["-g", account]).unwrap_or_else(|| account.to_owned());
        command.args(["--reuid", account, "--regid", &group, "--clear-groups"]);
    }
    command.arg("--").arg(program);
    command
}

/// What `id` says; `None` where there is no such account.
fn run_id_command(arguments: &[&str]) -> Option<String> {
    run_command(Command::new("id").args(arguments)).ok().map(|said| said.trim().to_owned())
}

/// Whom to run Postgres as: root must not.
fn server_account() -> Result<Option<String>, EmbeddedPostgresError> {
    if run_id_command(&["-u"]).as_deref() != Some("0") {
        return Ok(None);
    }
    let known = ["postgres", "nobody"].into_iter().find(|name| run_id_command(&["-u", name]).is_some());
    known.map(|name| Some(name.to_owned())).ok_or(EmbeddedPostgresError::NoAccount)
}

/// Runs a command to its end, and answers what it said.
fn run_command(command: &mut Command) -> Result<String, EmbeddedPostgresError> {
    let name = format!("{command:?}");
    let output =
        command.output().map_err(|error| EmbeddedPostgresError::Failed { command: name.clone(), output: error.to_string() })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(EmbeddedPostgresError::Failed { command: name, output: String::from_utf8_lossy(&output.stderr).into_owned() })
}

/// Where Postgres' programs are: `PG_BIN`, the search path, then where distributions keep theirs, newest first.
pub fn find_postgres_binaries() -> Option<PathBuf> {
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

#[cfg(test)]
mod tests {
    use rustix::process::{Gid, Uid};
    use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
    use sqlx::ConnectOptions;
    use sqlx::postgres::PgConnectOptions;

    use super::*;

    /// Connects as a role of Postgres from this account, or from another one; answers why it was refused.
    ///
    /// Linux keeps the identity of each thread apart, so only the thread that connects becomes the other account.
    fn connection_error(socket: &Path, role: &str, other: Option<&str>) -> Option<String> {
        let options = PgConnectOptions::new_without_pgpass().socket(socket).username(role).database("postgres");
        let identity = other.map(|account| (account_number("-g", account), account_number("-u", account)));
        let connecting = std::thread::spawn(move || {
            if let Some((group, user)) = identity {
                set_thread_groups(&[]).expect("no other groups");
                set_thread_gid(Gid::from_raw(group)).expect("the group of the account");
                set_thread_uid(Uid::from_raw(user)).expect("the account");
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(options.connect()).err().map(|error| error.to_string())
        });
        connecting.join().expect("the thread ends")
    }

    /// The number of an account's user or group.
    fn account_number(of: &str, account: &str) -> u32 {
        run_id_command(&[of, account]).expect("an account").parse().expect("a number")
    }

    #[test]
    fn another_user_of_the_machine_is_refused_at_the_folder_and_by_the_server() {
        let parent = tempfile::tempdir().expect("a folder");
        // Everyone may pass, so that the folder below is what refuses.
        std::fs::set_permissions(parent.path(), std::fs::Permissions::from_mode(0o755)).expect("permissions");
        let dir = parent.path().join("postgres");
        let server = EmbeddedPostgres::start(&dir).expect("a private Postgres");
        assert_eq!(std::fs::metadata(&server.dir).expect("a folder").permissions().mode() & 0o777, OWNER_ONLY_MODE);
        let socket = server.dir.join(".s.PGSQL.5432");
        assert_eq!(std::fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777, OWNER_ONLY_MODE);
        assert_eq!(connection_error(&server.dir, SUPERUSER, None), None);
        // Only root can become another user. For everyone else the permissions above have been looked at.
        if server_account().expect("an account").is_none() {
            return;
        }
        let said = connection_error(&server.dir, SUPERUSER, Some("nobody")).expect("a refusal");
        assert!(said.contains("Permission denied"), "{said}");
        for open in [&server.dir, &socket] {
            std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o777)).expect("permissions");
        }
        for role in CONNECTABLE_ROLES {
            let said = connection_error(&server.dir, role, Some("nobody")).expect("a refusal");
            assert!(said.contains("Peer authentication failed"), "{role}: {said}");
        }
    }
}
