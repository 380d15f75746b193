//! Who calls: an API key names its tenant, its digest decides. The tenant comes from here and from nowhere else.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use model::ids::TenantId;
use store::{KeyText, Role, StoreError, Tx};

use crate::App;
use crate::problem::{ApiError, Result};

/// An authenticated caller.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) tenant: TenantId,
    pub(crate) role: Role,
    pub(crate) app: App,
}

impl Caller {
    /// Begins a transaction on the caller's behalf.
    pub(crate) async fn begin(&self) -> Result<Tx<'_>> {
        Ok(self.app.store.begin(self.tenant).await?)
    }

    /// Refuses callers that may only read.
    pub(crate) fn may_change(&self) -> Result<()> {
        if self.role >= Role::Operator { Ok(()) } else { Err(ApiError::forbidden("operator")) }
    }

    /// Refuses everybody but owners.
    pub(crate) fn may_own(&self) -> Result<()> {
        if self.role == Role::Owner { Ok(()) } else { Err(ApiError::forbidden("owner")) }
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let text = header.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(ApiError::unauthenticated)?;
        let key = KeyText::parse(text.trim()).ok_or_else(ApiError::unauthenticated)?;
        let mut tx = app.store.begin(key.tenant).await?;
        let stored = match tx.key(key.key).await {
            Ok(stored) => stored,
            // An unknown tenant and an unknown key sound the same.
            Err(StoreError::NotFound { .. }) => return Err(ApiError::unauthenticated()),
            Err(error) => return Err(error.into()),
        };
        let now = app.clock.now();
        let alive = stored.revoked_at.is_none() && stored.expires_at.is_none_or(|end| end > now);
        if !(alive && key.matches(app.store.vault(), &stored.digest)) {
            return Err(ApiError::unauthenticated());
        }
        Ok(Self { tenant: key.tenant, role: stored.role, app: app.clone() })
    }
}
