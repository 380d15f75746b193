//! Changes the data keys of tenants: rotates them, wraps them with another master key, adds missing
//! ones, and erases them.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx;
use meshwright_model::ids::{ClusterId, MeshId, TenantId, WebhookId};

use crate::db::query_areas::SealingQueries;
use crate::db::statements::require_one_row;
use crate::events::webhooks;
use crate::fleet::cluster_credentials;
use crate::fleet::clusters;
use crate::fleet::meshes;
use crate::sealing::aead::random_key;
use crate::sealing::data_keys::TenantKeys;
use crate::sealing::tenant_keys::wrap_context;
use crate::{Store, StoreError};

/// Time that a retired key is kept at least: 25 hours. It must still open the responses that are
/// stored for idempotency keys, and those are kept for 24 hours.
const RETIRED_KEY_RETENTION: SignedDuration = SignedDuration::from_hours(25);

impl SealingQueries<'_, '_> {
    /// Seals a value again with the tenant's newest key. With `legacy`, the value was sealed with
    /// the server's own key, from before tenants had keys.
    async fn reseal_value(
        &mut self,
        legacy: bool,
        associated_data: &str,
        sealed: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let opened = if legacy {
            self.tx.store.sealer.open(associated_data, sealed)?
        } else {
            self.tx.open(associated_data, sealed).await?
        };
        self.tx.seal(associated_data, &opened)
    }

    /// Seals every permanently stored value of this tenant again with the newest key.
    async fn reseal_secrets(&mut self, legacy: bool) -> Result<(), StoreError> {
        let clusters = sqlx::query!(
            "SELECT cluster_id, kubeconfig, submitted, former FROM clusters WHERE tenant_id = $1 ORDER BY cluster_id FOR UPDATE",
            self.tx.tenant.0
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        for row in clusters {
            let associated_data = clusters::kubeconfig_associated_data(ClusterId(row.cluster_id));
            let sealed = self
                .reseal_value(legacy, &associated_data, &row.kubeconfig)
                .await?;
            let associated_data =
                cluster_credentials::submitted_associated_data(ClusterId(row.cluster_id));
            let submitted = match row.submitted {
                Some(submitted) => Some(
                    self.reseal_value(legacy, &associated_data, &submitted)
                        .await?,
                ),
                None => None,
            };
            let associated_data =
                cluster_credentials::former_associated_data(ClusterId(row.cluster_id));
            let former = match row.former {
                Some(former) => Some(self.reseal_value(legacy, &associated_data, &former).await?),
                None => None,
            };
            sqlx::query!(
                "UPDATE clusters SET kubeconfig = $3, submitted = $4, former = $5 WHERE tenant_id = $1 AND cluster_id = $2",
                self.tx.tenant.0,
                row.cluster_id,
                sealed,
                submitted,
                former
            )
            .execute(&mut *self.tx.inner)
            .await?;
        }
        let meshes = sqlx::query!(
            "SELECT mesh_id, authority FROM meshes WHERE tenant_id = $1 AND length(authority) > 0 ORDER BY mesh_id FOR UPDATE",
            self.tx.tenant.0
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        for row in meshes {
            let associated_data = meshes::authority_associated_data(MeshId(row.mesh_id));
            let sealed = self
                .reseal_value(legacy, &associated_data, &row.authority)
                .await?;
            sqlx::query!(
                "UPDATE meshes SET authority = $3 WHERE tenant_id = $1 AND mesh_id = $2",
                self.tx.tenant.0,
                row.mesh_id,
                sealed
            )
            .execute(&mut *self.tx.inner)
            .await?;
        }
        self.reseal_webhooks().await
    }

    /// Seals the secrets of webhooks again. Webhooks were added after tenant keys, so none of their
    /// secrets is sealed with the server's own key.
    async fn reseal_webhooks(&mut self) -> Result<(), StoreError> {
        let webhooks = sqlx::query!(
            "SELECT webhook_id, secret, former_secret FROM webhooks WHERE tenant_id = $1 ORDER BY webhook_id FOR UPDATE",
            self.tx.tenant.0
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        for row in webhooks {
            let associated_data = webhooks::secret_associated_data(WebhookId(row.webhook_id));
            let secret = self
                .reseal_value(false, &associated_data, &row.secret)
                .await?;
            let former = match row.former_secret {
                Some(former) => Some(self.reseal_value(false, &associated_data, &former).await?),
                None => None,
            };
            sqlx::query!(
                "UPDATE webhooks SET secret = $3, former_secret = $4 WHERE tenant_id = $1 AND webhook_id = $2",
                self.tx.tenant.0,
                row.webhook_id,
                secret,
                former
            )
            .execute(&mut *self.tx.inner)
            .await?;
        }
        Ok(())
    }
}

impl Store {
    /// Gives a tenant a new data key, and seals every permanently stored value again with it. Other
    /// processes load the key when they meet a version that they do not know. Until their cache
    /// expires, for one minute at most, they still seal with the previous key; the next rotation
    /// seals those values again before it deletes a key.
    ///
    /// # Errors
    /// Returns [`StoreError::KeyService`] or [`StoreError::Database`] when the key service or the
    /// database does not answer; nothing was changed then.
    pub async fn rotate_tenant_key(
        &self,
        tenant: TenantId,
        now: Timestamp,
    ) -> Result<i32, StoreError> {
        self.sealer.evict_tenant_keys(tenant);
        let mut keys = self.tenant_keys(tenant).await?.0.clone();
        let newest = keys.last_key_value().map(|(version, _)| *version);
        let version = newest.ok_or(StoreError::NotFound { what: "tenant" })? + 1;
        let key = random_key();
        let wrapped = self.sealer.wrap_tenant_key(tenant, version, &key).await?;
        keys.insert(version, key);
        let mut tx = self
            .begin_with_keys(tenant, Arc::new(TenantKeys(keys)))
            .await?;
        tx.sealing()
            .insert_tenant_key(version, &wrapped, now)
            .await?;
        sqlx::query!(
            "UPDATE tenant_keys SET retired_at = $3 WHERE tenant_id = $1 AND version < $2 AND retired_at IS NULL",
            tenant.0,
            version,
            now.to_sqlx() as _
        )
        .execute(&mut *tx.inner)
        .await?;
        tx.sealing().reseal_secrets(false).await?;
        let over = now - RETIRED_KEY_RETENTION;
        sqlx::query!(
            "DELETE FROM tenant_keys WHERE tenant_id = $1 AND retired_at < $2",
            tenant.0,
            over.to_sqlx() as _
        )
        .execute(&mut *tx.inner)
        .await?;
        tx.commit().await?;
        self.sealer.evict_tenant_keys(tenant);
        Ok(version)
    }

    /// Adds a key for every tenant that was created before tenants had keys, and seals its secrets
    /// with it. Returns the number of these tenants. This needs the database role of workers, which
    /// sees the heads of all tenants.
    ///
    /// # Errors
    /// Returns [`StoreError::KeyService`] or [`StoreError::Database`] when the key service or the
    /// database does not answer; tenants that were completed before keep their key.
    pub async fn backfill_tenant_keys(&self, now: Timestamp) -> Result<usize, StoreError> {
        let waiting = sqlx::query_scalar!(
            "SELECT tenant_id FROM tenant_heads WHERE needs_key ORDER BY tenant_id"
        )
        .fetch_all(&self.pool)
        .await?;
        let mut count = 0;
        for tenant in waiting.into_iter().map(TenantId) {
            let key = random_key();
            let wrapped = self.sealer.wrap_tenant_key(tenant, 1, &key).await?;
            let mut tx = self
                .begin_with_keys(tenant, Arc::new(TenantKeys([(1, key)].into())))
                .await?;
            let mine = sqlx::query!(
                "UPDATE tenant_heads SET needs_key = false WHERE tenant_id = $1 AND needs_key",
                tenant.0
            )
            .execute(&mut *tx.inner)
            .await?;
            if mine.rows_affected() == 1 {
                tx.sealing().insert_tenant_key(1, &wrapped, now).await?;
                tx.sealing().reseal_secrets(true).await?;
                tx.commit().await?;
                self.sealer.evict_tenant_keys(tenant);
                count += 1;
            }
        }
        Ok(count)
    }

    /// Wraps all keys of a tenant with the current master key, and returns their number. This
    /// includes keys that the same wrapper has wrapped before, because a key service can rotate its
    /// key without changing its name.
    ///
    /// # Errors
    /// Returns [`StoreError::KeyService`] or [`StoreError::Database`] when the key service or the
    /// database does not answer, and [`StoreError::StaleVersion`] when another process changed a
    /// key meanwhile.
    pub async fn rewrap_tenant_keys(&self, tenant: TenantId) -> Result<usize, StoreError> {
        let keeper = self.sealer.key_wrapper();
        let mut tx = self.begin_with_keys(tenant, Arc::default()).await?;
        let wrapped = tx.sealing().read_wrapped_keys().await?;
        drop(tx);
        let mut count = 0;
        for (version, old) in wrapped {
            let key = keeper
                .unwrap_key(&old, &wrap_context(tenant, version))
                .await?;
            let new = keeper
                .wrap_key(&key, &wrap_context(tenant, version))
                .await?;
            let mut tx = self.begin_with_keys(tenant, Arc::default()).await?;
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
            require_one_row(done.rows_affected(), StoreError::StaleVersion)?;
            tx.commit().await?;
            count += 1;
        }
        Ok(count)
    }

    /// Erases the keys of a tenant, so that no value sealed for it opens any more: at once in this
    /// process, and within a minute in others.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn erase_tenant_keys(&self, tenant: TenantId) -> Result<(), StoreError> {
        let mut tx = self.begin_with_keys(tenant, Arc::default()).await?;
        sqlx::query!("DELETE FROM tenant_keys WHERE tenant_id = $1", tenant.0)
            .execute(&mut *tx.inner)
            .await?;
        tx.commit().await?;
        self.sealer.evict_tenant_keys(tenant);
        Ok(())
    }
}
