//! Who calls, and what they may do. The tenant comes from the credential and from nowhere else.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use model::access::{Action, Grant, Scope, Verdict, authorize};
use model::ids::{KeyId, ProviderId, TenantId};
use store::{Aim, KeyText, Reach, StoreError, TenantState, Tx};

use crate::envelope;
use crate::limits::Class;
use crate::oidc::{self, Person};
use crate::places::Connection;
use crate::problem::{ApiError, Result};

mod context;

pub(crate) use context::{Context, Database};

/// An authenticated caller.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) tenant: TenantId,
    /// Who it is, as the audit log names them.
    pub(crate) principal: String,
    grants: Vec<Grant>,
    origin: Origin,
    pub(crate) app: Context,
}

/// A request whose sender is known: the caller, and their one way to the database.
#[derive(Debug)]
pub(crate) struct Asked(pub(crate) Caller, pub(crate) Database);

/// How long whoever asks too often waits for being told so.
const REFUSAL: Duration = Duration::from_millis(250);

/// What a caller was let in by.
#[derive(Debug, Clone)]
enum Origin {
    Key(KeyId),
    /// Until the token ends.
    Person {
        provider: ProviderId,
        person: Person,
    },
}

impl Caller {
    /// The same caller with what they may do by now, for whoever stays for long: a key that was revoked, a token that has
    /// ended and a tenant that was suspended let nobody stay.
    pub(crate) async fn renewed(self, tx: &mut Tx<'_>) -> Result<Self> {
        let now = self.app.clock.now();
        in_use(tx.own_tenant().await?.state)?;
        let grants = match &self.origin {
            Origin::Key(id) => {
                let key = tx.key(*id).await?;
                if !key.is_alive(now) {
                    return Err(ApiError::unauthenticated());
                }
                key.grants()
            }
            Origin::Person { provider, person } => {
                tx.provider(*provider).await?;
                if person.until <= now {
                    return Err(ApiError::unauthenticated());
                }
                tx.grants_of(*provider, &person.subject, &person.groups).await?
            }
        };
        Ok(Self { grants, ..self })
    }

    /// Refuses what none of the caller's grants allows on the tenant as a whole.
    pub(crate) fn may(&self, action: Action) -> Result<()> {
        self.may_with(action, &[], "tenant")
    }

    /// Refuses what none of the caller's grants allows on a thing; one that they may not even see is not there.
    pub(crate) fn may_with(&self, action: Action, on: &[Scope], what: &str) -> Result<()> {
        if !action.fits(self.tenant) {
            return Err(ApiError::not_this_tenant(action));
        }
        match authorize(&self.grants, action, on) {
            Verdict::Allowed => Ok(()),
            Verdict::Forbidden => Err(ApiError::forbidden(action)),
            Verdict::Hidden => Err(ApiError::not_found(what)),
        }
    }

    /// What lists show this caller: everything, or what their grants reach.
    pub(crate) fn reach(&self) -> Reach {
        let mut reach = Reach { meshes: Some(Vec::new()), clusters: Some(Vec::new()) };
        for grant in self.grants.iter().filter(|grant| grant.role.allows(Action::Read)) {
            match grant.scope {
                Scope::Tenant => return Reach::ALL,
                Scope::Mesh(id) => reach.meshes.get_or_insert_default().push(id.0),
                Scope::Cluster(id) => reach.clusters.get_or_insert_default().push(id.0),
            }
        }
        reach
    }
}

/// Nobody who is told to come back in a second misses a quarter of it, and who does not listen is kept from asking: on one
/// connection the next request waits for this answer.
async fn refused_slowly(seconds: u64) -> ApiError {
    tokio::time::sleep(REFUSAL).await;
    ApiError::rate_limited(seconds)
}

impl FromRequestParts<Context> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Context) -> Result<Self> {
        let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let text = header.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(ApiError::unauthenticated)?;
        let (text, class) = (text.trim(), Class::of(&parts.method, parts.uri.path()));
        let counted = match app.limits.count_known(text, class).transpose() {
            Ok(counted) => counted,
            Err(seconds) => return Err(refused_slowly(seconds).await),
        };
        let aim = if class == Class::Read { Aim::Read } else { Aim::Change };
        let (caller, checked) = match KeyText::parse(text) {
            Some(key) => by_key(app, &key, aim).await?,
            None => by_token(app, text, aim).await?,
        };
        let database = Database::after_check(checked, &parts.method);
        let tenant = caller.tenant.to_string();
        app.limits.remember(text, &tenant, &caller.principal);
        let share = match counted {
            Some(share) => share,
            None => match app.limits.count(&tenant, &caller.principal, class) {
                Ok(share) => share,
                Err(seconds) => {
                    drop(database);
                    return Err(refused_slowly(seconds).await);
                }
            },
        };
        envelope::tell_share(share);
        if let Some(connection) = parts.extensions.get::<Connection>() {
            connection.vouch();
        }
        Ok(Self(caller, database))
    }
}

async fn by_key(app: &Context, key: &KeyText, aim: Aim) -> Result<(Caller, Tx<'static>)> {
    let mut tx = app.session(key.tenant, aim).into_reading_tx().await?;
    let (stored, state) = match tx.key_with_tenant(key.key).await {
        Ok(found) => found,
        // An unknown tenant and an unknown key sound the same.
        Err(StoreError::NotFound { .. }) => return Err(ApiError::unauthenticated()),
        Err(error) => return Err(error.into()),
    };
    let now = app.clock.now();
    if !stored.admits(key, &app.vault, now) {
        return Err(ApiError::unauthenticated());
    }
    in_use(state)?;
    if stored.used_unrecorded(now) {
        tx.touch_key(key.key, now).await?;
        // The row is not kept locked for as long as the request takes.
        tx = tx.commit_and_rest().await?.into_reading_tx().await?;
    }
    let (tenant, origin) = (key.tenant, Origin::Key(key.key));
    Ok((Caller { tenant, principal: key.key.to_string(), grants: stored.grants(), origin, app: app.clone() }, tx))
}

/// Only whoever has proved that they belong to a tenant learns that it is suspended.
fn in_use(state: TenantState) -> Result<()> {
    match state {
        TenantState::Active => Ok(()),
        TenantState::Suspended | TenantState::Deleted => Err(ApiError::suspended()),
    }
}

/// No transaction is open while an issuer is asked for its keys.
async fn by_token(app: &Context, token: &str, aim: Aim) -> Result<(Caller, Tx<'static>)> {
    let unproved = oidc::read(token).ok_or_else(ApiError::unauthenticated)?;
    let mut tx = app.session(unproved.tenant, aim).into_reading_tx().await?;
    let provider = tx.provider_of(&unproved.issuer).await?.ok_or_else(ApiError::unauthenticated)?;
    let session = tx.rest();
    let now = app.clock.now();
    let key = app.issuers.key(&provider.issuer, &unproved.key, now).await.ok_or_else(ApiError::unauthenticated)?;
    let person = oidc::prove(token, &unproved, &provider, &key, now).ok_or_else(ApiError::unauthenticated)?;
    let mut tx = session.into_reading_tx().await?;
    in_use(tx.own_tenant().await?.state)?;
    let grants = tx.grants_of(provider.id, &person.subject, &person.groups).await?;
    let principal = format!("{}/{}", provider.id, person.subject);
    let origin = Origin::Person { provider: provider.id, person };
    Ok((Caller { tenant: unproved.tenant, principal, grants, origin, app: app.clone() }, tx))
}
