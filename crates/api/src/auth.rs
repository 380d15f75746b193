//! Who calls, and what they may do. The tenant comes from the credential and from nowhere else.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use model::access::{Action, Grant, Scope, AccessDecision, authorize};
use model::ids::{KeyId, ProviderId, TenantId};
use store::{TxMode, ApiKeyToken, AccessFilter, StoreError, TenantState, Tx};

use crate::envelope;
use crate::limits::RequestClass;
use crate::oidc::{self, OidcIdentity};
use crate::places::ClientConnection;
use crate::problem::{ApiError, Result};

mod context;

pub(crate) use context::{AppState, Database};

/// An authenticated caller.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) tenant: TenantId,
    /// Who it is, as the audit log names them.
    pub(crate) principal: String,
    grants: Vec<Grant>,
    origin: CredentialSource,
    pub(crate) app: AppState,
}

/// A request whose sender is known: the caller, and their one way to the database.
#[derive(Debug)]
pub(crate) struct Authenticated(pub(crate) Caller, pub(crate) Database);

/// How long whoever asks too often waits for being told so.
const RATE_LIMIT_RESPONSE_DELAY: Duration = Duration::from_millis(250);

/// What a caller was let in by.
#[derive(Debug, Clone)]
enum CredentialSource {
    ApiKey(KeyId),
    /// Until the token ends.
    OidcToken {
        provider: ProviderId,
        person: OidcIdentity,
    },
}

impl Caller {
    /// The same caller with what they may do by now, for whoever stays for long: a key that was revoked, a token that has
    /// ended and a tenant that was suspended let nobody stay.
    pub(crate) async fn reload_grants(self, tx: &mut Tx<'_>) -> Result<Self> {
        let now = self.app.clock.now();
        require_active_tenant(tx.current_tenant().await?.state)?;
        let grants = match &self.origin {
            CredentialSource::ApiKey(id) => {
                let key = tx.get_api_key(*id).await?;
                if !key.is_active(now) {
                    return Err(ApiError::unauthenticated());
                }
                key.grants()
            }
            CredentialSource::OidcToken { provider, person } => {
                tx.get_identity_provider(*provider).await?;
                if person.expires_at <= now {
                    return Err(ApiError::unauthenticated());
                }
                tx.list_grants(*provider, &person.subject, &person.groups).await?
            }
        };
        Ok(Self { grants, ..self })
    }

    /// Refuses what none of the caller's grants allows on the tenant as a whole.
    pub(crate) fn require_permission(&self, action: Action) -> Result<()> {
        self.require_permission_on(action, &[], "tenant")
    }

    /// Refuses what none of the caller's grants allows on a thing; one that they may not even see is not there.
    pub(crate) fn require_permission_on(&self, action: Action, on: &[Scope], what: &str) -> Result<()> {
        if !action.applies_to_tenant(self.tenant) {
            return Err(ApiError::wrong_tenant_kind(action));
        }
        match authorize(&self.grants, action, on) {
            AccessDecision::Allowed => Ok(()),
            AccessDecision::Forbidden => Err(ApiError::forbidden(action)),
            AccessDecision::Hidden => Err(ApiError::not_found(what)),
        }
    }

    /// What lists show this caller: everything, or what their grants reach.
    pub(crate) fn access_filter(&self) -> AccessFilter {
        let mut reach = AccessFilter { meshes: Some(Vec::new()), clusters: Some(Vec::new()) };
        for grant in self.grants.iter().filter(|grant| grant.role.allows(Action::Read)) {
            match grant.scope {
                Scope::Tenant => return AccessFilter::ALL,
                Scope::Mesh(id) => reach.meshes.get_or_insert_default().push(id.0),
                Scope::Cluster(id) => reach.clusters.get_or_insert_default().push(id.0),
            }
        }
        reach
    }
}

/// Nobody who is told to come back in a second misses a quarter of it, and who does not listen is kept from asking: on one
/// connection the next request waits for this answer.
async fn delayed_rate_limit_error(seconds: u64) -> ApiError {
    tokio::time::sleep(RATE_LIMIT_RESPONSE_DELAY).await;
    ApiError::rate_limited(seconds)
}

impl FromRequestParts<AppState> for Authenticated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self> {
        let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let text = header.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(ApiError::unauthenticated)?;
        let (text, class) = (text.trim(), RequestClass::of_request(&parts.method, parts.uri.path()));
        let counted = match app.limits.count_cached_caller(text, class).transpose() {
            Ok(counted) => counted,
            Err(seconds) => return Err(delayed_rate_limit_error(seconds).await),
        };
        let aim = if class == RequestClass::Read { TxMode::Read } else { TxMode::Write };
        let (caller, checked) = match ApiKeyToken::parse(text) {
            Some(key) => authenticate_api_key(app, &key, aim).await?,
            None => authenticate_oidc_token(app, text, aim).await?,
        };
        let database = Database::after_authentication(checked, &parts.method);
        let tenant = caller.tenant.to_string();
        app.limits.cache_caller(text, &tenant, &caller.principal);
        let share = match counted {
            Some(share) => share,
            None => match app.limits.count_request(&tenant, &caller.principal, class) {
                Ok(share) => share,
                Err(seconds) => {
                    drop(database);
                    return Err(delayed_rate_limit_error(seconds).await);
                }
            },
        };
        envelope::set_rate_limit_headers(share);
        if let Some(connection) = parts.extensions.get::<ClientConnection>() {
            connection.mark_authenticated();
        }
        Ok(Self(caller, database))
    }
}

async fn authenticate_api_key(app: &AppState, key: &ApiKeyToken, aim: TxMode) -> Result<(Caller, Tx<'static>)> {
    let mut tx = app.open_session(key.tenant, aim).into_tx_without_keys().await?;
    let (stored, state) = match tx.get_api_key_with_tenant_state(key.key).await {
        Ok(found) => found,
        // An unknown tenant and an unknown key sound the same.
        Err(StoreError::NotFound { .. }) => return Err(ApiError::unauthenticated()),
        Err(error) => return Err(error.into()),
    };
    let now = app.clock.now();
    if !stored.accepts_token(key, &app.vault, now) {
        return Err(ApiError::unauthenticated());
    }
    require_active_tenant(state)?;
    if stored.needs_last_used_update(now) {
        tx.record_api_key_use(key.key, now).await?;
        // The row is not kept locked for as long as the request takes.
        tx = tx.commit_into_session().await?.into_tx_without_keys().await?;
    }
    let (tenant, origin) = (key.tenant, CredentialSource::ApiKey(key.key));
    Ok((Caller { tenant, principal: key.key.to_string(), grants: stored.grants(), origin, app: app.clone() }, tx))
}

/// Only whoever has proved that they belong to a tenant learns that it is suspended.
fn require_active_tenant(state: TenantState) -> Result<()> {
    match state {
        TenantState::Active => Ok(()),
        TenantState::Suspended | TenantState::Deleted => Err(ApiError::tenant_suspended()),
    }
}

/// No transaction is open while an issuer is asked for its keys.
async fn authenticate_oidc_token(app: &AppState, token: &str, aim: TxMode) -> Result<(Caller, Tx<'static>)> {
    let unproved = oidc::parse_unverified(token).ok_or_else(ApiError::unauthenticated)?;
    let mut tx = app.open_session(unproved.tenant, aim).into_tx_without_keys().await?;
    let provider = tx.find_provider_by_issuer(&unproved.issuer).await?.ok_or_else(ApiError::unauthenticated)?;
    let session = tx.rollback_into_session();
    let now = app.clock.now();
    let key = app.issuers.find_key(&provider.issuer, &unproved.key, now).await.ok_or_else(ApiError::unauthenticated)?;
    let person = oidc::verify_token(token, &unproved, &provider, &key, now).ok_or_else(ApiError::unauthenticated)?;
    let mut tx = session.into_tx_without_keys().await?;
    require_active_tenant(tx.current_tenant().await?.state)?;
    let grants = tx.list_grants(provider.id, &person.subject, &person.groups).await?;
    let principal = format!("{}/{}", provider.id, person.subject);
    let origin = CredentialSource::OidcToken { provider: provider.id, person };
    Ok((Caller { tenant: unproved.tenant, principal, grants, origin, app: app.clone() }, tx))
}
