//! Authenticates callers and checks what they may do. The tenant of a request comes from its
//! credential and from no other part of the request.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use meshwright_model::access::{AccessDecision, Action, Grant, Scope, authorize};
use meshwright_model::fleet::TenantState;
use meshwright_model::ids::{KeyId, ProviderId, TenantId};
use meshwright_store::{AccessFilter, ApiKeyToken, StoreError, Tx};

use crate::connection_limits::ClientConnection;
use crate::error::{ApiError, Result};
use crate::middleware::rate_limit::RequestClass;
use crate::middleware::request_context;
use crate::oidc::{self, OidcIdentity};

mod context;

pub(crate) use context::{AppState, Database};

/// An authenticated caller.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) tenant: TenantId,
    /// Name of the caller in the audit log: the id of an API key, or `<provider id>/<subject>` for
    /// a token of an identity provider.
    pub(crate) principal: String,
    grants: Vec<Grant>,
    origin: CredentialSource,
    pub(crate) app: AppState,
}

/// Extractor that authenticates a request. It holds the caller and the only access to the database
/// that the handler gets.
#[derive(Debug)]
pub(crate) struct Authenticated(pub(crate) Caller, pub(crate) Database);

/// Delay of an answer with the status 429.
const RATE_LIMIT_RESPONSE_DELAY: Duration = Duration::from_millis(250);

/// Credential that a caller was authenticated with.
#[derive(Debug, Clone)]
enum CredentialSource {
    ApiKey(KeyId),
    /// A token of an identity provider, which is valid until it expires.
    OidcToken {
        provider: ProviderId,
        person: OidcIdentity,
    },
}

impl Caller {
    /// Returns the same caller with the grants that hold now, for a request that lasts long, such
    /// as a stream of events. Fails if the key was revoked or has expired, the token has expired,
    /// or the tenant was suspended.
    pub(crate) async fn reload_grants(self, tx: &mut Tx<'_>) -> Result<Self> {
        let now = self.app.clock.now();
        require_active_tenant(tx.tenants().current_tenant().await?.state)?;
        let grants = match &self.origin {
            CredentialSource::ApiKey(id) => {
                let key = tx.api_keys().get_api_key(*id).await?;
                if !key.is_active(now) {
                    return Err(ApiError::unauthenticated());
                }
                key.grants()
            }
            CredentialSource::OidcToken { provider, person } => {
                tx.identities().get_identity_provider(*provider).await?;
                if person.expires_at <= now {
                    return Err(ApiError::unauthenticated());
                }
                tx.identities()
                    .list_grants(*provider, &person.subject, &person.groups)
                    .await?
            }
        };
        Ok(Self { grants, ..self })
    }

    /// Refuses an action that no grant of the caller allows on the whole tenant.
    pub(crate) fn require_permission(&self, action: Action) -> Result<()> {
        self.require_permission_on(action, &[], "tenant")
    }

    /// Refuses an action that no grant of the caller allows on an object with the scopes `on`. An
    /// object that the caller may not even read is answered with 404, as if it did not exist.
    pub(crate) fn require_permission_on(
        &self,
        action: Action,
        on: &[Scope],
        what: &str,
    ) -> Result<()> {
        if !action.applies_to_tenant(self.tenant) {
            return Err(ApiError::wrong_tenant_kind(action));
        }
        match authorize(&self.grants, action, on) {
            AccessDecision::Allowed => Ok(()),
            AccessDecision::Forbidden => Err(ApiError::forbidden(action)),
            AccessDecision::Hidden => Err(ApiError::not_found(what)),
        }
    }

    /// Returns the meshes and clusters that lists show to this caller: all of them, or those that
    /// the caller's grants cover.
    pub(crate) fn access_filter(&self) -> AccessFilter {
        let mut reach = AccessFilter {
            meshes: Some(Vec::new()),
            clusters: Some(Vec::new()),
        };
        for grant in self
            .grants
            .iter()
            .filter(|grant| grant.role.allows(Action::Read))
        {
            match grant.scope {
                Scope::Tenant => return AccessFilter::ALL,
                Scope::Mesh(id) => reach.meshes.get_or_insert_default().push(id.0),
                Scope::Cluster(id) => reach.clusters.get_or_insert_default().push(id.0),
            }
        }
        reach
    }
}

/// Waits for `RATE_LIMIT_RESPONSE_DELAY`, then returns the problem for a rate limit that was
/// exceeded. A client that obeys `Retry-After`, which is at least a second, does not notice the
/// delay. A client that ignores it is slowed down on its own connection, where the next request
/// waits for this answer. The connection can be closed meanwhile, so that such clients do not keep
/// others out.
async fn delayed_rate_limit_error(connection: Option<&ClientConnection>, seconds: u64) -> ApiError {
    let delay = tokio::time::sleep(RATE_LIMIT_RESPONSE_DELAY);
    match connection {
        Some(connection) => connection.run_while_closable(delay).await,
        None => delay.await,
    }
    ApiError::rate_limited(seconds)
}

impl FromRequestParts<AppState> for Authenticated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self> {
        let header = parts
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let text = header
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or_else(ApiError::unauthenticated)?;
        let (text, class) = (
            text.trim(),
            RequestClass::of_request(&parts.method, parts.uri.path()),
        );
        let connection = parts.extensions.get::<ClientConnection>();
        // A caller that was authenticated a moment ago is counted before the database is read, so
        // that a client beyond its rate limit costs no query.
        let counted = match app.limits.count_cached_caller(text, class).transpose() {
            Ok(counted) => counted,
            Err(seconds) => return Err(delayed_rate_limit_error(connection, seconds).await),
        };
        let (caller, checked) = match ApiKeyToken::parse(text) {
            Some(key) => authenticate_api_key(app, &key).await?,
            None => authenticate_oidc_token(app, text).await?,
        };
        let database = Database::after_authentication(checked, class);
        let tenant = caller.tenant.to_string();
        app.limits.cache_caller(text, &tenant, &caller.principal);
        let share = match counted {
            Some(share) => share,
            None => match app.limits.count_request(&tenant, &caller.principal, class) {
                Ok(share) => share,
                Err(seconds) => {
                    drop(database);
                    return Err(delayed_rate_limit_error(connection, seconds).await);
                }
            },
        };
        request_context::set_rate_limit_headers(share);
        if let Some(connection) = connection {
            connection.mark_authenticated();
        }
        Ok(Self(caller, database))
    }
}

/// Authenticates an API key, and returns the caller with the transaction that read the key.
async fn authenticate_api_key(app: &AppState, key: &ApiKeyToken) -> Result<(Caller, Tx<'static>)> {
    let mut tx = app.open_session(key.tenant).into_tx_without_keys().await?;
    let (stored, state) = match tx.api_keys().get_api_key_with_tenant_state(key.key).await {
        Ok(found) => found,
        // An unknown tenant and an unknown key get the same answer, so that no client can find out
        // which tenants exist.
        Err(StoreError::NotFound { .. }) => return Err(ApiError::unauthenticated()),
        Err(error) => return Err(error.into()),
    };
    let now = app.clock.now();
    if !stored.accepts_token(key, &app.vault, now) {
        return Err(ApiError::unauthenticated());
    }
    require_active_tenant(state)?;
    if stored.needs_last_used_update(now) {
        tx.api_keys().record_api_key_use(key.key, now).await?;
        // Commit now: an open transaction would keep the key's row locked for as long as the
        // request takes.
        tx = tx
            .commit_into_session()
            .await?
            .into_tx_without_keys()
            .await?;
    }
    let (tenant, origin) = (key.tenant, CredentialSource::ApiKey(key.key));
    Ok((
        Caller {
            tenant,
            principal: key.key.to_string(),
            grants: stored.grants(),
            origin,
            app: app.clone(),
        },
        tx,
    ))
}

/// Refuses a tenant that is not active. This runs after the credential was verified, because a
/// caller without a valid credential must not learn that a tenant is suspended.
fn require_active_tenant(state: TenantState) -> Result<()> {
    match state {
        TenantState::Active => Ok(()),
        TenantState::Suspended | TenantState::Deleted => Err(ApiError::tenant_suspended()),
    }
}

/// Authenticates a token of an identity provider. No transaction is open while the issuer's keys
/// are fetched, because the issuer decides how long that takes.
async fn authenticate_oidc_token(app: &AppState, token: &str) -> Result<(Caller, Tx<'static>)> {
    let unproved = oidc::parse_unverified(token).ok_or_else(ApiError::unauthenticated)?;
    let mut tx = app
        .open_session(unproved.tenant)
        .into_tx_without_keys()
        .await?;
    let provider = tx
        .identities()
        .find_provider_by_issuer(&unproved.issuer)
        .await?
        .ok_or_else(ApiError::unauthenticated)?;
    let session = tx.rollback_into_session();
    let now = app.clock.now();
    let key = app
        .issuers
        .find_key(&provider.issuer, &unproved.key, now)
        .await
        .ok_or_else(ApiError::unauthenticated)?;
    let person = oidc::verify_token(token, &unproved, &provider, &key, now)
        .ok_or_else(ApiError::unauthenticated)?;
    let mut tx = session.into_tx_without_keys().await?;
    require_active_tenant(tx.tenants().current_tenant().await?.state)?;
    let grants = tx
        .identities()
        .list_grants(provider.id, &person.subject, &person.groups)
        .await?;
    let principal = format!("{}/{}", provider.id, person.subject);
    let origin = CredentialSource::OidcToken {
        provider: provider.id,
        person,
    };
    Ok((
        Caller {
            tenant: unproved.tenant,
            principal,
            grants,
            origin,
            app: app.clone(),
        },
        tx,
    ))
}
