//! Postgres: the only crate that names sqlx.
//!
//! Every query of a tenant's rows takes its tenant from a [`Tx`], which also sets it for row-level security: two walls,
//! each sufficient alone. Events are buffered and get their numbers in the last statement of the transaction.

use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use envelope::TenantKeys;
use model::audit::Entry;
use model::ids::TenantId;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgPool, Postgres, Transaction};
use turns::{ConnectionPermit, ConnectionQuota};

mod attempts;
mod audit;
mod catalogue;
mod clusters;
mod credentials;
mod deliveries;
mod deregistration;
mod ends;
pub mod envelope;
mod error;
mod events;
mod fencing;
mod idempotency;
mod identity;
mod keys;
mod labels;
mod leftovers;
mod master;
mod meshes;
mod operations;
pub mod private;
mod queue;
mod remains;
mod renewals;
mod revisions;
mod rotation;
mod session;
mod slots;
mod tenants;
mod turns;
mod upgrades;
mod vault;
mod webhooks;

pub use catalogue::{HostingCluster, StoredRelease};
pub use clusters::{Cluster, ClusterState, NewCluster};
pub use credentials::{IssuedCredential, CLUSTER_IDENTITY_CONSTRAINT, ClusterCheck, ClusterHealth};
pub use deliveries::{DeliveryAttempt, Delivery, DeliveryState, DeliveryBatch};
pub use error::StoreError;
pub use events::{CursorStatus, Event, EVENT_RETENTION as EVENTS_KEPT, NewEvent};
pub use fencing::UnfencedOperation;
pub use idempotency::{StoredResponse, IdempotencyLookup, RequestKey};
pub use identity::{Binding, Provider, Subject};
pub use keys::{ApiKey, ApiKeyToken, NewApiKey};
pub use labels::ListFilter;
pub use leftovers::force_arguments;
pub use meshes::{Member, Mesh, MeshState, NewMesh, Revision, UserMetadata};
pub use operations::{StepCounts, PlannedStep, NewOperation, Operation, WaveSummary};
pub use queue::{Claim, WorkNotifications, DueObservation, OperationUpdate, ClaimFilter, PendingSignals};
pub use remains::DeletedMesh;
pub use renewals::OpenRenewal;
pub use session::Session;
pub use tenants::{NewTenant, Tenant, TenantState};
pub use turns::{TxMode, TenantPermits};
pub use upgrades::{NewUpgrade, Upgrade};
pub use vault::{Sealer, sha256_hex, random_key as random_key, hmac_sha256, random_hex, sha256};
pub use webhooks::{NewWebhook, Webhook};

/// A connection pool under one database role, and the key that seals secrets.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    /// For renewals of leases alone: they wait for no transaction of ours.
    lease_pool: PgPool,
    sealer: Sealer,
    connection_quota: Option<ConnectionQuota>,
}

/// One transaction on behalf of one tenant.
#[derive(Debug)]
pub struct Tx<'a> {
    inner: Transaction<'static, Postgres>,
    tenant: TenantId,
    events: Vec<NewEvent>,
    audit_entries: Vec<Entry>,
    store: Store,
    keys: Arc<TenantKeys>,
    /// Given back when this ends.
    _connection_permit: Option<ConnectionPermit>,
    /// What the task that has it is going to do.
    mode: TxMode,
    /// The session that this transaction belongs to, which cannot begin another one meanwhile.
    _session: PhantomData<&'a mut Session>,
}

/// Which part of a list: what comes after a key, in the list's own order.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// The last key of the page before.
    pub after: Option<uuid::Uuid>,
    /// How many rows.
    pub limit: i64,
}

/// Which things a list shows; none means every one of them.
#[derive(Debug, Clone, Default)]
pub struct AccessFilter {
    /// Meshes, with what belongs to them.
    pub meshes: Option<Vec<uuid::Uuid>>,
    /// Clusters, with what belongs to them.
    pub clusters: Option<Vec<uuid::Uuid>>,
}

impl AccessFilter {
    /// Everything.
    pub const ALL: Self = Self { meshes: None, clusters: None };
}

impl Page {
    /// Everything at once, where there cannot be much.
    pub const ALL: Self = Self { after: None, limit: i64::MAX };
}

/// What makes the database roles, where they are missing. For a superuser.
pub const CREATE_ROLES_SQL: &str = include_str!("roles.sql");

/// How many connections one process keeps; two cores serve no more at once.
const MAX_POOL_CONNECTIONS: u32 = 10;

/// How long a transaction waits for a connection before its caller is told to come back.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection that was idle for longer is asked whether it still answers before it is used: the database may have been
/// restarted meanwhile. One that was in use just now is not, because the question costs a round trip.
const PING_AFTER_IDLE: Duration = Duration::from_secs(1);

/// How many connections renew leases: a database that takes two seconds serves 32 claims within eight.
const MAX_LEASE_CONNECTIONS: u32 = 8;

/// A machine that stands still inside a transaction would hold its rows, and nobody could take its operation over. No
/// transaction of ours waits for anything but the database, so a third of the shortest sensible lease is plenty. An address
/// may set its own.
const IDLE_IN_TRANSACTION: &str = "idle_in_transaction_session_timeout";

/// Connections that are asked whether they still answer only after they were idle.
fn pool_options(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, known| {
            Box::pin(async move {
                if known.idle_for > PING_AFTER_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
}

impl Store {
    /// Connects.
    ///
    /// # Errors
    /// The address is malformed or the database does not answer.
    pub async fn connect(url: &str, sealer: Sealer) -> Result<Self, StoreError> {
        let mut options = PgConnectOptions::from_str(url)?;
        if !url.contains(IDLE_IN_TRANSACTION) {
            options = options.options([(IDLE_IN_TRANSACTION, "5s")]);
        }
        let renewals = pool_options(MAX_LEASE_CONNECTIONS).connect_lazy_with(options.clone());
        let pool = pool_options(MAX_POOL_CONNECTIONS).connect_with(options).await?;
        Ok(Self { pool, lease_pool: renewals, sealer, connection_quota: None })
    }

    /// The same connections, of which no tenant has more than a quarter at once, and changes no more than there are processors.
    /// For a process whose tasks hold a [`Session`] each: a task that had two transactions of one tenant would wait for itself.
    #[must_use]
    pub fn with_connection_quota(self) -> Self {
        let connections = MAX_POOL_CONNECTIONS as usize;
        // A change is work for a processor, here or in the database: more at once than there are processors end no sooner, and
        // keep those who look waiting.
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let changes = processors.clamp(2, connections / 2);
        Self { connection_quota: Some(ConnectionQuota::new(connections / 4, changes)), ..self }
    }

    /// Refuses a role that would see through row-level security: a superuser, one with BYPASSRLS, or a table's owner.
    ///
    /// # Errors
    /// [`StoreError::UnsafeRole`] names the role.
    pub async fn require_rls_enforced_role(&self) -> Result<(), StoreError> {
        let row = sqlx::query!(
            r#"SELECT current_user::text AS "role!", (rolsuper OR rolbypassrls
                   OR EXISTS (SELECT FROM pg_class WHERE relname = 'meshes' AND relowner = pg_roles.oid)) AS "unbounded!"
               FROM pg_roles WHERE rolname = current_user"#
        )
        .fetch_one(&self.pool)
        .await?;
        if row.unbounded { Err(StoreError::UnsafeRole { role: row.role }) } else { Ok(()) }
    }

    /// Brings the schema up to date. Only the role that owns the tables can.
    ///
    /// # Errors
    /// A migration failed, or a landed one was changed.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        sqlx::migrate!("../../migrations").run(&self.pool).await.map_err(|error| StoreError::Migration(Box::new(error)))
    }

    /// Makes the database roles, where they are missing. Needs a superuser; `dev` and the tests use it.
    ///
    /// # Errors
    /// The database refused.
    pub async fn create_roles(&self) -> Result<(), StoreError> {
        sqlx::raw_sql(CREATE_ROLES_SQL).execute(&self.pool).await?;
        Ok(())
    }

    /// Makes a database owned by `mw_owner`, where it is missing. Needs a superuser; `dev` uses it.
    ///
    /// # Errors
    /// The database refused.
    pub async fn create_database(&self, name: &'static str) -> Result<(), StoreError> {
        let known =
            sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1) AS "known!""#, name);
        if !known.fetch_one(&self.pool).await? {
            // A name of ours, not a user's: there is no parameter for names.
            let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name} OWNER mw_owner"));
            sqlx::query(create).execute(&self.pool).await?;
        }
        Ok(())
    }

    /// The right of one task to have one transaction at a time on behalf of a tenant. Nothing is begun yet.
    pub fn session(&self, tenant: TenantId, mode: TxMode) -> Session {
        Session::new(self.clone(), tenant, mode)
    }

    /// Begins a transaction on behalf of a tenant. For programs and tests that do one thing after the other; a server's tasks
    /// hold a [`Session`], beside whose transaction nothing else can be asked of the store.
    ///
    /// # Errors
    /// The database or the key service does not answer.
    pub async fn begin(&self, tenant: TenantId) -> Result<Tx<'static>, StoreError> {
        self.begin_with_mode(tenant, TxMode::Write).await
    }

    async fn begin_with_mode(&self, tenant: TenantId, mode: TxMode) -> Result<Tx<'static>, StoreError> {
        let turn = self.acquire_connection_permit(tenant, mode).await;
        let keys = self.tenant_keys(tenant).await?;
        Ok(Tx { _connection_permit: turn, mode, ..self.begin_with_keys(tenant, keys).await? })
    }

    /// A turn is waited for without a connection: those who wait keep no other tenant from one.
    async fn acquire_connection_permit(&self, tenant: TenantId, mode: TxMode) -> Option<ConnectionPermit> {
        match &self.connection_quota {
            Some(turns) => Some(turns.acquire_permit(tenant, mode).await),
            None => None,
        }
    }

    pub(crate) async fn begin_with_keys(&self, tenant: TenantId, keys: Arc<TenantKeys>) -> Result<Tx<'static>, StoreError> {
        self.begin_with_plan_cache_mode(tenant, keys, "auto").await
    }

    /// A transaction whose statements are planned in this way: `auto` looks at their values, `force_generic_plan` plans each of
    /// them once for a connection.
    pub(crate) async fn begin_with_plan_cache_mode(
        &self,
        tenant: TenantId,
        keys: Arc<TenantKeys>,
        planning: &'static str,
    ) -> Result<Tx<'static>, StoreError> {
        // One round trip for all of it. A UUID's text has digits and dashes only.
        let begin = format!(
            "BEGIN; SELECT set_config('mw.tenant', '{}', true), set_config('plan_cache_mode', '{planning}', true)",
            tenant.0
        );
        let inner = self.pool.begin_with(sqlx::AssertSqlSafe(begin)).await?;
        let (events, entries, store) = (Vec::new(), Vec::new(), self.clone());
        Ok(Tx { inner, tenant, events, audit_entries: entries, store, keys, _connection_permit: None, mode: TxMode::Write, _session: PhantomData })
    }

    /// The key that seals secrets.
    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// True when the database answers.
    pub async fn is_healthy(&self) -> bool {
        sqlx::query!(r#"SELECT 1 AS "one!""#).fetch_one(&self.pool).await.is_ok()
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.lease_pool.close().await;
        self.pool.close().await;
    }
}

impl Tx<'_> {
    /// On whose behalf.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Buffers an event; it gets its number when the transaction commits.
    pub fn push_event(&mut self, event: NewEvent) {
        self.events.push(event);
    }

    /// Writes the buffered events and audit entries, and commits.
    ///
    /// # Errors
    /// The database refused; nothing was changed.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        self.flush_events_and_audit().await?;
        self.inner.commit().await?;
        Ok(())
    }

    /// Commits, and makes a claim's lease whole in the last statement. Answers an instant before that statement was sent.
    ///
    /// # Errors
    /// As [`Tx::commit`]; and [`StoreError::Fenced`] when another claim has the operation.
    pub async fn commit_and_renew_lease(mut self, claim: &Claim) -> Result<Instant, StoreError> {
        self.flush_events_and_audit().await?;
        let since = Instant::now();
        let done = sqlx::query!(
            "UPDATE work_queue SET lease_until = clock_timestamp() + make_interval(secs => $3) WHERE operation_id = $1 AND epoch = $2",
            claim.operation.0,
            claim.epoch,
            claim.lease.as_secs_f64()
        )
        .execute(&mut *self.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::Fenced)?;
        self.inner.commit().await?;
        Ok(since)
    }
}

/// How often a statement of its own is sent again while others are in its way.
const MAX_CONFLICT_RETRIES: usize = 20;

/// Does a small thing again while another transaction is in its way.
pub(crate) async fn retry_on_conflict<T, F>(work: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    for _ in 0..MAX_CONFLICT_RETRIES {
        match work().await {
            Err(StoreError::SerializationConflict) => tokio::task::yield_now().await,
            other => return other,
        }
    }
    work().await
}

/// The bounds of the ids that a query reads: of one, or of all. A condition on a range uses the index in a plan that is made
/// once for every value; one that is left out where a parameter is NULL does not.
fn id_bounds(only: Option<uuid::Uuid>) -> (uuid::Uuid, uuid::Uuid) {
    only.map_or((uuid::Uuid::nil(), uuid::Uuid::max()), |id| (id, id))
}

/// One row that a write must have hit.
fn require_one_row(rows: u64, missing: StoreError) -> Result<(), StoreError> {
    if rows == 1 { Ok(()) } else { Err(missing) }
}
