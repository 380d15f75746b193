//! Gives each test a database of its own, cloned from a migrated template on this process's private
//! PostgreSQL server.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshwright_model::ids::TenantId;
use meshwright_store::embedded_postgres::{EmbeddedPostgres, SUPERUSER};
use meshwright_store::{Sealer, Store, Tx};
use sqlx::{Connection, PgConnection};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::relay::Relay;

static SERVER: OnceCell<EmbeddedPostgres> = OnceCell::const_new();
static NEXT_DATABASE_NUMBER: AtomicU32 = AtomicU32::new(0);
/// Names of databases that no test uses any more. The next test drops them, because hundreds of
/// them would fill the disk.
static UNUSED_DATABASES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Name of a database. Its drop marks the database as unused.
struct DatabaseName(String);

impl Drop for DatabaseName {
    fn drop(&mut self) {
        UNUSED_DATABASES
            .lock()
            .expect("no holder panics")
            .push(std::mem::take(&mut self.0));
    }
}

/// Database of one test, with the two roles of the service. Tests connect neither as a superuser
/// nor as the owner.
pub struct TestDb {
    /// Store with the role of the API.
    pub api: Store,
    /// Store with the role of workers.
    pub worker: Store,
    /// Store with the role of the API whose transactions are never serializable. See
    /// [`TestDb::begin_beside_workers`].
    read_committed: Store,
    /// Tenant that exists in the database.
    pub tenant: TenantId,
    name: Arc<DatabaseName>,
    url: Arc<dyn Fn(&str) -> String + Send + Sync>,
}

/// Returns the folder of the private server. It is left behind for inspection, and a later process
/// with the same id replaces it.
fn server_dir() -> PathBuf {
    std::env::temp_dir().join(format!("meshwright-test-postgres-{}", std::process::id()))
}

/// Variable that says which of the two walls between tenants stands. Both do, unless the isolation
/// suite sets it to `queries`: then row-level security is switched off. The suite removes the other
/// wall by changing the queries in a copy of the source.
const WALLS_ENV: &str = "MESHWRIGHT_TEST_WALLS";

/// Variable that switches work notifications off if it is set to `off`. Processes that wait for
/// work must then find it by polling.
pub const NOTIFICATIONS_ENV: &str = "MESHWRIGHT_TEST_HINTS";

/// Options of a connection URL that set the isolation level of every transaction, even when the
/// environment asks for another one.
const READ_COMMITTED: &str = "&options=-c%20default_transaction_isolation%3Dread%5C%20committed";

/// Returns the sealer of every test database. All use the same key, because none of their data is
/// secret.
pub fn test_sealer() -> Sealer {
    Sealer::new([42; 32])
}

/// Removes the folders of servers whose processes have ended. The servers end with their processes,
/// but their folders stay.
fn remove_stale_dirs() {
    let prefix = "meshwright-test-postgres-";
    for entry in std::fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let dead = name
            .strip_prefix(prefix)
            .is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists());
        if dead && let Err(error) = std::fs::remove_dir_all(entry.path()) {
            eprintln!(
                "testkit: {} is left behind: {error}",
                entry.path().display()
            );
        }
    }
}

async fn start_server() -> EmbeddedPostgres {
    remove_stale_dirs();
    let postgres = EmbeddedPostgres::start(&server_dir()).expect("a private Postgres");
    Store::prepare_private_database(&postgres, "template_mw", &test_sealer())
        .await
        .expect("three roles, a template and its schema");
    if std::env::var(WALLS_ENV).is_ok_and(|walls| walls == "queries") {
        disable_row_security(&postgres.url("mw_owner", "template_mw")).await;
    }
    if std::env::var(NOTIFICATIONS_ENV).is_ok_and(|hints| hints == "off") {
        disable_notify(&postgres).await;
    }
    postgres
}

/// Disables NOTIFY: puts a schema before `pg_catalog` whose function `pg_notify` does nothing.
async fn disable_notify(postgres: &EmbeddedPostgres) {
    let mut owner = PgConnection::connect(&postgres.url("mw_owner", "template_mw"))
        .await
        .expect("a connection");
    let quiet = "CREATE SCHEMA quiet; GRANT USAGE ON SCHEMA quiet TO PUBLIC;
        CREATE FUNCTION quiet.pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT'";
    sqlx::raw_sql(quiet)
        .execute(&mut owner)
        .await
        .expect("a schema of its own");
    owner.close().await.expect("an end");
    for role in ["mw_api", "mw_worker"] {
        let command = format!("ALTER ROLE {role} SET search_path = quiet, pg_catalog, public");
        execute_as_superuser(postgres, command).await;
    }
}

/// Switches off every row-level security policy, as the owner of the tables.
async fn disable_row_security(owner: &str) {
    let mut owner = PgConnection::connect(owner).await.expect("a connection");
    let off = "DO $$ DECLARE owned text; BEGIN
        FOR owned IN SELECT relname FROM pg_class WHERE relrowsecurity LOOP
            EXECUTE format('ALTER TABLE %I NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY', owned);
        END LOOP; END $$";
    sqlx::query(off)
        .execute(&mut owner)
        .await
        .expect("tables of its own");
    owner.close().await.expect("an end");
}

/// Executes an administrator's command as a superuser.
///
/// # Panics
/// Panics when the database refuses the command.
// Each test has a runtime of its own, and a pooled connection would die with the first one, so this
// connects every time.
pub async fn execute_as_superuser(postgres: &EmbeddedPostgres, command: String) {
    let mut root = PgConnection::connect(&postgres.url(SUPERUSER, "postgres"))
        .await
        .expect("a connection");
    sqlx::raw_sql(sqlx::AssertSqlSafe(command))
        .execute(&mut root)
        .await
        .expect("an administrator's command");
}

impl TestDb {
    /// Creates a database with one tenant in it.
    ///
    /// # Panics
    /// Panics when this machine has no PostgreSQL.
    pub async fn new() -> Self {
        let server = SERVER.get_or_init(start_server).await;
        let ended = std::mem::take(&mut *UNUSED_DATABASES.lock().expect("no holder panics"));
        for name in ended {
            execute_as_superuser(server, format!("DROP DATABASE {name} WITH (FORCE)")).await;
        }
        let name = format!(
            "test_{}",
            NEXT_DATABASE_NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        execute_as_superuser(
            server,
            format!("CREATE DATABASE {name} TEMPLATE template_mw OWNER mw_owner"),
        )
        .await;
        let url = {
            let name = name.clone();
            move |role: &str| server.url(role, &name)
        };
        let name = Arc::new(DatabaseName(name));
        let api = Store::connect(&url("mw_api"), test_sealer())
            .await
            .expect("a connection as mw_api");
        let worker = Store::connect(&url("mw_worker"), test_sealer())
            .await
            .expect("a connection as mw_worker");
        let read_committed = Store::connect(&(url("mw_api") + READ_COMMITTED), test_sealer())
            .await
            .expect("a connection that reads what is committed");
        let tenant = TenantId(Uuid::from_u128(1));
        api.create_tenant(
            tenant,
            "acme",
            "2026-11-22T10:00:00Z".parse().expect("a timestamp"),
        )
        .await
        .expect("a tenant");
        Self {
            api,
            worker,
            read_committed,
            tenant,
            name,
            url: Arc::new(url),
        }
    }

    /// Begins a transaction of the API's role on behalf of the tenant of this database.
    ///
    /// # Panics
    /// Panics when the database does not answer.
    pub async fn begin(&self) -> Tx<'static> {
        let begun = self.api.begin(self.tenant).await;
        begun.expect("a transaction")
    }

    /// Begins a transaction like [`Self::begin`], for a test that looks or prepares while workers
    /// run. It stays at the level "read committed" when a variant makes every transaction of the
    /// service serializable: PostgreSQL may refuse a serializable transaction because of what the
    /// workers do at the same time, and a test does not try again.
    ///
    /// # Panics
    /// Panics when the database does not answer.
    pub async fn begin_beside_workers(&self) -> Tx<'static> {
        let begun = self.read_committed.begin(self.tenant).await;
        begun.expect("a transaction")
    }

    /// Creates another tenant in the same database, and returns the database on behalf of this
    /// tenant.
    ///
    /// # Panics
    /// Panics when the database fails.
    pub async fn for_new_tenant(&self, tenant: TenantId, name: &str) -> Self {
        let at = "2026-11-22T10:00:00Z".parse().expect("a timestamp");
        self.api
            .create_tenant(tenant, name, at)
            .await
            .expect("a tenant");
        Self {
            api: self.api.clone(),
            worker: self.worker.clone(),
            read_committed: self.read_committed.clone(),
            tenant,
            name: self.name.clone(),
            url: self.url.clone(),
        }
    }

    /// Disables row-level security, so that only the queries keep tenants apart.
    ///
    /// # Panics
    /// Panics when the database refuses.
    pub async fn disable_row_security(&self) {
        disable_row_security(&self.url("mw_owner")).await;
    }

    /// Executes one statement with the rights of a role, and returns the number of changed rows.
    ///
    /// # Errors
    /// Returns the message of the database when it refuses.
    pub async fn execute(&self, role: &str, command: &str) -> Result<u64, String> {
        let mut connection = PgConnection::connect(&self.url(role))
            .await
            .map_err(|error| error.to_string())?;
        let done = sqlx::query(sqlx::AssertSqlSafe(command.to_owned()))
            .execute(&mut connection)
            .await;
        done.map(|done| done.rows_affected())
            .map_err(|error| error.to_string())
    }

    /// Executes several statements, such as a migration, with the rights of a role.
    ///
    /// # Errors
    /// Returns the message of the database when it refuses.
    pub async fn execute_script(&self, role: &str, script: &str) -> Result<(), String> {
        let mut connection = PgConnection::connect(&self.url(role))
            .await
            .map_err(|error| error.to_string())?;
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(script.to_owned()))
            .execute(&mut connection)
            .await;
        done.map(drop).map_err(|error| error.to_string())
    }

    /// Returns the first column of a query, which must be text, as a role sees it.
    ///
    /// # Panics
    /// Panics when the database refuses.
    pub async fn query_text(&self, role: &str, query: &str) -> Vec<String> {
        let mut connection = PgConnection::connect(&self.url(role))
            .await
            .expect("a connection");
        let rows = sqlx::query_scalar::<_, Option<String>>(sqlx::AssertSqlSafe(query.to_owned()));
        let rows = rows.fetch_all(&mut connection).await.expect("rows of text");
        rows.into_iter().flatten().collect()
    }

    /// Returns the folder that holds the socket of the server.
    pub fn socket_dir() -> PathBuf {
        server_dir()
    }

    /// Returns the URL of the database for a role, through a relay. PostgreSQL ends a session that
    /// stays idle in a transaction for the time `idle`.
    pub fn relayed_url(&self, role: &str, relay: &Relay, idle: Duration) -> String {
        let limit = format!(
            "-c%20idle_in_transaction_session_timeout%3D{}",
            idle.as_millis()
        );
        format!(
            "postgres://{role}@localhost/{}?host={}&options={limit}",
            self.name.0,
            relay.socket_dir().display()
        )
    }

    /// Returns the URL of the database for a role.
    pub fn url(&self, role: &str) -> String {
        (self.url)(role)
    }
}
