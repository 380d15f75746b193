//! Stores everything in Postgres; this is the only crate that uses sqlx.
//!
//! Two independent walls separate tenants, and each is sufficient alone: every query of a tenant's
//! rows takes the tenant from a [`Tx`], and the `Tx` also sets the tenant for row-level security.
//! Events are buffered and get their numbers in the last statement of the transaction.

use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use db::connection_quota::{ConnectionPermit, ConnectionQuota};
use meshwright_model::audit::Entry;
use meshwright_model::ids::TenantId;
use sealing::data_keys::TenantKeys;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgPool, Postgres, Transaction};

mod access;
mod db;
mod error;
mod events;
mod fleet;
mod operations;
mod sealing;

pub use access::api_keys::{ApiKey, ApiKeyToken, NewApiKey};
pub use access::identity_providers::{Binding, Provider, Subject};
pub use access::tenants::{NewTenant, Tenant, TenantState};
pub use db::connection_quota::{TenantPermits, TxMode};
pub use db::embedded_postgres;
pub use db::idempotency::{IdempotencyLookup, RequestKey, StoredResponse};
pub use db::session::Session;
pub use error::StoreError;
pub use events::deliveries::{Delivery, DeliveryAttempt, DeliveryBatch, DeliveryState};
pub use events::event_log::{CursorStatus, EVENT_RETENTION as EVENTS_KEPT, Event, NewEvent};
pub use events::webhooks::{NewWebhook, Webhook};
pub use fleet::catalogue::{HostingCluster, StoredRelease};
pub use fleet::cluster_credentials::{
    CLUSTER_IDENTITY_CONSTRAINT, ClusterCheck, ClusterHealth, IssuedCredential,
};
pub use fleet::clusters::{Cluster, ClusterState, NewCluster};
pub use fleet::deleted_meshes::DeletedMesh;
pub use fleet::labels::ListFilter;
pub use fleet::leftovers::force_arguments;
pub use fleet::meshes::{Member, Mesh, MeshState, NewMesh, Revision, UserMetadata};
pub use operations::fencing::UnfencedOperation;
pub use operations::operation::{NewOperation, Operation, PlannedStep, StepCounts, WaveSummary};
pub use operations::queue::{
    Claim, ClaimFilter, DueObservation, OperationUpdate, PendingSignals, WorkNotifications,
};
pub use operations::renewals::OpenRenewal;
pub use operations::upgrades::{NewUpgrade, Upgrade};
pub use sealing::aead::{hmac_sha256, random_hex, random_key, sha256, sha256_hex};
pub use sealing::sealer::Sealer;
pub use sealing::tenant_keys;

/// A connection pool under one database role, with the sealer of secrets.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    /// Connections that only renew leases, so that renewals never wait for other transactions of
    /// this process.
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
    /// Permit from the connection quota, returned when the transaction is dropped.
    _connection_permit: Option<ConnectionPermit>,
    /// Mode of the transaction: read or write.
    mode: TxMode,
    /// Session that this transaction belongs to. The borrow keeps it from beginning another
    /// transaction meanwhile.
    _session: PhantomData<&'a mut Session>,
}

/// One page of a list: the rows after a key, in the list's own order.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Last key of the previous page; `None` for the first page.
    pub after: Option<uuid::Uuid>,
    /// Number of rows at most.
    pub limit: i64,
}

/// The things that a caller may see in lists; `None` in a field means all of them.
#[derive(Debug, Clone, Default)]
pub struct AccessFilter {
    /// Identifiers of visible meshes, with everything that belongs to them.
    pub meshes: Option<Vec<uuid::Uuid>>,
    /// Identifiers of visible clusters, with everything that belongs to them.
    pub clusters: Option<Vec<uuid::Uuid>>,
}

impl AccessFilter {
    /// Access to all meshes and clusters of the tenant.
    pub const ALL: Self = Self {
        meshes: None,
        clusters: None,
    };
}

impl Page {
    /// The whole list in one page, for lists that are always short.
    pub const ALL: Self = Self {
        after: None,
        limit: i64::MAX,
    };
}

/// SQL that creates the missing database roles. Only a superuser can run it.
pub const CREATE_ROLES_SQL: &str = include_str!("roles.sql");

/// Number of connections that one process keeps. Two cores do not serve more at once.
const MAX_POOL_CONNECTIONS: u32 = 10;

/// Time that a transaction waits for a connection before its caller is told to retry.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(20);

/// Idle time after which a connection is pinged before it is used, because the database may have
/// been restarted. A connection in constant use is not pinged, because the ping costs a round trip.
const PING_AFTER_IDLE: Duration = Duration::from_secs(1);

/// Number of connections that renew leases. With a database that takes two seconds per renewal, 32
/// claims are renewed within eight seconds.
const MAX_LEASE_CONNECTIONS: u32 = 8;

/// Postgres setting that ends a transaction in which a stalled machine would hold its row locks, so
/// that other workers could not take over its operation. Our transactions wait for nothing but the
/// database, so a third of the shortest sensible lease is enough. The database URL may set its own
/// value.
const IDLE_IN_TRANSACTION: &str = "idle_in_transaction_session_timeout";

/// Builds the options of a pool that pings only connections that have been idle.
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
    /// Connects to the database.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the URL is malformed or the database does not answer.
    pub async fn connect(url: &str, sealer: Sealer) -> Result<Self, StoreError> {
        let mut options = PgConnectOptions::from_str(url)?;
        if !url.contains(IDLE_IN_TRANSACTION) {
            options = options.options([(IDLE_IN_TRANSACTION, "5s")]);
        }
        let renewals = pool_options(MAX_LEASE_CONNECTIONS).connect_lazy_with(options.clone());
        let pool = pool_options(MAX_POOL_CONNECTIONS)
            .connect_with(options)
            .await?;
        Ok(Self {
            pool,
            lease_pool: renewals,
            sealer,
            connection_quota: None,
        })
    }

    /// Returns the same store with a connection quota: no tenant uses more than a quarter of the
    /// connections at once, and write transactions use no more connections than there are
    /// processors (at least 2, at most half of the connections). Each async task of the process
    /// must hold a [`Session`]: a task with two transactions of one tenant would wait for itself.
    #[must_use]
    pub fn with_connection_quota(self) -> Self {
        let connections = MAX_POOL_CONNECTIONS as usize;
        // A write keeps a processor busy, here or in the database. More writes at once than there
        // are processors do not end sooner, and they delay reads.
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let changes = processors.clamp(2, connections / 2);
        Self {
            connection_quota: Some(ConnectionQuota::new(connections / 4, changes)),
            ..self
        }
    }

    /// Refuses a database role that bypasses row-level security: a superuser, a role with
    /// BYPASSRLS, or the owner of a table.
    ///
    /// # Errors
    /// Returns [`StoreError::UnsafeRole`], which names the role.
    pub async fn require_rls_enforced_role(&self) -> Result<(), StoreError> {
        let row = sqlx::query!(
            r#"SELECT current_user::text AS "role!", (rolsuper OR rolbypassrls
                   OR EXISTS (SELECT FROM pg_class WHERE relname = 'meshes' AND relowner = pg_roles.oid)) AS "unbounded!"
               FROM pg_roles WHERE rolname = current_user"#
        )
        .fetch_one(&self.pool)
        .await?;
        if row.unbounded {
            Err(StoreError::UnsafeRole { role: row.role })
        } else {
            Ok(())
        }
    }

    /// Brings the schema up to date. Only the role that owns the tables can do this.
    ///
    /// # Errors
    /// Returns [`StoreError::Migration`] when a migration failed, or when one that was applied
    /// before has changed since.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        sqlx::migrate!("../../migrations")
            .run(&self.pool)
            .await
            .map_err(|error| StoreError::Migration(Box::new(error)))
    }

    /// Creates the missing database roles. This needs a superuser; `dev` and the tests use it.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database refuses.
    pub async fn create_roles(&self) -> Result<(), StoreError> {
        sqlx::raw_sql(CREATE_ROLES_SQL).execute(&self.pool).await?;
        Ok(())
    }

    /// Creates a database owned by `mw_owner`, unless it exists. This needs a superuser; `dev` uses
    /// it.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database refuses.
    pub async fn create_database(&self, name: &'static str) -> Result<(), StoreError> {
        let known = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1) AS "known!""#,
            name
        );
        if !known.fetch_one(&self.pool).await? {
            // The name is a constant of ours and no user input. SQL has no parameters for names of
            // databases.
            let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name} OWNER mw_owner"));
            sqlx::query(create).execute(&self.pool).await?;
        }
        Ok(())
    }

    /// Creates a session, which lets one async task have one transaction at a time on behalf of a
    /// tenant. This does not begin a transaction yet.
    pub fn session(&self, tenant: TenantId, mode: TxMode) -> Session {
        Session::new(self.clone(), tenant, mode)
    }

    /// Begins a write transaction on behalf of a tenant. This is for programs and tests that do one
    /// thing after the other. The async tasks of a server hold a [`Session`] instead, which allows
    /// no second transaction beside the first one.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] or [`StoreError::KeyService`] when the database or the key
    /// service does not answer.
    pub async fn begin(&self, tenant: TenantId) -> Result<Tx<'static>, StoreError> {
        self.begin_with_mode(tenant, TxMode::Write).await
    }

    async fn begin_with_mode(
        &self,
        tenant: TenantId,
        mode: TxMode,
    ) -> Result<Tx<'static>, StoreError> {
        let turn = self.acquire_connection_permit(tenant, mode).await;
        let keys = self.tenant_keys(tenant).await?;
        Ok(Tx {
            _connection_permit: turn,
            mode,
            ..self.begin_with_keys(tenant, keys).await?
        })
    }

    /// Waits for a permit of the connection quota. The caller holds no connection while it waits,
    /// so it keeps none from other tenants.
    async fn acquire_connection_permit(
        &self,
        tenant: TenantId,
        mode: TxMode,
    ) -> Option<ConnectionPermit> {
        match &self.connection_quota {
            Some(turns) => Some(turns.acquire_permit(tenant, mode).await),
            None => None,
        }
    }

    pub(crate) async fn begin_with_keys(
        &self,
        tenant: TenantId,
        keys: Arc<TenantKeys>,
    ) -> Result<Tx<'static>, StoreError> {
        self.begin_with_plan_cache_mode(tenant, keys, "auto").await
    }

    /// Begins a transaction with this value of `plan_cache_mode`: `auto` may plan a statement for
    /// its parameters, and `force_generic_plan` plans each statement once per connection.
    pub(crate) async fn begin_with_plan_cache_mode(
        &self,
        tenant: TenantId,
        keys: Arc<TenantKeys>,
        planning: &'static str,
    ) -> Result<Tx<'static>, StoreError> {
        // One round trip sets everything. The text of a UUID has only hexadecimal digits and
        // dashes, so it is safe in SQL text.
        let begin = format!(
            "BEGIN; SELECT set_config('mw.tenant', '{}', true), set_config('plan_cache_mode', '{planning}', true)",
            tenant.0
        );
        let inner = self.pool.begin_with(sqlx::AssertSqlSafe(begin)).await?;
        let (events, entries, store) = (Vec::new(), Vec::new(), self.clone());
        Ok(Tx {
            inner,
            tenant,
            events,
            audit_entries: entries,
            store,
            keys,
            _connection_permit: None,
            mode: TxMode::Write,
            _session: PhantomData,
        })
    }

    /// Returns the sealer of secrets.
    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// Returns true when the database answers.
    pub async fn is_healthy(&self) -> bool {
        sqlx::query!(r#"SELECT 1 AS "one!""#)
            .fetch_one(&self.pool)
            .await
            .is_ok()
    }

    /// Closes all connections of both pools.
    pub async fn close(&self) {
        self.lease_pool.close().await;
        self.pool.close().await;
    }
}

impl Tx<'_> {
    /// Returns the tenant that this transaction acts for.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Buffers an event. It gets its number when the transaction commits.
    pub fn push_event(&mut self, event: NewEvent) {
        self.events.push(event);
    }

    /// Writes the buffered events and audit entries, and commits.
    ///
    /// # Errors
    /// Returns an error when the database refuses; nothing was changed then.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        self.flush_events_and_audit().await?;
        self.inner.commit().await?;
        Ok(())
    }

    /// Commits, and renews the lease of a claim in the last statement. Returns an instant from
    /// before that statement was sent; the lease counted from it ends no later than the lease in
    /// the database.
    ///
    /// # Errors
    /// Returns the errors of [`Tx::commit`], and [`StoreError::Fenced`] when another claim has
    /// taken over the operation.
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

/// Number of times that a single statement is retried after a serialization conflict.
const MAX_CONFLICT_RETRIES: usize = 20;

/// Retries a short piece of work after each serialization conflict, up to a limit.
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

/// Returns the range of identifiers that a query reads: a single identifier or all of them. A range
/// condition uses the index also in a generic plan, while a condition that is skipped when its
/// parameter is NULL does not.
fn id_bounds(only: Option<uuid::Uuid>) -> (uuid::Uuid, uuid::Uuid) {
    only.map_or((uuid::Uuid::nil(), uuid::Uuid::max()), |id| (id, id))
}

/// Returns `missing` unless a write changed exactly one row.
fn require_one_row(rows: u64, missing: StoreError) -> Result<(), StoreError> {
    if rows == 1 { Ok(()) } else { Err(missing) }
}
