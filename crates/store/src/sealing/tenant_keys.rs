//! Implements envelope encryption: the secrets of each tenant are sealed with a data key of its
//! own, which is stored wrapped by a master key that is never in this database.
//!
//! A sealed value is `1 · key version · nonce · ciphertext`. The tenant, table and row that it
//! belongs to are its associated data, so a value that is copied to another tenant, table or row
//! does not open there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::ids::TenantId;

use crate::db::query_areas::SealingQueries;
use crate::sealing::aead::random_key;
use crate::sealing::data_keys::{CachedTenantKeys, TenantKeys, sealed_key_version};
use crate::{Sealer, Store, StoreError, Tx};

pub use crate::sealing::aead::SymmetricKey;
pub use crate::sealing::master_key::{KeyWrapper, MasterKeys, WrapError};

/// A wrapped data key, as it is stored.
#[derive(Debug, Clone)]
pub struct WrappedKey {
    pub(crate) bytes: Vec<u8>,
    pub(crate) wrapper_name: String,
}
pub(crate) fn wrap_context(tenant: TenantId, version: i32) -> String {
    format!("tenant_keys/{tenant}/{version}")
}

impl Tx<'_> {
    /// Seals a value of this tenant for one column and row, such as
    /// `clusters.kubeconfig/cluster_01…`.
    ///
    /// # Errors
    /// Returns [`StoreError::KeysErased`] when the tenant has no keys any more.
    pub(crate) fn seal(&self, associated_data: &str, text: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.keys.seal(self.tenant, associated_data, text)
    }

    /// Opens a value that was sealed with the same associated data.
    ///
    /// # Errors
    /// Returns [`StoreError::KeysErased`] when the tenant has no keys any more, and
    /// [`StoreError::UnsealFailed`] when the value is damaged or was sealed for another column or
    /// row.
    pub(crate) async fn open(
        &mut self,
        associated_data: &str,
        sealed: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let version = sealed_key_version(sealed)?;
        if !self.keys.has_version(version) {
            self.sealing().load_tenant_key(version).await?;
        }
        self.keys.open(self.tenant, associated_data, sealed)
    }
}

impl SealingQueries<'_, '_> {
    /// Loads a key version that another process has added since this transaction began. This is the
    /// only time that a transaction waits for a key service. The key service answers or times out
    /// long before the database ends the idle transaction.
    async fn load_tenant_key(&mut self, version: i32) -> Result<(), StoreError> {
        let wrapped = sqlx::query_scalar!(
            "SELECT wrapped FROM tenant_keys WHERE tenant_id = $1 AND version = $2",
            self.tx.tenant.0,
            version
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?
        .ok_or(if self.tx.keys.0.is_empty() {
            StoreError::KeysErased
        } else {
            StoreError::UnsealFailed
        })?;
        let key = self
            .tx
            .store
            .sealer
            .key_wrapper()
            .unwrap_key(&wrapped, &wrap_context(self.tx.tenant, version))
            .await?;
        let mut keys = self.tx.keys.0.clone();
        keys.insert(version, key);
        self.tx.keys = Arc::new(TenantKeys(keys));
        self.tx.store.sealer.evict_tenant_keys(self.tx.tenant);
        Ok(())
    }

    pub(crate) async fn insert_tenant_key(
        &mut self,
        version: i32,
        wrapped: &WrappedKey,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO tenant_keys (tenant_id, version, wrapped, wrapper, created_at) VALUES ($1, $2, $3, $4, $5)",
            self.tx.tenant.0,
            version,
            wrapped.bytes,
            wrapped.wrapper_name,
            now.to_sqlx() as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }

    pub(crate) async fn read_wrapped_keys(&mut self) -> Result<Vec<(i32, Vec<u8>)>, StoreError> {
        let rows = sqlx::query!(
            "SELECT version, wrapped FROM tenant_keys WHERE tenant_id = $1 ORDER BY version",
            self.tx.tenant.0
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| (row.version, row.wrapped))
            .collect())
    }
}

impl Store {
    /// Returns the unwrapped keys of a tenant; there are none for an unknown or erased tenant. No
    /// transaction is open while this calls a key service.
    pub(crate) async fn tenant_keys(
        &self,
        tenant: TenantId,
    ) -> Result<Arc<TenantKeys>, StoreError> {
        let cache = self.sealer.key_cache();
        let known = cache
            .lock()
            .expect("no holder panics")
            .get(&tenant)
            .cloned();
        if let Some(opened) = known.filter(|opened| opened.is_fresh_at(Instant::now())) {
            return Ok(opened.keys);
        }
        let mut tx = self.begin_with_keys(tenant, Arc::default()).await?;
        let wrapped = tx.sealing().read_wrapped_keys().await?;
        drop(tx);
        let mut keys = BTreeMap::new();
        for (version, wrapped) in wrapped {
            keys.insert(
                version,
                self.sealer
                    .key_wrapper()
                    .unwrap_key(&wrapped, &wrap_context(tenant, version))
                    .await?,
            );
        }
        let keys = Arc::new(TenantKeys(keys));
        // Tenants without keys are not cached, so that requests for unknown tenants cannot fill the
        // memory.
        let mut cache = cache.lock().expect("no holder panics");
        if keys.0.is_empty() {
            cache.remove(&tenant);
        } else {
            cache.insert(
                tenant,
                CachedTenantKeys::cached_at(Instant::now(), keys.clone()),
            );
        }
        Ok(keys)
    }
}

impl Sealer {
    /// Generates and wraps the first key of a tenant that is about to be created. No transaction is
    /// open while this calls a key service.
    ///
    /// # Errors
    /// Returns [`StoreError::KeyService`] when the key service does not answer or refuses.
    pub async fn generate_wrapped_key(&self, tenant: TenantId) -> Result<WrappedKey, StoreError> {
        self.wrap_tenant_key(tenant, 1, &random_key()).await
    }

    pub(crate) async fn wrap_tenant_key(
        &self,
        tenant: TenantId,
        version: i32,
        key: &SymmetricKey,
    ) -> Result<WrappedKey, StoreError> {
        let keeper = self.key_wrapper();
        Ok(WrappedKey {
            bytes: keeper.wrap_key(key, &wrap_context(tenant, version)).await?,
            wrapper_name: keeper.name(),
        })
    }
}
