//! Tenants and their API keys.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use model::ids::{KeyId, TenantId};

use crate::error::fits;
use crate::{Store, StoreError, Tx};

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads everything but cannot change anything, for audits.
    Auditor,
    /// Reads.
    Viewer,
    /// Reads and changes.
    Operator,
    /// Everything, keys included.
    Owner,
}

impl Role {
    /// Every role there is.
    pub const ALL: [Self; 4] = [Self::Auditor, Self::Viewer, Self::Operator, Self::Owner];

    /// The stored form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auditor => "auditor",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Owner => "owner",
        }
    }

    /// Reads the stored form.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Its id.
    pub id: KeyId,
    /// Its name, unique within the tenant.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Digest of its secret.
    pub digest: Vec<u8>,
    /// When it ends, if ever.
    pub expires_at: Option<Timestamp>,
}

/// A key as the service knows it.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Its id.
    pub id: KeyId,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Digest of its secret.
    pub digest: Vec<u8>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends, if ever.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

impl Store {
    /// Makes a tenant.
    ///
    /// # Errors
    /// The name is taken (`tenants_name_unique`).
    pub async fn create_tenant(&self, tenant: TenantId, name: &str, now: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.begin(tenant).await?;
        sqlx::query!(
            "INSERT INTO tenants (tenant_id, name, created_at) VALUES ($1, $2, $3)",
            tenant.0,
            name,
            now.to_sqlx() as _
        )
        .execute(&mut *tx.inner)
        .await?;
        sqlx::query!("INSERT INTO tenant_heads (tenant_id) VALUES ($1)", tenant.0).execute(&mut *tx.inner).await?;
        tx.commit().await
    }
}

impl Tx<'_> {
    /// Makes a key.
    ///
    /// # Errors
    /// The name is taken (`api_keys_name_unique`).
    pub async fn create_key(&mut self, key: &NewKey, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO api_keys (tenant_id, key_id, name, role, secret_hmac, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)",
            self.tenant.0,
            key.id.0,
            key.name,
            key.role.as_str(),
            key.digest,
            now.to_sqlx() as _,
            key.expires_at.map(ToSqlx::to_sqlx) as _
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// A key of this tenant.
    ///
    /// # Errors
    /// There is none.
    pub async fn key(&mut self, id: KeyId) -> Result<ApiKey, StoreError> {
        self.keys().await?.into_iter().find(|key| key.id == id).ok_or(StoreError::NotFound { what: "API key" })
    }

    /// Every key of this tenant, oldest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn keys(&mut self) -> Result<Vec<ApiKey>, StoreError> {
        let rows = sqlx::query!(
            "SELECT key_id, name, role, secret_hmac, created_at, expires_at, revoked_at FROM api_keys WHERE tenant_id = $1 ORDER BY key_id",
            self.tenant.0
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let keys = rows.into_iter().map(|row| {
            Ok(ApiKey {
                id: KeyId(row.key_id),
                role: fits(Role::parse(&row.role).ok_or(()), "api_keys", "role", row.key_id)?,
                name: row.name,
                digest: row.secret_hmac,
                created_at: row.created_at.to_jiff(),
                expires_at: row.expires_at.map(jiff_sqlx::Timestamp::to_jiff),
                revoked_at: row.revoked_at.map(jiff_sqlx::Timestamp::to_jiff),
            })
        });
        keys.collect()
    }

    /// Ends a key at once.
    ///
    /// # Errors
    /// There is no such key.
    pub async fn revoke_key(&mut self, id: KeyId, now: Timestamp) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE api_keys SET revoked_at = coalesce(revoked_at, $3) WHERE tenant_id = $1 AND key_id = $2",
            self.tenant.0,
            id.0,
            now.to_sqlx() as _
        )
        .execute(&mut *self.inner)
        .await?;
        crate::exactly_one(done.rows_affected(), StoreError::NotFound { what: "API key" })
    }
}

/// The written form of a key: `mwk_<tenant>_<key>_<secret><checksum>`. The checksum lets scanners tell a real key from a
/// random text without asking anybody.
#[derive(Clone)]
pub struct KeyText {
    /// Whose key.
    pub tenant: TenantId,
    /// Which.
    pub key: KeyId,
    secret: String,
}

impl std::fmt::Debug for KeyText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyText({})", self.key)
    }
}

/// Hexadecimal digits of a secret: 256 bits.
const SECRET: usize = 64;
/// Hexadecimal digits of the checksum.
const CHECKSUM: usize = 8;

fn checksum(text: &str) -> String {
    crate::digest(text.as_bytes())[..CHECKSUM].to_owned()
}

impl KeyText {
    /// A key with a fresh secret.
    ///
    /// # Panics
    /// When the system has no randomness.
    pub fn generate(tenant: TenantId, key: KeyId) -> Self {
        Self { tenant, key, secret: crate::random_hex() }
    }

    fn body(&self) -> String {
        let bare = |id: String| id.split_once('_').map(|(_, digits)| digits.to_owned()).unwrap_or_default();
        format!("mwk_{}_{}_{}", bare(self.tenant.to_string()), bare(self.key.to_string()), self.secret)
    }

    /// The text that its owner keeps. Secret.
    pub fn reveal(&self) -> String {
        let body = self.body();
        format!("{body}{}", checksum(&body))
    }

    /// Reads a key; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("mwk_")?.split('_');
        let (tenant, key, rest) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || rest.len() != SECRET + CHECKSUM || !rest.is_ascii() {
            return None;
        }
        let (secret, sum) = rest.split_at(SECRET);
        let tenant = format!("{}_{tenant}", TenantId::PREFIX).parse().ok()?;
        let key = format!("{}_{key}", KeyId::PREFIX).parse().ok()?;
        let read = Self { tenant, key, secret: secret.to_owned() };
        (checksum(&read.body()) == sum).then_some(read)
    }

    /// What is stored of it.
    pub fn digest(&self, vault: &crate::Vault) -> Vec<u8> {
        vault.digest(self.secret.as_bytes())
    }

    /// Whether it is the key that a digest was stored of.
    pub fn matches(&self, vault: &crate::Vault, digest: &[u8]) -> bool {
        vault.matches(self.secret.as_bytes(), digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_a_damaged_one_does_not() {
        let id = uuid::Uuid::from_u128;
        let key = KeyText::generate(TenantId(id(1)), KeyId(id(2)));
        let text = key.reveal();
        assert_eq!(KeyText::parse(&text).expect("its own text").secret, key.secret);
        for damaged in [
            text.replace("mwk", "mwx"),
            text[..text.len() - 1].to_owned(),
            format!("{text}0"),
            text.replacen("_0", "_1", 1),
            String::new(),
            "mwk_é_é_é".into(),
        ] {
            assert!(KeyText::parse(&damaged).is_none(), "{damaged}");
        }
    }
}
