//! API processes as users meet them, over a database of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use model::Clock;
use model::access::Role;
use model::clock::SystemClock;
use model::ids::{KeyId, TenantId};
use model::quota::{QuotaResource, Quotas};
use store::{ApiKeyToken, NewApiKey, Page, Store, StoreError, Tenant};

use crate::Result;
use crate::lab::until;
use crate::process::{Process, free_address};

/// How an API process is started.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) program: PathBuf,
    /// The database's address, with the role in it.
    pub(crate) database: String,
    /// The file with the server's own secret.
    pub(crate) secret: PathBuf,
    /// Where it says something, and at which level.
    pub(crate) log: Option<PathBuf>,
    pub(crate) level: &'static str,
    /// How many times the usual share every tenant has.
    pub(crate) share: &'static str,
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Limit of its open files, where it is not this process's own.
    pub(crate) open_files: Option<u32>,
}

/// Limits that nobody meets.
const PLENTY: &str = "100000";
/// A quarter of a second is usual.
const START_LIMIT: Duration = Duration::from_mins(1);

/// The server as it was built here.
pub(crate) const SERVER: &str = "target/debug/meshwright-server";

impl Setting {
    /// The server as it was built here, which says nothing, with limits that nobody meets.
    pub(crate) fn new(database: &str, secret: &Path) -> Self {
        let (database, secret) = (database.to_owned(), secret.to_owned());
        let environment = Vec::new();
        Self {
            program: SERVER.into(),
            database,
            secret,
            log: None,
            level: "off",
            share: PLENTY,
            environment,
            open_files: None,
        }
    }

    fn spawn(&self, address: &str) -> Result<Process> {
        let log = match &self.log {
            Some(log) => {
                std::fs::File::options().create(true).append(true).open(log).map_err(|error| error.to_string())?.into()
            }
            None => Stdio::null(),
        };
        let mut run = match self.open_files {
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &limit.to_string()]).arg(&self.program);
                shell
            }
            None => Command::new(&self.program),
        };
        run.args(["serve", "--listen", address, "--share", self.share, "--database-url", &self.database]);
        run.arg("--vault-key-file").arg(&self.secret).env("MESHWRIGHT_LOG", self.level);
        run.envs(self.environment.iter().map(|(name, value)| (name, value)));
        run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Process::start(&self.program.display().to_string(), &mut run)
    }
}

/// An API process. It ends when this is dropped.
pub(crate) struct Api {
    process: Option<Process>,
    pub(crate) address: String,
    setting: Setting,
}

impl Api {
    /// Starts one on a port that is free.
    pub(crate) fn start(setting: Setting) -> Result<Self> {
        let address = free_address()?;
        let process = Some(setting.spawn(&address)?);
        until("the API listens", START_LIMIT, || std::net::TcpStream::connect(&address).ok())?;
        Ok(Self { process, address, setting })
    }

    /// As when the machine fails: nothing is finished.
    pub(crate) fn kill_and_start_again(&mut self) -> Result<()> {
        // Dropped first: the port must be free.
        self.process = None;
        self.process = Some(self.setting.spawn(&self.address)?);
        Ok(())
    }

    /// Processor seconds that it has used so far.
    pub(crate) fn processor_seconds(&self) -> Result<f64> {
        crate::bench::api::processor_seconds(self.process.as_ref().ok_or("the API does not run")?.id())
    }

    /// How much of it is in memory, in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        memory_of(self.process.as_ref().ok_or("the API does not run")?.id())
    }
}

/// A tenant with room for everything.
pub(crate) async fn roomy_tenant(store: &Store, name: &str) -> std::result::Result<TenantId, StoreError> {
    let (now, tenant) = (SystemClock.now(), TenantId(SystemClock.new_uuid()));
    store.create_tenant(tenant, name, now).await?;
    store.ensure_platform_key(now).await?;
    let mut tx = store.begin(TenantId::PLATFORM).await?;
    let quotas = Quotas(QuotaResource::ALL.map(|of| (of, 1_000_000)).into());
    let seen = tx.list_tenants(Some(tenant), false, Page::ALL).await?.pop().expect("it was made above");
    tx.update_tenant(&seen, &Tenant { quotas, ..seen.clone() }).await?;
    tx.commit().await?;
    Ok(tenant)
}

/// A key that was never handed out by the API.
pub(crate) async fn key(store: &Store, tenant: TenantId, role: Role) -> std::result::Result<String, StoreError> {
    let text = ApiKeyToken::generate(tenant, KeyId(SystemClock.new_uuid()));
    let (digest, scopes) = (text.secret_digest(store.sealer()), Vec::new());
    let name = format!("{}-{}", role.as_str(), text.key.0);
    let key = NewApiKey { id: text.key, name, role, scopes, digest, expires_at: None };
    let mut tx = store.begin(tenant).await?;
    tx.create_api_key(&key, SystemClock.now()).await?;
    tx.commit().await?;
    Ok(text.reveal())
}

/// How much of a process is in memory, in bytes.
pub(crate) fn memory_of(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().map_err(|_| format!("{path} has no size"))?;
    Ok(kilobytes * 1024)
}
