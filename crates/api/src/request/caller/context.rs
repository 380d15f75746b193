//! Holds the state that every handler gets. The database is not part of it: a handler has at most
//! one connection at a time and gets it from [`Database`]; no other part of the state opens one.

use std::sync::Arc;

use meshwright_model::Clock;
use meshwright_model::ids::TenantId;
use meshwright_store::{Sealer, Session, Store, Tx, TxMode};

use crate::app::{App, NewAuthority, ReadCharts, ReadKubeconfig};
use crate::error::Result;
use crate::middleware::rate_limit::{RequestClass, RequestLimiter};
use crate::oidc::IssuerKeys;

/// State that every handler needs. Clones share it.
#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) read_kubeconfig: ReadKubeconfig,
    pub(crate) new_authority: NewAuthority,
    pub(crate) read_charts: ReadCharts,
    pub(crate) limits: Arc<RequestLimiter>,
    pub(super) issuers: Arc<IssuerKeys>,
    /// Encryption of secrets, and digests of API keys and page tokens.
    pub(crate) vault: Sealer,
    store: Store,
}

impl std::fmt::Debug for AppState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppState").finish_non_exhaustive()
    }
}

impl From<App> for AppState {
    fn from(app: App) -> Self {
        let App {
            store,
            clock,
            read_kubeconfig,
            new_authority,
            read_charts,
            limits,
            issuers,
        } = app;
        let vault = store.sealer().clone();
        Self {
            clock,
            read_kubeconfig,
            new_authority,
            read_charts,
            limits,
            issuers,
            vault,
            store,
        }
    }
}

impl AppState {
    /// Opens a session for the check of a credential, in which handlers continue. It only reads
    /// until the credential was verified, so that an invented one waits for no other caller's
    /// change.
    pub(super) fn open_session(&self, tenant: TenantId) -> Session {
        self.store.session(tenant, TxMode::Read)
    }
}

/// Access of one request to the database, limited to the tenant of the caller.
#[derive(Debug)]
pub(crate) enum Database {
    /// The transaction that checked the caller's credential is still open.
    InTransaction(Tx<'static>),
    /// The session holds no connection and no transaction.
    Idle(Session),
}

impl Database {
    /// Keeps the transaction of the credential check for a request that only reads. A request that
    /// may have a body gives the connection back while the body arrives, because the sender decides
    /// how long that takes, and its next transaction counts as a write.
    pub(super) fn after_authentication(checked: Tx<'static>, class: RequestClass) -> Self {
        if class == RequestClass::Read {
            Self::InTransaction(checked)
        } else {
            Self::Idle(checked.rollback_into_session().with_mode(TxMode::Write))
        }
    }

    /// Returns a transaction for reading. It neither encrypts nor decrypts secrets.
    pub(crate) async fn begin_read(self) -> Result<Tx<'static>> {
        match self {
            Self::InTransaction(tx) => Ok(tx),
            Self::Idle(session) => Ok(session.into_tx_without_keys().await?),
        }
    }

    /// Returns a transaction for a change, which can also encrypt and decrypt secrets.
    pub(crate) async fn begin_write(self) -> Result<Tx<'static>> {
        let session = match self {
            Self::InTransaction(tx) => tx.rollback_into_session(),
            Self::Idle(session) => session,
        };
        Ok(session.into_tx().await?)
    }
}
