//! One task, one connection: whoever holds a transaction cannot ask the pool for a second connection.
//!
//! A pool of ten connections stands still for good when ten tasks hold one each and each waits for another one. A task of a
//! server therefore holds a session and nothing else of the store, and the compiler refuses two transactions of one session.

use std::sync::Arc;

use model::ids::TenantId;

use crate::turns::TxMode;
use crate::{Store, StoreError, Tx};

/// Planning the statement of a list takes ten times as long as reading a short list does, and it would be done for every
/// request.
const GENERIC_PLAN_MODE: &str = "force_generic_plan";

/// The right of one task to have one transaction at a time on behalf of a tenant.
///
/// A second transaction beside the first one does not compile:
///
/// ```compile_fail,E0499
/// async fn two(session: &mut store::Session) -> Result<(), store::StoreError> {
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
/// async fn two(session: &mut store::Session) -> Result<(), store::StoreError> {
///     session.begin().await?.commit().await?;
///     session.begin().await?.commit().await
/// }
/// ```
///
/// A session cannot be doubled, and one that became a transaction is gone until that has ended:
///
/// ```compile_fail,E0599
/// fn double(session: &store::Session) -> store::Session {
///     session.clone()
/// }
/// ```
///
/// ```compile_fail,E0382
/// async fn two(session: store::Session) -> Result<(), store::StoreError> {
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

impl Session {
    pub(crate) fn new(store: Store, tenant: TenantId, mode: TxMode) -> Self {
        Self { store, tenant, mode }
    }

    /// Begins a transaction. The session is lent to it until it ends.
    ///
    /// # Errors
    /// The database or the key service does not answer.
    pub async fn begin(&mut self) -> Result<Tx<'_>, StoreError> {
        self.store.begin_with_mode(self.tenant, self.mode).await
    }

    /// Begins a transaction that takes the session along; [`Tx::rest`] gives it back.
    ///
    /// # Errors
    /// The database or the key service does not answer.
    pub async fn into_tx(self) -> Result<Tx<'static>, StoreError> {
        self.store.begin_with_mode(self.tenant, self.mode).await
    }

    /// Begins a transaction that opens and seals no secrets: no key service is asked for the tenant's keys.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn into_tx_without_keys(self) -> Result<Tx<'static>, StoreError> {
        let turn = self.store.acquire_connection_permit(self.tenant, self.mode).await;
        let tx = self.store.begin_with_plan_cache_mode(self.tenant, Arc::default(), GENERIC_PLAN_MODE).await?;
        Ok(Tx { _connection_permit: turn, mode: self.mode, ..tx })
    }
}

impl Tx<'static> {
    /// Ends this transaction without keeping what it wrote. The task may wait for as long as it likes before it begins the next
    /// one: the connection is given back.
    pub fn rollback_into_session(self) -> Session {
        Session::new(self.store.clone(), self.tenant, self.mode)
    }

    /// Keeps what this transaction wrote, as [`Tx::commit`] does, and gives the session back for the next one.
    ///
    /// # Errors
    /// The database refused; nothing was changed.
    pub async fn commit_into_session(self) -> Result<Session, StoreError> {
        let session = Session::new(self.store.clone(), self.tenant, self.mode);
        self.commit().await?;
        Ok(session)
    }
}
