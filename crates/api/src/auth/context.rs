//! What every handler needs. The database is not part of it: a handler has one connection at a time, which it gets from
//! [`Database`], and nothing else here can ask for another one.

use std::sync::Arc;

use axum::http::Method;
use model::Clock;
use model::ids::TenantId;
use store::{Aim, Session, Store, Tx, Vault};

use crate::problem::Result;
use crate::{App, IssuerKeys, Limits, NewAuthority, ReadCharts, ReadKubeconfig};

/// What every handler needs. Clones share it.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) read_kubeconfig: ReadKubeconfig,
    pub(crate) new_authority: NewAuthority,
    pub(crate) read_charts: ReadCharts,
    pub(crate) limits: Arc<Limits>,
    pub(super) issuers: Arc<IssuerKeys>,
    /// The keys that seal secrets.
    pub(crate) vault: Vault,
    store: Store,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

impl From<App> for Context {
    fn from(app: App) -> Self {
        let App { store, clock, read_kubeconfig, new_authority, read_charts, limits, issuers } = app;
        let vault = store.vault().clone();
        Self { clock, read_kubeconfig, new_authority, read_charts, limits, issuers, vault, store }
    }
}

impl Context {
    /// Only the check of a credential begins a session; handlers get that one.
    pub(super) fn session(&self, tenant: TenantId, aim: Aim) -> Session {
        self.store.session(tenant, aim)
    }
}

/// A request's one way to the database, on behalf of its caller's tenant.
#[derive(Debug)]
pub(crate) enum Database {
    /// The transaction in which the caller's credential was checked goes on.
    Begun(Tx<'static>),
    /// No connection is held.
    Resting(Session),
}

impl Database {
    /// A request that only reads goes on in the transaction of the check. One that may have a body holds no connection while
    /// the body comes: the sender decides how long that takes.
    pub(super) fn after_check(checked: Tx<'static>, method: &Method) -> Self {
        if matches!(*method, Method::GET | Method::HEAD) { Self::Begun(checked) } else { Self::Resting(checked.rest()) }
    }

    /// A transaction for reading; it opens and seals no secrets.
    pub(crate) async fn begin(self) -> Result<Tx<'static>> {
        match self {
            Self::Begun(tx) => Ok(tx),
            Self::Resting(session) => Ok(session.into_reading_tx().await?),
        }
    }

    /// A transaction for a change.
    pub(crate) async fn begin_change(self) -> Result<Tx<'static>> {
        let session = match self {
            Self::Begun(tx) => tx.rest(),
            Self::Resting(session) => session,
        };
        Ok(session.into_tx().await?)
    }
}
