//! How data keys change: rotated, wrapped by another master key, given to tenants that had none, erased.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx;
use model::ids::{ClusterId, MeshId, TenantId, WebhookId};

use crate::envelope::{TenantKeys, wrap_context};
use crate::vault::random_key;
use crate::{Store, StoreError, Tx, clusters, credentials, require_one_row, meshes, webhooks};

/// How long a retired key opens answers that were stored for a repeated request; they are kept a day themselves.
const RETIRED_KEY_RETENTION: SignedDuration = SignedDuration::from_hours(25);

impl Tx<'_> {
    /// Seals with the newest key what another one of this tenant's has sealed, or the server's own before tenants had any.
    async fn reseal_value(&mut self, legacy: bool, associated_data: &str, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let opened = if legacy { self.store.sealer.open(associated_data, sealed)? } else { self.open(associated_data, sealed).await? };
        self.seal(associated_data, &opened)
    }

    /// Seals every value of this tenant that is kept for good with the newest key.
    async fn reseal_secrets(&mut self, legacy: bool) -> Result<(), StoreError> {
        let clusters = sqlx::query!(
            "SELECT cluster_id, kubeconfig, submitted, former FROM clusters WHERE tenant_id = $1 ORDER BY cluster_id FOR UPDATE",
            self.tenant.0
        )
        .fetch_all(&mut *self.inner)
        .await?;
        for row in clusters {
            let associated_data = clusters::kubeconfig_associated_data(ClusterId(row.cluster_id));
            let sealed = self.reseal_value(legacy, &associated_data, &row.kubeconfig).await?;
            let associated_data = credentials::submitted_associated_data(ClusterId(row.cluster_id));
            let submitted = match row.submitted {
                Some(submitted) => Some(self.reseal_value(legacy, &associated_data, &submitted).await?),
                None => None,
            };
            let associated_data = credentials::former_associated_data(ClusterId(row.cluster_id));
            let former = match row.former {
                Some(former) => Some(self.reseal_value(legacy, &associated_data, &former).await?),
                None => None,
            };
            sqlx::query!(
                "UPDATE clusters SET kubeconfig = $3, submitted = $4, former = $5 WHERE tenant_id = $1 AND cluster_id = $2",
                self.tenant.0,
                row.cluster_id,
                sealed,
                submitted,
                former
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
            let associated_data = meshes::authority_associated_data(MeshId(row.mesh_id));
            let sealed = self.reseal_value(legacy, &associated_data, &row.authority).await?;
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
            let associated_data = webhooks::secret_associated_data(WebhookId(row.webhook_id));
            let secret = self.reseal_value(false, &associated_data, &row.secret).await?;
            let former = match row.former_secret {
                Some(former) => Some(self.reseal_value(false, &associated_data, &former).await?),
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
    /// Gives a tenant a new data key and seals everything that is kept for good with it. Other processes look again when
    /// they meet a version that they do not know, and seal with the former key for a minute at most: the next rotation
    /// takes that along before it removes a key.
    ///
    /// # Errors
    /// The key service or the database failed; nothing was changed.
    pub async fn rotate_tenant_key(&self, tenant: TenantId, now: Timestamp) -> Result<i32, StoreError> {
        self.sealer.evict_tenant_keys(tenant);
        let mut keys = self.tenant_keys(tenant).await?.0.clone();
        let newest = keys.last_key_value().map(|(version, _)| *version);
        let version = newest.ok_or(StoreError::NotFound { what: "tenant" })? + 1;
        let key = random_key();
        let wrapped = self.sealer.wrap_tenant_key(tenant, version, &key).await?;
        keys.insert(version, key);
        let mut tx = self.begin_with_keys(tenant, Arc::new(TenantKeys(keys))).await?;
        tx.insert_tenant_key(version, &wrapped, now).await?;
        sqlx::query!(
            "UPDATE tenant_keys SET retired_at = $3 WHERE tenant_id = $1 AND version < $2 AND retired_at IS NULL",
            tenant.0,
            version,
            now.to_sqlx() as _
        )
        .execute(&mut *tx.inner)
        .await?;
        tx.reseal_secrets(false).await?;
        let over = now - RETIRED_KEY_RETENTION;
        sqlx::query!("DELETE FROM tenant_keys WHERE tenant_id = $1 AND retired_at < $2", tenant.0, over.to_sqlx() as _)
            .execute(&mut *tx.inner)
            .await?;
        tx.commit().await?;
        self.sealer.evict_tenant_keys(tenant);
        Ok(version)
    }

    /// Gives every tenant that was made before tenants had keys one of its own, and seals its secrets with it. Answers how
    /// many. Needs the role of workers, which sees every tenant's head.
    ///
    /// # Errors
    /// The key service or the database failed; tenants that were seen to stay so.
    pub async fn backfill_tenant_keys(&self, now: Timestamp) -> Result<usize, StoreError> {
        let waiting = sqlx::query_scalar!("SELECT tenant_id FROM tenant_heads WHERE needs_key ORDER BY tenant_id")
            .fetch_all(&self.pool)
            .await?;
        let mut count = 0;
        for tenant in waiting.into_iter().map(TenantId) {
            let key = random_key();
            let wrapped = self.sealer.wrap_tenant_key(tenant, 1, &key).await?;
            let mut tx = self.begin_with_keys(tenant, Arc::new(TenantKeys([(1, key)].into()))).await?;
            let mine =
                sqlx::query!("UPDATE tenant_heads SET needs_key = false WHERE tenant_id = $1 AND needs_key", tenant.0)
                    .execute(&mut *tx.inner)
                    .await?;
            if mine.rows_affected() == 1 {
                tx.insert_tenant_key(1, &wrapped, now).await?;
                tx.reseal_secrets(true).await?;
                tx.commit().await?;
                self.sealer.evict_tenant_keys(tenant);
                count += 1;
            }
        }
        Ok(count)
    }

    /// Wraps all of a tenant's keys with the present master key. Answers how many. Those that it has wrapped before, too: a key
    /// service changes its key without another name for it.
    ///
    /// # Errors
    /// The key service or the database failed.
    pub async fn rewrap_tenant_keys(&self, tenant: TenantId) -> Result<usize, StoreError> {
        let keeper = self.sealer.key_wrapper();
        let mut tx = self.begin_with_keys(tenant, Arc::default()).await?;
        let wrapped = tx.read_wrapped_keys().await?;
        drop(tx);
        let mut count = 0;
        for (version, old) in wrapped {
            let key = keeper.unwrap_key(&old, &wrap_context(tenant, version)).await?;
            let new = keeper.wrap_key(&key, &wrap_context(tenant, version)).await?;
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

    /// Erases a tenant's keys: nothing that was sealed for it opens any more, here at once and elsewhere within a minute.
    ///
    /// # Errors
    /// The database failed.
    pub async fn erase_tenant_keys(&self, tenant: TenantId) -> Result<(), StoreError> {
        let mut tx = self.begin_with_keys(tenant, Arc::default()).await?;
        sqlx::query!("DELETE FROM tenant_keys WHERE tenant_id = $1", tenant.0).execute(&mut *tx.inner).await?;
        tx.commit().await?;
        self.sealer.evict_tenant_keys(tenant);
        Ok(())
    }
}
