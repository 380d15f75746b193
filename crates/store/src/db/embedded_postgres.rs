//! Runs an embedded Postgres for `dev` and the tests. It uses a Postgres that is installed on the
//! system, listens on a Unix socket only, and ends with the process that started it.
//!
//! Other users of the machine are kept out twice. They can enter neither the socket nor its folder,
//! and the server asks the kernel for a client's account and accepts only the account that started
//! it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Superuser of an embedded server. The service itself never connects as this role.
pub const SUPERUSER: &str = "mw_root";

/// Roles that the account which started the server may connect as.
const CONNECTABLE_ROLES: [&str; 4] = [SUPERUSER, "mw_owner", "mw_api", "mw_worker"];

/// File mode of the socket and its folder: only the owner has access.
const OWNER_ONLY_MODE: u32 = 0o700;

/// Time that the server has to start. It usually takes a quarter of a second, but far longer on a
/// busy machine.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// Reason why the embedded Postgres could not start.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedPostgresError {
    /// No Postgres is installed on this machine.
    #[error(
        "no PostgreSQL 15 or newer was found; install it (Debian: apt-get install postgresql), or set PG_BIN to its bin folder"
    )]
    NotFound,
    /// The process runs as root, and there is no other account to run Postgres as.
    #[error(
        "PostgreSQL refuses to run as root, and there is no account 'postgres' or 'nobody' to run it as"
    )]
    NoAccount,
    /// A command failed or could not be started.
    #[error("{command} failed: {output}")]
    Failed {
        /// Command that was run.
        command: String,
        /// Output of the command.
        output: String,
    },
    /// A file or folder cannot be created or changed.
    #[error("{path} cannot be used")]
    Folder {
        /// Path of the file or folder.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The server did not accept connections in time.
    #[error("PostgreSQL did not start; {log} says why")]
    NotStarted {
        /// Path of the server's log.
        log: PathBuf,
    },
}

/// A running embedded server.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    dir: PathBuf,
}

impl EmbeddedPostgres {
    /// Starts a server whose data are in `dir`, which is created if it is missing. The server ends
    /// with this process.
    ///
    /// # Errors
    /// Returns [`EmbeddedPostgresError`] when no Postgres is installed or the server does not
    /// start.
    pub fn start(dir: &Path) -> Result<Self, EmbeddedPostgresError> {
        let bin = find_postgres_binaries().ok_or(EmbeddedPostgresError::NotFound)?;
        let account = server_account()?;
        let folder = |source| EmbeddedPostgresError::Folder {
            path: dir.to_owned(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(folder)?;
        let dir = dir.canonicalize().map_err(folder)?;
        if let Some(account) = &account {
            run_command(Command::new("chown").arg(account).arg(&dir))?;
        }
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(OWNER_ONLY_MODE))
            .map_err(folder)?;
        let data = dir.join("data");
        if !data.join("PG_VERSION").exists() {
            let auth = [
                "--auth-local=peer",
                "--auth-host=reject",
                "--encoding=UTF8",
                "--no-sync",
                "--username",
            ];
            run_command(
                command_as_account(account.as_deref(), &bin.join("initdb"))
                    .args(auth)
                    .arg(SUPERUSER)
                    .arg("--pgdata")
                    .arg(&data)
                    .current_dir("/"),
            )?;
        }
        let mut server = command_as_account(account.as_deref(), &bin.join("postgres"));
        server.arg("-D").arg(&data).arg("-k").arg(&dir).args([
            "-c",
            "listen_addresses=",
            "-c",
            "max_connections=200",
        ]);
        let (hba, ident) = write_auth_files(&dir)?;
        server.arg("-c").arg(format!("hba_file={}", hba.display()));
        server
            .arg("-c")
            .arg(format!("ident_file={}", ident.display()));
        server.args([
            "-c",
            &format!("unix_socket_permissions={OWNER_ONLY_MODE:04o}"),
        ]);
        server.args([
            "-c",
            "logging_collector=off",
            "-c",
            "fsync=off",
            "-c",
            "full_page_writes=off",
        ]);
        let log_path = dir.join("postgres.log");
        let log = std::fs::File::create(&log_path).map_err(folder)?;
        server
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
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

    /// Returns the URL of a database for a role. Only the account that started the server can
    /// connect.
    pub fn url(&self, role: &str, database: &str) -> String {
        format!(
            "postgres://{role}@localhost/{database}?host={}",
            self.dir.display()
        )
    }
}

/// Writes the files that say who may connect. This happens at each start, because folders of older
/// servers let every account in. Returns the paths of `pg_hba.conf` and of `pg_ident.conf`, which
/// lists the roles that the account may take.
fn write_auth_files(dir: &Path) -> Result<(PathBuf, PathBuf), EmbeddedPostgresError> {
    let account = run_command(Command::new("id").arg("-un"))?;
    let (hba, ident) = (dir.join("pg_hba.conf"), dir.join("pg_ident.conf"));
    let roles = CONNECTABLE_ROLES
        .map(|role| format!("own \"{}\" {role}\n", account.trim()))
        .concat();
    for (file, text) in [
        (&hba, "local all all peer map=own\n"),
        (&ident, roles.as_str()),
    ] {
        let failed = |source| EmbeddedPostgresError::Folder {
            path: file.clone(),
            source,
        };
        std::fs::write(file, text).map_err(failed)?;
        // The server may run under another account and must be able to read the file.
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).map_err(failed)?;
    }
    Ok((hba, ident))
}

/// Returns true when the server accepts connections. It listens earlier than that, so this also
/// reads the status line of `postmaster.pid` that `pg_ctl` waits for. A killed server leaves the
/// file behind, so the line alone proves nothing.
fn accepts_connections(dir: &Path) -> bool {
    const STATUS_LINE_INDEX: usize = 7;
    let listens = std::os::unix::net::UnixStream::connect(dir.join(".s.PGSQL.5432")).is_ok();
    let file =
        || std::fs::read_to_string(dir.join("data").join("postmaster.pid")).unwrap_or_default();
    listens
        && file()
            .lines()
            .nth(STATUS_LINE_INDEX)
            .is_some_and(|line| line.trim() == "ready")
}

/// Starts the server from a thread that never ends. The parent-death signal follows the *thread*
/// that started a process, not the process.
fn spawn_bound_to_process(mut server: Command) -> Result<(), EmbeddedPostgresError> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let child = server.spawn();
        let started = child.as_ref().map(|_| ()).map_err(ToString::to_string);
        if sender.send(started).is_ok()
            && let Ok(mut child) = child
        {
            // No code joins this thread; clients notice the end of the server by their connections.
            child.wait().ok();
        }
    });
    let started = receiver
        .recv()
        .map_err(|error| error.to_string())
        .and_then(|started| started);
    started.map_err(|output| EmbeddedPostgresError::Failed {
        command: "postgres".into(),
        output,
    })
}

/// Builds a command that ends with the process that started it, under another account if one is
/// given.
fn command_as_account(account: Option<&str>, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "INT"]);
    if let Some(account) = account {
        // The group of an account may have another name: on Debian, the unprivileged account has
        // the group `nogroup`.
        let group = run_id_command(&["-g", account]).unwrap_or_else(|| account.to_owned());
        command.args(["--reuid", account, "--regid", &group, "--clear-groups"]);
    }
    command.arg("--").arg(program);
    command
}

/// Returns the output of `id`, or `None` when there is no such account.
fn run_id_command(arguments: &[&str]) -> Option<String> {
    run_command(Command::new("id").args(arguments))
        .ok()
        .map(|said| said.trim().to_owned())
}

/// Returns the account to run Postgres as, if it must be another one: Postgres refuses to run as
/// root.
fn server_account() -> Result<Option<String>, EmbeddedPostgresError> {
    if run_id_command(&["-u"]).as_deref() != Some("0") {
        return Ok(None);
    }
    let known = ["postgres", "nobody"]
        .into_iter()
        .find(|name| run_id_command(&["-u", name]).is_some());
    known
        .map(|name| Some(name.to_owned()))
        .ok_or(EmbeddedPostgresError::NoAccount)
}

/// Runs a command to its end and returns its output.
fn run_command(command: &mut Command) -> Result<String, EmbeddedPostgresError> {
    let name = format!("{command:?}");
    let output = command
        .output()
        .map_err(|error| EmbeddedPostgresError::Failed {
            command: name.clone(),
            output: error.to_string(),
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(EmbeddedPostgresError::Failed {
        command: name,
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Finds the folder with the programs of Postgres: `PG_BIN`, then the folders of distributions with
/// the newest version first, then the search path.
pub fn find_postgres_binaries() -> Option<PathBuf> {
    let complete = |dir: &PathBuf| dir.join("initdb").exists() && dir.join("postgres").exists();
    let named = std::env::var_os("PG_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut versioned: Vec<(u32, PathBuf)> =
        ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"]
            .iter()
            .filter_map(|root| std::fs::read_dir(root).ok())
            .flatten()
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let version = path
                    .file_name()?
                    .to_str()?
                    .trim_start_matches("postgresql@")
                    .parse()
                    .ok()?;
                Some((version, path.join("bin")))
            })
            .collect();
    versioned.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let installed = versioned.into_iter().map(|(_, dir)| dir);
    named
        .into_iter()
        .chain(installed)
        .chain(std::env::split_paths(&path))
        .find(complete)
}

#[cfg(test)]
mod tests {
    use rustix::process::{Gid, Uid};
    use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
    use sqlx::ConnectOptions;
    use sqlx::postgres::PgConnectOptions;

    use super::*;

    /// Connects as a role of Postgres from this account or from another one, and returns the error.
    ///
    /// Linux keeps the identity of each thread apart, so only the thread that connects becomes the
    /// other account.
    fn connection_error(socket: &Path, role: &str, other: Option<&str>) -> Option<String> {
        let options = PgConnectOptions::new_without_pgpass()
            .socket(socket)
            .username(role)
            .database("postgres");
        let identity =
            other.map(|account| (account_number("-g", account), account_number("-u", account)));
        let connecting = std::thread::spawn(move || {
            if let Some((group, user)) = identity {
                set_thread_groups(&[]).expect("no other groups");
                set_thread_gid(Gid::from_raw(group)).expect("the group of the account");
                set_thread_uid(Uid::from_raw(user)).expect("the account");
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime
                .block_on(options.connect())
                .err()
                .map(|error| error.to_string())
        });
        connecting.join().expect("the thread ends")
    }

    /// Returns the number of an account's user or group.
    fn account_number(of: &str, account: &str) -> u32 {
        run_id_command(&[of, account])
            .expect("an account")
            .parse()
            .expect("a number")
    }

    #[test]
    fn another_user_of_the_machine_is_refused_at_the_folder_and_by_the_server() {
        let parent = tempfile::tempdir().expect("a folder");
        // Every account may enter this folder, so that the folder below is what refuses.
        std::fs::set_permissions(parent.path(), std::fs::Permissions::from_mode(0o755))
            .expect("permissions");
        let dir = parent.path().join("postgres");
        let server = EmbeddedPostgres::start(&dir).expect("a private Postgres");
        assert_eq!(
            std::fs::metadata(&server.dir)
                .expect("a folder")
                .permissions()
                .mode()
                & 0o777,
            OWNER_ONLY_MODE
        );
        let socket = server.dir.join(".s.PGSQL.5432");
        assert_eq!(
            std::fs::metadata(&socket)
                .expect("a socket")
                .permissions()
                .mode()
                & 0o777,
            OWNER_ONLY_MODE
        );
        assert_eq!(connection_error(&server.dir, SUPERUSER, None), None);
        // Only root can become another user. Without root, the test ends with the modes above.
        if server_account().expect("an account").is_none() {
            return;
        }
        let said = connection_error(&server.dir, SUPERUSER, Some("nobody")).expect("a refusal");
        assert!(said.contains("Permission denied"), "{said}");
        for open in [&server.dir, &socket] {
            std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o777))
                .expect("permissions");
        }
        for role in CONNECTABLE_ROLES {
            let said = connection_error(&server.dir, role, Some("nobody")).expect("a refusal");
            assert!(
                said.contains("Peer authentication failed"),
                "{role}: {said}"
            );
        }
    }
}
