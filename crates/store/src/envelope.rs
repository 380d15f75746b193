//! Envelope encryption: each tenant's secrets under a data key of its own, which is stored wrapped by a key that this
//! database never sees.
//!
//! A sealed value is `1 · key version · nonce · ciphertext`. What it belongs to is associated data: a value that is copied
//! to another tenant, table or row does not open there.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx;
use model::ids::{ClusterId, MeshId, TenantId, WebhookId};

use crate::vault::{fill, open, seal};
use crate::{Store, StoreError, Tx, clusters, credentials, exactly_one, meshes, webhooks};

pub use crate::master::{Key, KeyWrapper, MasterKeys, WrapError};

/// A data key as it is stored.
#[derive(Debug, Clone)]
pub struct WrappedKey {
    pub(crate) bytes: Vec<u8>,
    pub(crate) by: String,
}

/// How long opened data keys are kept: an erased or rotated tenant is noticed by every process within this time.
const KEPT: Duration = Duration::from_mins(1);
/// How long a retired key opens answers that were stored for a repeated request; they are kept a day themselves.
const RETIRED: SignedDuration = SignedDuration::from_hours(25);
/// The only form there is.
const FORM: u8 = 1;
const HEAD: usize = 1 + 4;

/// The opened data keys of a tenant.
#[derive(Default)]
pub(crate) struct TenantKeys(BTreeMap<i32, Key>);

impl std::fmt::Debug for TenantKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TenantKeys({:?})", self.0.keys())
    }
}

/// A tenant's opened keys, until the database is looked into again.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    until: Instant,
    keys: Arc<TenantKeys>,
}

impl Opened {
    fn at(now: Instant, keys: Arc<TenantKeys>) -> Self {
        Self { until: now + KEPT, keys }
    }

    fn good_at(&self, now: Instant) -> bool {
        now < self.until
    }
}

/// Opened data keys by tenant.
pub(crate) type Cache = Arc<Mutex<HashMap<TenantId, Opened>>>;

fn context(tenant: TenantId, version: i32) -> String {
    format!("tenant_keys/{tenant}/{version}")
}

impl TenantKeys {
    fn seal(&self, tenant: TenantId, place: &str, text: &[u8]) -> Result<Vec<u8>, StoreError> {
        let (version, key) = self.0.last_key_value().ok_or(StoreError::Sealed)?;
        let mut out = vec![FORM];
        out.extend(version.to_be_bytes());
        out.append(&mut seal(key, &format!("{tenant}/{place}/{version}"), text));
        Ok(out)
    }

    fn open(&self, tenant: TenantId, place: &str, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let version = version(sealed)?;
        let key = self.0.get(&version).ok_or(StoreError::Sealed)?;
        open(key, &format!("{tenant}/{place}/{version}"), &sealed[HEAD..])
    }

    fn knows(&self, version: i32) -> bool {
        self.0.contains_key(&version)
    }
}

/// With which version of its tenant's key a value is sealed.
fn version(sealed: &[u8]) -> Result<i32, StoreError> {
    match sealed.split_first_chunk::<HEAD>() {
        Some(([FORM, version @ ..], _)) => Ok(i32::from_be_bytes(*version)),
        _ => Err(StoreError::Sealed),
    }
}

impl Tx<'_> {
    /// Seals a text for one place of this tenant, such as `clusters.kubeconfig/cluster_01…`.
    ///
    /// # Errors
    /// [`StoreError::Sealed`]: the tenant's key was erased.
    pub(crate) fn seal(&self, place: &str, text: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.keys.seal(self.tenant, place, text)
    }

    /// Whether the tenant has a key that seals.
    pub(crate) fn has_key(&self) -> bool {
        !self.keys.0.is_empty()
    }

    /// Opens what was sealed for the same place.
    ///
    /// # Errors
    /// [`StoreError::Sealed`]: another place, damaged, or the tenant's key was erased.
    pub(crate) async fn open(&mut self, place: &str, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let version = version(sealed)?;
        if !self.keys.knows(version) {
            self.learn(version).await?;
        }
        self.keys.open(self.tenant, place, sealed)
    }

    /// Another process has rotated the key since this one looked. It is the only time that a transaction waits for a key
    /// service, and that answers or fails long before the database gives the transaction up.
    async fn learn(&mut self, version: i32) -> Result<(), StoreError> {
        let wrapped = sqlx::query_scalar!(
            "SELECT wrapped FROM tenant_keys WHERE tenant_id = $1 AND version = $2",
            self.tenant.0,
            version
        )
        .fetch_optional(&mut *self.inner)
        .await?
        .ok_or(StoreError::Sealed)?;
        let key = self.vault.wrapper().unwrap(&wrapped, &context(self.tenant, version)).await?;
        let mut keys = self.keys.0.clone();
        keys.insert(version, key);
        self.keys = Arc::new(TenantKeys(keys));
        self.vault.forget(self.tenant);
        Ok(())
    }

    pub(crate) async fn add_key(
        &mut self,
        version: i32,
        wrapped: &WrappedKey,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO tenant_keys (tenant_id, version, wrapped, wrapper, created_at) VALUES ($1, $2, $3, $4, $5)",
            self.tenant.0,
            version,
            wrapped.bytes,
            wrapped.by,
            now.to_sqlx() as _
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    async fn wrapped_keys(&mut self) -> Result<Vec<(i32, Vec<u8>, String)>, StoreError> {
        let rows = sqlx::query!(
            "SELECT version, wrapped, wrapper FROM tenant_keys WHERE tenant_id = $1 ORDER BY version",
            self.tenant.0
        )
        .fetch_all(&mut *self.inner)
        .await?;
        Ok(rows.into_iter().map(|row| (row.version, row.wrapped, row.wrapper)).collect())
    }

    /// Opens a value that was sealed before tenants had keys, or any other one of this tenant's.
    async fn open_old(&mut self, legacy: bool, place: &str, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        if legacy { self.vault.open(place, sealed) } else { self.open(place, sealed).await }
    }

    /// Seals every value of this tenant that is kept for good with the newest key.
    async fn reseal(&mut self, legacy: bool) -> Result<(), StoreError> {
        let clusters = sqlx::query!(
            "SELECT cluster_id, kubeconfig, submitted FROM clusters WHERE tenant_id = $1 ORDER BY cluster_id FOR UPDATE",
            self.tenant.0
        )
        .fetch_all(&mut *self.inner)
        .await?;
        for row in clusters {
            let place = clusters::place(ClusterId(row.cluster_id));
            let opened = self.open_old(legacy, &place, &row.kubeconfig).await?;
            let sealed = self.seal(&place, &opened)?;
            let place = credentials::submitted(ClusterId(row.cluster_id));
            let submitted = match row.submitted {
                Some(submitted) => {
                    let opened = self.open_old(legacy, &place, &submitted).await?;
                    Some(self.seal(&place, &opened)?)
                }
                None => None,
            };
            sqlx::query!(
                "UPDATE clusters SET kubeconfig = $3, submitted = $4 WHERE tenant_id = $1 AND cluster_id = $2",
                self.tenant.0,
                row.cluster_id,
                sealed,
                submitted
            )
            .execute(&mut *self.inner)
            .await?;
        }
        let meshes = sqlx::query!(
            "SELECT mesh_id, authority FROM meshes WHERE tenant_id = $1 AND length(authority) > 0 ORDER BY mesh_id FOR UPDATE",
            self.tenant.0
        )
        .fetch_all(&mut *self.inner)
        .await?;
        for row in meshes {
            let place = meshes::place(MeshId(row.mesh_id));
            let opened = self.open_old(legacy, &place, &row.authority).await?;
            let sealed = self.seal(&place, &opened)?;
            sqlx::query!(
                "UPDATE meshes SET authority = $3 WHERE tenant_id = $1 AND mesh_id = $2",
                self.tenant.0,
                row.mesh_id,
                sealed
            )
            .execute(&mut *self.inner)
            .await?;
        }
        self.reseal_webhooks().await
    }

    /// They are younger than tenants' keys.
    async fn reseal_webhooks(&mut self) -> Result<(), StoreError> {
        let webhooks = sqlx::query!(
            "SELECT webhook_id, secret, former_secret FROM webhooks WHERE tenant_id = $1 ORDER BY webhook_id FOR UPDATE",
            self.tenant.0
        )
        .fetch_all(&mut *self.inner)
        .await?;
        for row in webhooks {
            let place = webhooks::place(WebhookId(row.webhook_id));
            let opened = self.open(&place, &row.secret).await?;
            let secret = self.seal(&place, &opened)?;
            let former = match row.former_secret {
                Some(former) => {
                    let opened = self.open(&place, &former).await?;
                    Some(self.seal(&place, &opened)?)
                }
                None => None,
            };
            sqlx::query!(
                "UPDATE webhooks SET secret = $3, former_secret = $4 WHERE tenant_id = $1 AND webhook_id = $2",
                self.tenant.0,
                row.webhook_id,
                secret,
                former
            )
            .execute(&mut *self.inner)
            .await?;
        }
        Ok(())
    }
}

impl Store {
    /// The opened keys of a tenant; none of an unknown or erased one. No transaction is open while a key service is asked.
    pub(crate) async fn tenant_keys(&self, tenant: TenantId) -> Result<Arc<TenantKeys>, StoreError> {
        let cache = self.vault.cache();
        let known = cache.lock().expect("no holder panics").get(&tenant).cloned();
        if let Some(opened) = known.filter(|opened| opened.good_at(Instant::now())) {
            return Ok(opened.keys);
        }
        let mut tx = self.begin_with(tenant, Arc::default()).await?;
        let wrapped = tx.wrapped_keys().await?;
        drop(tx);
        let mut keys = BTreeMap::new();
        for (version, wrapped, _) in wrapped {
            keys.insert(version, self.vault.wrapper().unwrap(&wrapped, &context(tenant, version)).await?);
        }
        let keys = Arc::new(TenantKeys(keys));
        // Who asks for tenants that do not exist fills no memory.
        let mut cache = cache.lock().expect("no holder panics");
        if keys.0.is_empty() {
            cache.remove(&tenant);
        } else {
            cache.insert(tenant, Opened::at(Instant::now(), keys.clone()));
        }
        Ok(keys)
    }

    /// A first key for a tenant that will be made. No transaction is open while a key service is asked.
    ///
    /// # Errors
    /// The key service failed.
    pub async fn first_wrapped_key(&self, tenant: TenantId) -> Result<WrappedKey, StoreError> {
        self.wrapped(tenant, 1, &fill()).await
    }

    async fn wrapped(&self, tenant: TenantId, version: i32, key: &Key) -> Result<WrappedKey, StoreError> {
        let keeper = self.vault.wrapper();
        Ok(WrappedKey { bytes: keeper.wrap(key, &context(tenant, version)).await?, by: keeper.name() })
    }

    /// Gives a tenant a new data key and seals everything that is kept for good with it. Other processes look again when
    /// they meet a version that they do not know, and seal with the former key for a minute at most: the next rotation
    /// takes that along before it removes a key.
    ///
    /// # Errors
    /// The key service or the database failed; nothing was changed.
    pub async fn rotate_tenant_key(&self, tenant: TenantId, now: Timestamp) -> Result<i32, StoreError> {
        self.vault.forget(tenant);
        let mut keys = self.tenant_keys(tenant).await?.0.clone();
        let newest = keys.last_key_value().map(|(version, _)| *version);
        let version = newest.ok_or(StoreError::NotFound { what: "tenant" })? + 1;
        let key = fill();
        let wrapped = self.wrapped(tenant, version, &key).await?;
        keys.insert(version, key);
        let mut tx = self.begin_with(tenant, Arc::new(TenantKeys(keys))).await?;
        tx.add_key(version, &wrapped, now).await?;
        sqlx::query!(
            "UPDATE tenant_keys SET retired_at = $3 WHERE tenant_id = $1 AND version < $2 AND retired_at IS NULL",
            tenant.0,
            version,
            now.to_sqlx() as _
        )
        .execute(&mut *tx.inner)
        .await?;
        tx.reseal(false).await?;
        let over = now - RETIRED;
        sqlx::query!("DELETE FROM tenant_keys WHERE tenant_id = $1 AND retired_at < $2", tenant.0, over.to_sqlx() as _)
            .execute(&mut *tx.inner)
            .await?;
        tx.commit().await?;
        self.vault.forget(tenant);
        Ok(version)
    }

    /// Gives every tenant that was made before tenants had keys one of its own, and seals its secrets with it. Answers how
    /// many. Needs the role of workers, which sees every tenant's head.
    ///
    /// # Errors
    /// The key service or the database failed; tenants that were seen to stay so.
    pub async fn give_missing_keys(&self, now: Timestamp) -> Result<usize, StoreError> {
        let waiting = sqlx::query_scalar!("SELECT tenant_id FROM tenant_heads WHERE needs_key ORDER BY tenant_id")
            .fetch_all(&self.pool)
            .await?;
        let mut count = 0;
        for tenant in waiting.into_iter().map(TenantId) {
            let key = fill();
            let wrapped = self.wrapped(tenant, 1, &key).await?;
            let mut tx = self.begin_with(tenant, Arc::new(TenantKeys([(1, key)].into()))).await?;
            let mine =
                sqlx::query!("UPDATE tenant_heads SET needs_key = false WHERE tenant_id = $1 AND needs_key", tenant.0)
                    .execute(&mut *tx.inner)
                    .await?;
            if mine.rows_affected() == 1 {
                tx.add_key(1, &wrapped, now).await?;
                tx.reseal(true).await?;
                tx.commit().await?;
                self.vault.forget(tenant);
                count += 1;
            }
        }
        Ok(count)
    }

    /// Wraps a tenant's keys with the present master key, where another one has wrapped them. Answers how many.
    ///
    /// # Errors
    /// The key service or the database failed.
    pub async fn rewrap_tenant_keys(&self, tenant: TenantId) -> Result<usize, StoreError> {
        let keeper = self.vault.wrapper();
        let mut tx = self.begin_with(tenant, Arc::default()).await?;
        let wrapped = tx.wrapped_keys().await?;
        drop(tx);
        let mut count = 0;
        for (version, old, _) in wrapped.into_iter().filter(|(.., by)| *by != keeper.name()) {
            let key = keeper.unwrap(&old, &context(tenant, version)).await?;
            let new = keeper.wrap(&key, &context(tenant, version)).await?;
            let mut tx = self.begin_with(tenant, Arc::default()).await?;
            let done = sqlx::query!(
                "UPDATE tenant_keys SET wrapped = $3, wrapper = $4 WHERE tenant_id = $1 AND version = $2 AND wrapped = $5",
                tenant.0,
                version,
                new,
                keeper.name(),
                old
            )
            .execute(&mut *tx.inner)
            .await?;
            exactly_one(done.rows_affected(), StoreError::Moved)?;
            tx.commit().await?;
            count += 1;
        }
        Ok(count)
    }

    /// Erases a tenant's keys: nothing that was sealed for it opens any more, here at once and elsewhere within a minute.
    ///
    /// # Errors
    /// The database failed.
    pub async fn erase_tenant_keys(&self, tenant: TenantId) -> Result<(), StoreError> {
        let mut tx = self.begin_with(tenant, Arc::default()).await?;
        sqlx::query!("DELETE FROM tenant_keys WHERE tenant_id = $1", tenant.0).execute(&mut *tx.inner).await?;
        tx.commit().await?;
        self.vault.forget(tenant);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opened_keys_are_looked_up_again_after_a_minute() {
        let now = Instant::now();
        let opened = Opened::at(now, Arc::default());
        assert!(opened.good_at(now) && opened.good_at(now + KEPT.saturating_sub(Duration::from_nanos(1))));
        assert!(!opened.good_at(now + KEPT));
        assert_eq!(KEPT, Duration::from_mins(1), "the promise that an erased tenant is noticed within");
    }

    #[test]
    fn keys_are_not_shown() {
        let keys = TenantKeys([(3, [0xab; 32])].into());
        assert_eq!(format!("{keys:?}"), "TenantKeys([3])");
    }
}
