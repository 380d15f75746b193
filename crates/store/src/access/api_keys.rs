//! Stores API keys.

use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx;
use meshwright_model::access::{Grant, Role, Scope};
use meshwright_model::fleet::TenantState;
use meshwright_model::ids::KeyId;

use crate::access::api_key_token::ApiKeyToken;
use crate::access::tenants::decode_tenant_state;
use crate::db::query_areas::ApiKeyQueries;
use crate::db::statements::require_one_row;
use crate::error::decode_column;
use crate::{Page, Sealer, StoreError};

/// Time between two updates of a key's last use: 60 seconds. A key in constant use is not written
/// with every request.
const LAST_USED_UPDATE_INTERVAL: SignedDuration = SignedDuration::from_secs(60);

/// An API key to be created.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    /// Identifier of the API key.
    pub id: KeyId,
    /// Name of the key, unique among the tenant's keys that are not revoked.
    pub name: String,
    /// Role that the key has.
    pub role: Role,
    /// Meshes and clusters that the role holds for; empty means the whole tenant.
    pub scopes: Vec<Scope>,
    /// HMAC-SHA256 of the key's secret; see [`ApiKeyToken::secret_digest`].
    pub digest: Vec<u8>,
    /// Time when the key expires; `None` means never.
    pub expires_at: Option<Timestamp>,
}

/// An API key as the service knows it.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Identifier of the API key.
    pub id: KeyId,
    /// Name of the key, unique among the tenant's keys that are not revoked.
    pub name: String,
    /// Role that the key has.
    pub role: Role,
    /// Meshes and clusters that the role holds for; empty means the whole tenant.
    pub scopes: Vec<Scope>,
    digest: Vec<u8>,
    former: Option<(Vec<u8>, Timestamp)>,
    /// Time when the key was created.
    pub created_at: Timestamp,
    /// Time when the key expires; `None` means never.
    pub expires_at: Option<Timestamp>,
    /// Time when the key was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
    /// Time of the last use, accurate to one minute; `None` before the first use.
    pub last_used_at: Option<Timestamp>,
}

impl ApiKey {
    /// Returns true when the key is active and the token has its secret, or its previous secret
    /// while that is still accepted.
    pub fn accepts_token(&self, text: &ApiKeyToken, sealer: &Sealer, now: Timestamp) -> bool {
        let former = self.former.as_ref().filter(|(_, until)| *until > now);
        self.is_active(now)
            && (text.matches_digest(sealer, &self.digest)
                || former.is_some_and(|(digest, _)| text.matches_digest(sealer, digest)))
    }

    /// Returns true when the key is neither revoked nor expired.
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| end > now)
    }

    /// Returns the grants of the key: its role, once for each scope.
    pub fn grants(&self) -> Vec<Grant> {
        let grant = |scope: &Scope| Grant {
            role: self.role,
            scope: *scope,
        };
        if self.scopes.is_empty() {
            vec![grant(&Scope::Tenant)]
        } else {
            self.scopes.iter().map(grant).collect()
        }
    }

    /// Returns the time until which the secret from before the last rotation is accepted.
    pub fn former_until(&self) -> Option<Timestamp> {
        self.former.as_ref().map(|(_, until)| *until)
    }

    /// Returns true when the recorded last use is old enough to be updated.
    pub fn needs_last_used_update(&self, now: Timestamp) -> bool {
        self.last_used_at
            .is_none_or(|last| now.duration_since(last) >= LAST_USED_UPDATE_INTERVAL)
    }
}

struct ApiKeyRow {
    key_id: uuid::Uuid,
    name: String,
    role: String,
    scopes: Vec<String>,
    secret_hmac: Vec<u8>,
    former_hmac: Option<Vec<u8>>,
    former_until: Option<jiff_sqlx::Timestamp>,
    created_at: jiff_sqlx::Timestamp,
    expires_at: Option<jiff_sqlx::Timestamp>,
    revoked_at: Option<jiff_sqlx::Timestamp>,
    last_used_at: Option<jiff_sqlx::Timestamp>,
}

impl ApiKeyRow {
    fn into_api_key(self) -> Result<ApiKey, StoreError> {
        let id = KeyId(self.key_id);
        let scopes = self
            .scopes
            .iter()
            .map(|scope| decode_column(scope.parse(), "api_keys", "scopes", id));
        let time = jiff_sqlx::Timestamp::to_jiff;
        Ok(ApiKey {
            id,
            name: self.name,
            role: decode_column(self.role.parse(), "api_keys", "role", id)?,
            scopes: scopes.collect::<Result<_, _>>()?,
            digest: self.secret_hmac,
            former: self.former_hmac.zip(self.former_until.map(time)),
            created_at: self.created_at.to_jiff(),
            expires_at: self.expires_at.map(time),
            revoked_at: self.revoked_at.map(time),
            last_used_at: self.last_used_at.map(time),
        })
    }
}

impl ApiKeyQueries<'_, '_> {
    /// Adds an API key.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] with `api_keys_name_unique` when the name is taken.
    pub async fn create_api_key(
        &mut self,
        key: &NewApiKey,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let scopes: Vec<String> = key.scopes.iter().map(ToString::to_string).collect();
        sqlx::query!(
            "INSERT INTO api_keys (tenant_id, key_id, name, role, scopes, secret_hmac, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            self.tx.tenant.0,
            key.id.0,
            key.name,
            key.role.as_str(),
            &scopes,
            key.digest,
            now.to_sqlx() as _,
            key.expires_at.map(ToSqlx::to_sqlx) as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }

    /// Reads one API key.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such key.
    pub async fn get_api_key(&mut self, id: KeyId) -> Result<ApiKey, StoreError> {
        let row = sqlx::query_as!(
            ApiKeyRow,
            "SELECT key_id, name, role, scopes, secret_hmac, former_hmac, former_until, created_at, expires_at, revoked_at, last_used_at
             FROM api_keys WHERE tenant_id = $1 AND key_id = $2",
            self.tx.tenant.0,
            id.0
        );
        row.fetch_optional(&mut *self.tx.inner)
            .await?
            .ok_or(StoreError::NotFound { what: "API key" })?
            .into_api_key()
    }

    /// Reads one API key and the state of its tenant in one round trip.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such key.
    pub async fn get_api_key_with_tenant_state(
        &mut self,
        id: KeyId,
    ) -> Result<(ApiKey, TenantState), StoreError> {
        let row = sqlx::query!(
            "SELECT key_id, k.name, role, scopes, secret_hmac, former_hmac, former_until, k.created_at, expires_at, revoked_at, last_used_at,
                 t.state
             FROM api_keys k JOIN tenants t USING (tenant_id) WHERE k.tenant_id = $1 AND key_id = $2",
            self.tx.tenant.0,
            id.0
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?
        .ok_or(StoreError::NotFound { what: "API key" })?;
        let state = decode_tenant_state(&row.state, self.tx.tenant)?;
        let key = ApiKeyRow {
            key_id: row.key_id,
            name: row.name,
            role: row.role,
            scopes: row.scopes,
            secret_hmac: row.secret_hmac,
            former_hmac: row.former_hmac,
            former_until: row.former_until,
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            last_used_at: row.last_used_at,
        };
        Ok((key.into_api_key()?, state))
    }

    /// Lists the API keys of this tenant, oldest first; revoked ones only when `revoked` is true.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when a row does not fit.
    pub async fn list_api_keys(
        &mut self,
        revoked: bool,
        page: Page,
    ) -> Result<Vec<ApiKey>, StoreError> {
        let rows = sqlx::query_as!(
            ApiKeyRow,
            "SELECT key_id, name, role, scopes, secret_hmac, former_hmac, former_until, created_at, expires_at, revoked_at, last_used_at
             FROM api_keys WHERE tenant_id = $1 AND ($2::uuid IS NULL OR key_id > $2) AND ($3 OR revoked_at IS NULL)
             ORDER BY key_id LIMIT $4",
            self.tx.tenant.0,
            page.after,
            revoked,
            page.limit
        );
        rows.fetch_all(&mut *self.tx.inner)
            .await?
            .into_iter()
            .map(ApiKeyRow::into_api_key)
            .collect()
    }

    /// Revokes a key at once, together with its previous secret. The tenant stays locked until the
    /// transaction ends, so that two owners who revoke each other's keys cannot both succeed.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such key, and
    /// [`StoreError::LastOwner`] when no other key would let an owner in.
    pub async fn revoke_api_key(&mut self, id: KeyId, now: Timestamp) -> Result<(), StoreError> {
        self.tx.tenants().lock_tenant().await?;
        self.require_remaining_owner(id, now).await?;
        let done = sqlx::query!(
            "UPDATE api_keys SET revoked_at = coalesce(revoked_at, $3) WHERE tenant_id = $1 AND key_id = $2",
            self.tx.tenant.0,
            id.0,
            now.to_sqlx() as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(
            done.rows_affected(),
            StoreError::NotFound { what: "API key" },
        )
    }

    /// Refuses to go on without a key unless another key lets an owner in permanently.
    ///
    /// Every code path that takes away the role of an owner calls this after [`TenantQueries::lock_tenant`].
    /// Keys with an expiry time do not count, however late it is: the tenant would be locked out at
    /// that time, without a request that could be refused. Role bindings do not count either: the
    /// identity provider decides whether anyone has the subject or the group, and it may be gone
    /// tomorrow.
    async fn require_remaining_owner(
        &mut self,
        without: KeyId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let keys = self.list_api_keys(false, Page::ALL).await?;
        let owns =
            |key: &ApiKey| key.role == Role::Owner && key.scopes.is_empty() && key.is_active(now);
        let leaves = keys.iter().any(|key| key.id == without && owns(key));
        let stays = keys
            .iter()
            .any(|key| key.id != without && owns(key) && key.expires_at.is_none());
        if leaves && !stays {
            Err(StoreError::LastOwner)
        } else {
            Ok(())
        }
    }

    /// Gives a key a new secret. The present secret is accepted until `former_until`.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such key or the key was revoked.
    pub async fn rotate_api_key(
        &mut self,
        id: KeyId,
        digest: &[u8],
        former_until: Timestamp,
    ) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE api_keys SET former_hmac = secret_hmac, former_until = $4, secret_hmac = $3
             WHERE tenant_id = $1 AND key_id = $2 AND revoked_at IS NULL",
            self.tx.tenant.0,
            id.0,
            digest,
            former_until.to_sqlx() as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(
            done.rows_affected(),
            StoreError::NotFound { what: "API key" },
        )
    }

    /// Records the use of a key.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn record_api_key_use(
        &mut self,
        id: KeyId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE api_keys SET last_used_at = greatest(last_used_at, $3) WHERE tenant_id = $1 AND key_id = $2",
            self.tx.tenant.0,
            id.0,
            now.to_sqlx() as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }
}
