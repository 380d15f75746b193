//! API processes as users meet them, over a database of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use model::Clock;
use model::access::Role;
use model::clock::SystemClock;
use model::ids::{KeyId, TenantId};
use model::quota::{Counted, Quotas};
use store::{KeyText, NewKey, Page, Store, StoreError, TenantState};

use crate::Result;
use crate::lab::until;
use crate::process::Process;

/// An API process. It ends when this is dropped.
pub(crate) struct Api {
    process: Option<Process>,
    pub(crate) address: String,
    database: String,
    secret: PathBuf,
    log: Option<PathBuf>,
    level: &'static str,
    share: &'static str,
    program: PathBuf,
}

/// Limits that nobody meets.
const PLENTY: &str = "100000";
/// A quarter of a second is usual.
const START_LIMIT: Duration = Duration::from_mins(1);

/// The server as it was built here.
pub(crate) const SERVER: &str = "target/debug/meshwright-server";

impl Api {
    /// Starts one on a port that is free, with limits that nobody meets. What it says at this level goes to `log`, where one
    /// is given.
    pub(crate) fn start(
        program: &Path,
        database: &str,
        secret: &Path,
        log: Option<&Path>,
        level: &'static str,
    ) -> Result<Self> {
        Self::sharing(program, database, secret, log, level, PLENTY)
    }

    /// One with the limits that every tenant has.
    pub(crate) fn limited(program: &Path, database: &str, secret: &Path) -> Result<Self> {
        Self::sharing(program, database, secret, None, "error", "1")
    }

    fn sharing(
        program: &Path,
        database: &str,
        secret: &Path,
        log: Option<&Path>,
        level: &'static str,
        share: &'static str,
    ) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = port.map_err(|error| error.to_string())?.to_string();
        let process = Some(spawn(program, &address, database, secret, log, (level, share))?);
        until("the API listens", START_LIMIT, || std::net::TcpStream::connect(&address).ok())?;
        let (database, secret, program) = (database.to_owned(), secret.to_owned(), program.to_owned());
        Ok(Self { process, address, database, secret, log: log.map(Path::to_owned), level, share, program })
    }

    /// As when the machine fails: nothing is finished.
    pub(crate) fn kill_and_start_again(&mut self) -> Result<()> {
        // Dropped first: the port must be free.
        self.process = None;
        let told = (self.level, self.share);
        let again = spawn(&self.program, &self.address, &self.database, &self.secret, self.log.as_deref(), told)?;
        self.process = Some(again);
        Ok(())
    }

    /// How much of it is in memory, in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        let process = self.process.as_ref().ok_or("the API does not run")?;
        let path = format!("/proc/{}/status", process.id());
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().map_err(|_| format!("{path} has no size"))?;
        Ok(kilobytes * 1024)
    }
}

fn spawn(
    program: &Path,
    address: &str,
    database: &str,
    secret: &Path,
    log: Option<&Path>,
    (level, share): (&str, &str),
) -> Result<Process> {
    let log = match log {
        Some(log) => {
            std::fs::File::options().create(true).append(true).open(log).map_err(|error| error.to_string())?.into()
        }
        None => Stdio::null(),
    };
    let mut run = Command::new(program);
    run.args(["serve", "--listen", address, "--share", share, "--database-url", database, "--vault-key-file"]);
    run.arg(secret).env("MESHWRIGHT_LOG", level).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Process::start(&program.display().to_string(), &mut run)
}

/// A tenant with room for everything.
pub(crate) async fn roomy_tenant(store: &Store, name: &str) -> std::result::Result<TenantId, StoreError> {
    let (now, tenant) = (SystemClock.now(), TenantId(SystemClock.uuid()));
    store.create_tenant(tenant, name, now).await?;
    store.prepare_platform(now).await?;
    let mut tx = store.begin(TenantId::PLATFORM).await?;
    let quotas = Quotas(Counted::ALL.map(|of| (of, 1_000_000)).into());
    let seen = tx.tenants(Some(tenant), false, Page::ALL).await?.pop().expect("it was made above");
    tx.change_tenant(&seen, TenantState::Active, &quotas).await?;
    tx.commit().await?;
    Ok(tenant)
}

/// A key that was never handed out by the API.
pub(crate) async fn key(store: &Store, tenant: TenantId, role: Role) -> std::result::Result<String, StoreError> {
    let text = KeyText::generate(tenant, KeyId(SystemClock.uuid()));
    let (digest, scopes) = (text.digest(store.vault()), Vec::new());
    let name = format!("{}-{}", role.as_str(), text.key.0);
    let key = NewKey { id: text.key, name, role, scopes, digest, expires_at: None };
    let mut tx = store.begin(tenant).await?;
    tx.create_key(&key, SystemClock.now()).await?;
    tx.commit().await?;
    Ok(text.reveal())
}
