//! Connects to the database, and brings its schema up to date.

use std::str::FromStr;
use std::time::Duration;

use meshwright_model::ids::TenantId;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgPool};

use crate::db::connection_quota::{ConnectionPermit, ConnectionQuota, TxMode};
use crate::db::embedded_postgres::{EmbeddedPostgres, SUPERUSER};
use crate::{Sealer, StoreError};

/// A connection pool under one database role, with the sealer of secrets.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) pool: PgPool,
    /// Connections that only renew leases, so that renewals never wait for other transactions of
    /// this process.
    pub(crate) lease_pool: PgPool,
    pub(crate) sealer: Sealer,
    connection_quota: Option<ConnectionQuota>,
}

/// SQL that creates the missing database roles. Only a superuser can run it.
pub const CREATE_ROLES_SQL: &str = include_str!("../roles.sql");

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
    /// processors (at least one more than a tenant may have, at most half of the connections). Each
    /// async task of the process must hold a [`Session`](crate::Session): a task with two
    /// transactions of one tenant would wait for itself.
    #[must_use]
    pub fn with_connection_quota(self) -> Self {
        let connections = MAX_POOL_CONNECTIONS as usize;
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            connection_quota: Some(ConnectionQuota::for_pool(connections, processors)),
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

    /// Creates the roles, a database of this name and its schema on a private server, unless they
    /// exist. After this, no connection needs the superuser or the owner of the tables.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database refuses, and the errors of
    /// [`Self::migrate`].
    pub async fn prepare_private_database(
        server: &EmbeddedPostgres,
        name: &'static str,
        sealer: &Sealer,
    ) -> Result<(), StoreError> {
        let root = Self::connect(&server.url(SUPERUSER, "postgres"), sealer.clone()).await?;
        root.create_roles().await?;
        root.create_database(name).await?;
        root.close().await;
        let owner = Self::connect(&server.url("mw_owner", name), sealer.clone()).await?;
        owner.migrate().await?;
        owner.close().await;
        Ok(())
    }

    /// Creates the missing database roles. This needs a superuser.
    async fn create_roles(&self) -> Result<(), StoreError> {
        sqlx::raw_sql(CREATE_ROLES_SQL).execute(&self.pool).await?;
        Ok(())
    }

    /// Creates a database owned by `mw_owner`, unless it exists. This needs a superuser.
    async fn create_database(&self, name: &'static str) -> Result<(), StoreError> {
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

    /// Waits for a permit of the connection quota. The caller holds no connection while it waits,
    /// so it keeps none from other tenants.
    pub(super) async fn acquire_connection_permit(
        &self,
        tenant: TenantId,
        mode: TxMode,
    ) -> Option<ConnectionPermit> {
        match &self.connection_quota {
            Some(turns) => Some(turns.acquire_permit(tenant, mode).await),
            None => None,
        }
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
