//! What every handler needs. The database is not part of it: a handler has one connection at a time, which it gets from
//! [`Database`], and nothing else here can ask for another one.

use std::sync::Arc;

use axum::http::Method;
use model::Clock;
use model::ids::TenantId;
use store::{TxMode, Session, Store, Tx, Sealer};

use crate::problem::Result;
use crate::{App, IssuerKeys, RequestLimiter, NewAuthority, ReadCharts, ReadKubeconfig};

/// What every handler needs. Clones share it.
#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) read_kubeconfig: ReadKubeconfig,
    pub(crate) new_authority: NewAuthority,
    pub(crate) read_charts: ReadCharts,
    pub(crate) limits: Arc<RequestLimiter>,
    pub(super) issuers: Arc<IssuerKeys>,
    /// The keys that seal secrets.
    pub(crate) vault: Sealer,
    store: Store,
}

impl std::fmt::Debug for AppState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

impl From<App> for AppState {
    fn from(app: App) -> Self {
        let App { store, clock, read_kubeconfig, new_authority, read_charts, limits, issuers } = app;
        let vault = store.sealer().clone();
        Self { clock, read_kubeconfig, new_authority, read_charts, limits, issuers, vault, store }
    }
}

impl AppState {
    /// Only the check of a credential begins a session; handlers get that one.
    pub(super) fn open_session(&self, tenant: TenantId, aim: TxMode) -> Session {
        self.store.session(tenant, aim)
    }
}

/// A request's one way to the database, on behalf of its caller's tenant.
#[derive(Debug)]
pub(crate) enum Database {
    /// The transaction in which the caller's credential was checked goes on.
    InTransaction(Tx<'static>),
    /// No connection is held.
    Idle(Session),
}

impl Database {
    /// A request that only reads goes on in the transaction of the check. One that may have a body holds no connection while
    /// the body comes: the sender decides how long that takes.
    pub(super) fn after_authentication(checked: Tx<'static>, method: &Method) -> Self {
        if matches!(*method, Method::GET | Method::HEAD) { Self::InTransaction(checked) } else { Self::Idle(checked.rollback_into_session()) }
    }

    /// A transaction for reading; it opens and seals no secrets.
    pub(crate) async fn begin_read(self) -> Result<Tx<'static>> {
        match self {
            Self::InTransaction(tx) => Ok(tx),
            Self::Idle(session) => Ok(session.into_tx_without_keys().await?),
        }
    }

    /// A transaction for a change.
    pub(crate) async fn begin_write(self) -> Result<Tx<'static>> {
        let session = match self {
            Self::InTransaction(tx) => tx.rollback_into_session(),
            Self::Idle(session) => session,
        };
        Ok(session.into_tx().await?)
    }
}
