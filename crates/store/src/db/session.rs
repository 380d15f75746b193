//! Lets each async task hold at most one connection: while a task has a transaction, it cannot
//! begin a second one.
//!
//! A pool of ten connections deadlocks when ten tasks hold one connection each and each of them
//! waits for another. A task of a server therefore holds a session and no other handle of the
//! store, and the compiler refuses two transactions of one session.

use std::sync::Arc;

use meshwright_model::ids::TenantId;

use crate::db::connection_quota::TxMode;
use crate::{Store, StoreError, Tx};

/// Value of `plan_cache_mode` that plans each statement once per connection. Planning the statement
/// of a list takes ten times as long as reading a short list, and would otherwise happen for every
/// request.
const GENERIC_PLAN_MODE: &str = "force_generic_plan";

/// The right of one async task to have one transaction at a time on behalf of a tenant.
///
/// A second transaction beside the first one does not compile:
///
/// ```compile_fail,E0499
/// async fn two(session: &mut meshwright_store::Session) -> Result<(), meshwright_store::StoreError> {
///     let first = session.begin().await?;
///     let second = session.begin().await?;
///     second.commit().await?;
///     first.commit().await
/// }
/// ```
///
/// One after the other does:
///
/// ```
/// async fn two(session: &mut meshwright_store::Session) -> Result<(), meshwright_store::StoreError> {
///     session.begin().await?.commit().await?;
///     session.begin().await?.commit().await
/// }
/// ```
///
/// A session cannot be cloned, and a session that was turned into a transaction cannot be used
/// until the transaction has ended:
///
/// ```compile_fail,E0599
/// fn double(session: &meshwright_store::Session) -> meshwright_store::Session {
///     session.clone()
/// }
/// ```
///
/// ```compile_fail,E0382
/// async fn two(session: meshwright_store::Session) -> Result<(), meshwright_store::StoreError> {
///     let first = session.into_tx().await?;
///     let second = session.into_tx().await?;
///     second.commit().await?;
///     first.commit().await
/// }
/// ```
#[derive(Debug)]
pub struct Session {
    store: Store,
    tenant: TenantId,
    mode: TxMode,
}

impl Store {
    /// Creates a session, which lets one async task have one transaction at a time on behalf of a
    /// tenant. This does not begin a transaction yet.
    pub fn session(&self, tenant: TenantId, mode: TxMode) -> Session {
        Session::new(self.clone(), tenant, mode)
    }
}

impl Session {
    pub(crate) fn new(store: Store, tenant: TenantId, mode: TxMode) -> Self {
        Self {
            store,
            tenant,
            mode,
        }
    }

    /// Returns the same session with another mode of its further transactions.
    #[must_use]
    pub fn with_mode(self, mode: TxMode) -> Self {
        Self { mode, ..self }
    }

    /// Begins a transaction, which borrows the session until it ends.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] or [`StoreError::KeyService`] when the database or the key
    /// service does not answer.
    pub async fn begin(&mut self) -> Result<Tx<'_>, StoreError> {
        self.store.begin_with_mode(self.tenant, self.mode).await
    }

    /// Begins a transaction that takes over the session; [`Tx::rollback_into_session`] and
    /// [`Tx::commit_into_session`] return it.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] or [`StoreError::KeyService`] when the database or the key
    /// service does not answer.
    pub async fn into_tx(self) -> Result<Tx<'static>, StoreError> {
        self.store.begin_with_mode(self.tenant, self.mode).await
    }

    /// Begins a transaction that neither opens nor seals secrets, so it does not load the tenant's
    /// keys and calls no key service.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn into_tx_without_keys(self) -> Result<Tx<'static>, StoreError> {
        let turn = self
            .store
            .acquire_connection_permit(self.tenant, self.mode)
            .await;
        let tx = self
            .store
            .begin_with_plan_cache_mode(self.tenant, Arc::default(), GENERIC_PLAN_MODE)
            .await?;
        Ok(Tx {
            _connection_permit: turn,
            mode: self.mode,
            ..tx
        })
    }
}

impl Tx<'static> {
    /// Rolls this transaction back and returns its connection to the pool. The task may wait for
    /// any time before it begins the next transaction.
    pub fn rollback_into_session(self) -> Session {
        Session::new(self.store.clone(), self.tenant, self.mode)
    }

    /// Commits this transaction as [`Tx::commit`] does, and returns the session for the next one.
    ///
    /// # Errors
    /// Returns an error when the database refuses; nothing was changed then.
    pub async fn commit_into_session(self) -> Result<Session, StoreError> {
        let session = Session::new(self.store.clone(), self.tenant, self.mode);
        self.commit().await?;
        Ok(session)
    }
}
