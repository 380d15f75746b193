//! Begins and commits transactions. Each acts on behalf of one tenant, and writes its buffered
//! events and audit entries when it commits.

use std::marker::PhantomData;
use std::sync::Arc;

use meshwright_model::audit::Entry;
use meshwright_model::ids::TenantId;
use sqlx::{Postgres, Transaction};

use crate::db::connection_quota::{ConnectionPermit, TxMode};
use crate::db::store::Store;
use crate::sealing::data_keys::TenantKeys;
use crate::{NewEvent, StoreError};

/// One transaction on behalf of one tenant.
#[derive(Debug)]
pub struct Tx<'a> {
    pub(crate) inner: Transaction<'static, Postgres>,
    pub(crate) tenant: TenantId,
    pub(crate) events: Vec<NewEvent>,
    pub(crate) audit_entries: Vec<Entry>,
    pub(crate) store: Store,
    pub(crate) keys: Arc<TenantKeys>,
    /// Permit from the connection quota, returned when the transaction is dropped.
    pub(super) _connection_permit: Option<ConnectionPermit>,
    /// Mode of the transaction: read or write.
    pub(super) mode: TxMode,
    /// Session that this transaction belongs to. The borrow keeps it from beginning another
    /// transaction meanwhile.
    pub(super) _session: PhantomData<&'a mut ()>,
}

impl Store {
    /// Begins a write transaction on behalf of a tenant. This is for programs and tests that do one
    /// thing after the other. The async tasks of a server hold a [`Session`](crate::Session) instead, which allows
    /// no second transaction beside the first one.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] or [`StoreError::KeyService`] when the database or the key
    /// service does not answer.
    pub async fn begin(&self, tenant: TenantId) -> Result<Tx<'static>, StoreError> {
        self.begin_with_mode(tenant, TxMode::Write).await
    }

    pub(super) async fn begin_with_mode(
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
        self.events().flush_events_and_audit().await?;
        self.inner.commit().await?;
        Ok(())
    }
}
