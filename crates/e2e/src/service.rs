//! Starts API processes, as users call them, over a database of their own, and creates tenants and
//! keys in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use meshwright_model::Clock;
use meshwright_model::access::Role;
use meshwright_model::clock::SystemClock;
use meshwright_model::ids::{KeyId, TenantId};
use meshwright_model::quota::{QuotaResource, Quotas};
use meshwright_store::{ApiKeyToken, NewApiKey, Page, Store, StoreError, Tenant};

use crate::Result;
use crate::lab::wait_until;
use crate::process::{ChildProcess, free_address};
use crate::process_stat::{process_cpu_seconds, process_memory_bytes};

/// Configuration of an API process.
#[derive(Debug, Clone)]
pub(crate) struct ApiProcessConfig {
    pub(crate) program: PathBuf,
    /// URL of the database, with the role in it.
    pub(crate) database_url: String,
    /// File with the secret of the server, which seals stored secrets.
    pub(crate) secret_file: PathBuf,
    /// File that the log is appended to; without it the log is discarded.
    pub(crate) log_file: Option<PathBuf>,
    /// Level of the log, such as `off`, `warn` or `trace`.
    pub(crate) log_level: &'static str,
    /// Factor by which the usual rate limits of every tenant are multiplied, as a number in text.
    pub(crate) rate_limit_multiplier: &'static str,
    /// Further environment variables of the process.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Limit of open files of the process; without it, the limit of this process applies.
    pub(crate) max_open_files: Option<u32>,
}

/// Factor for rate limits that no test reaches.
const UNLIMITED_RATE_MULTIPLIER: &str = "100000";
/// Time limit for the start of a process, which usually takes a quarter of a second.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// Path of the server that the debug build of this workspace made.
pub(crate) const SERVER_BINARY: &str = "target/debug/meshwright-server";

impl ApiProcessConfig {
    /// Returns a configuration of the server in the debug build, without a log and with rate limits
    /// that no test reaches.
    pub(crate) fn new(database: &str, secret: &Path) -> Self {
        let (database, secret) = (database.to_owned(), secret.to_owned());
        let environment = Vec::new();
        Self {
            program: SERVER_BINARY.into(),
            database_url: database,
            secret_file: secret,
            log_file: None,
            log_level: "off",
            rate_limit_multiplier: UNLIMITED_RATE_MULTIPLIER,
            environment,
            max_open_files: None,
        }
    }

    fn spawn_process(&self, address: &str) -> Result<ChildProcess> {
        let log = match &self.log_file {
            Some(log) => std::fs::File::options()
                .create(true)
                .append(true)
                .open(log)?
                .into(),
            None => Stdio::null(),
        };
        let mut run = match self.max_open_files {
            Some(limit) => {
                // The shell sets the limit of open files and is then replaced by the server.
                let mut shell = Command::new("sh");
                shell
                    .args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &limit.to_string()])
                    .arg(&self.program);
                shell
            }
            None => Command::new(&self.program),
        };
        run.args([
            "serve",
            "--listen",
            address,
            "--rate-limit-multiplier",
            self.rate_limit_multiplier,
            "--database-url",
            &self.database_url,
        ]);
        run.arg("--server-secret-file")
            .arg(&self.secret_file)
            .env("MESHWRIGHT_LOG", self.log_level);
        run.envs(self.environment.iter().map(|(name, value)| (name, value)));
        run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        ChildProcess::start(&self.program.display().to_string(), &mut run)
    }
}

/// A running API process; it is killed when this value is dropped.
pub(crate) struct ApiProcess {
    process: Option<ChildProcess>,
    pub(crate) address: String,
    config: ApiProcessConfig,
}

impl ApiProcess {
    /// Starts a process on a free port, and waits until it listens.
    pub(crate) fn start(config: ApiProcessConfig) -> Result<Self> {
        let address = free_address()?;
        let process = Some(config.spawn_process(&address)?);
        wait_until("the API listens", START_TIMEOUT, || {
            std::net::TcpStream::connect(&address).ok()
        })?;
        Ok(Self {
            process,
            address,
            config,
        })
    }

    /// Kills the process as if its machine had failed, without finishing any request, and starts it
    /// again at the same address.
    pub(crate) fn kill_and_restart(&mut self) -> Result<()> {
        // Drop the old process first, because the port must be free.
        self.process = None;
        self.process = Some(self.config.spawn_process(&self.address)?);
        Ok(())
    }

    /// Returns the processor seconds that the process has used so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        process_cpu_seconds(self.process.as_ref().context("the API does not run")?.id())
    }

    /// Returns the number of files, sockets among them, that the process has open.
    pub(crate) fn open_files(&self) -> Result<usize> {
        let process = self.process.as_ref().context("the API does not run")?;
        let files = std::fs::read_dir(format!("/proc/{}/fd", process.id()))?;
        Ok(files.count())
    }

    /// Returns the resident memory of the process in bytes.
    pub(crate) fn memory_bytes(&self) -> Result<u64> {
        process_memory_bytes(self.process.as_ref().context("the API does not run")?.id())
    }
}

/// Creates a tenant with quotas that no test reaches.
pub(crate) async fn create_unlimited_tenant(
    store: &Store,
    name: &str,
) -> std::result::Result<TenantId, StoreError> {
    let (now, tenant) = (SystemClock.now(), TenantId(SystemClock.new_uuid()));
    store.create_tenant(tenant, name, now).await?;
    store.ensure_platform_key(now).await?;
    let mut tx = store.begin(TenantId::PLATFORM).await?;
    let quotas = Quotas(QuotaResource::ALL.map(|of| (of, 1_000_000)).into());
    let seen = tx
        .tenants()
        .list_tenants(Some(tenant), false, Page::ALL)
        .await?
        .pop()
        .expect("it was made above");
    tx.tenants()
        .update_tenant(
            &seen,
            &Tenant {
                quotas,
                ..seen.clone()
            },
        )
        .await?;
    tx.commit().await?;
    Ok(tenant)
}

/// Creates an API key directly in the database, and returns its text.
pub(crate) async fn create_api_key(
    store: &Store,
    tenant: TenantId,
    role: Role,
) -> std::result::Result<String, StoreError> {
    let text = ApiKeyToken::generate(tenant, KeyId(SystemClock.new_uuid()));
    let (digest, scopes) = (text.secret_digest(store.sealer()), Vec::new());
    let name = format!("{}-{}", role.as_str(), text.key.0);
    let key = NewApiKey {
        id: text.key,
        name,
        role,
        scopes,
        digest,
        expires_at: None,
    };
    let mut tx = store.begin(tenant).await?;
    tx.api_keys()
        .create_api_key(&key, SystemClock.now())
        .await?;
    tx.commit().await?;
    Ok(text.reveal())
}
