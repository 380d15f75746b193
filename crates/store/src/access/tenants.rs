//! Stores tenants, for operators and for the tenants themselves.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::ClosedSet;
use meshwright_model::audit::Entry;
use meshwright_model::edition::Edition;
use meshwright_model::fleet::TenantState;
use meshwright_model::ids::TenantId;
use meshwright_model::quota::{QuotaResource, Quotas};

use crate::db::query_areas::TenantQueries;
use crate::db::statements::require_one_row;
use crate::error::{decode_column, to_json};
use crate::fleet::mesh::edition_text;
use crate::sealing::tenant_keys::WrappedKey;
use crate::{ApiKey, NewApiKey, Page, Store, StoreError};

/// Reads the stored form of a tenant's state.
pub(crate) fn decode_tenant_state(text: &str, tenant: TenantId) -> Result<TenantState, StoreError> {
    let state = TenantState::from_name(text).ok_or(());
    decode_column(state, "tenants", "state", tenant)
}

/// A tenant as the service knows it.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Identifier of the tenant.
    pub id: TenantId,
    /// Name of the tenant, unique among tenants that are not deleted.
    pub name: String,
    /// State of the tenant: `active`, `suspended` or `deleted`.
    pub state: TenantState,
    /// Quotas of the tenant that differ from the defaults.
    pub quotas: Quotas,
    /// Highest edition that new meshes of the tenant can have.
    pub edition: Edition,
    /// Version of the tenant: rises by one with every change by an operator.
    pub generation: i64,
    /// Time when the tenant was created.
    pub created_at: Timestamp,
}

/// A tenant to be created.
#[derive(Debug)]
pub struct NewTenant<'a> {
    /// Identifier of the tenant.
    pub id: TenantId,
    /// Name of the tenant, unique among tenants that are not deleted.
    pub name: &'a str,
    /// Quotas of the tenant that differ from the defaults.
    pub quotas: &'a Quotas,
    /// Highest edition that meshes of the tenant can have.
    pub edition: Edition,
    /// First data key of the tenant, wrapped; see
    /// [`Sealer::generate_wrapped_key`](crate::Sealer::generate_wrapped_key).
    pub wrapped_key: &'a WrappedKey,
}

struct TenantRow {
    tenant_id: uuid::Uuid,
    name: String,
    state: String,
    quotas: serde_json::Value,
    edition: String,
    generation: i64,
    created_at: jiff_sqlx::Timestamp,
}

impl TenantRow {
    fn into_tenant(self) -> Result<Tenant, StoreError> {
        let id = TenantId(self.tenant_id);
        Ok(Tenant {
            id,
            name: self.name,
            state: decode_tenant_state(&self.state, id)?,
            quotas: decode_column(serde_json::from_value(self.quotas), "tenants", "quotas", id)?,
            edition: decode_column(
                serde_json::from_value(self.edition.into()),
                "tenants",
                "edition",
                id,
            )?,
            generation: self.generation,
            created_at: self.created_at.to_jiff(),
        })
    }
}

impl Store {
    /// Creates a tenant with a data key of its own, the highest edition and no API keys.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] with `tenants_name_unique` when the name is taken, and
    /// [`StoreError::KeyService`] when the key service does not answer or refuses.
    pub async fn create_tenant(
        &self,
        tenant: TenantId,
        name: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let wrapped = self.sealer.generate_wrapped_key(tenant).await?;
        let mut tx = self.begin(tenant).await?;
        let (quotas, edition) = (&Quotas::default(), Edition::Ultimate);
        tx.tenants()
            .create_tenant(
                &NewTenant {
                    id: tenant,
                    name,
                    quotas,
                    edition,
                    wrapped_key: &wrapped,
                },
                now,
            )
            .await?;
        tx.commit().await
    }

    /// Adds a data key for the operators' own tenant, unless it has one.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] or [`StoreError::KeyService`] when the database or the key
    /// service does not answer.
    pub async fn ensure_platform_key(&self, now: Timestamp) -> Result<(), StoreError> {
        let wrapped = self.sealer.generate_wrapped_key(TenantId::PLATFORM).await?;
        let mut tx = self.begin(TenantId::PLATFORM).await?;
        match tx.sealing().insert_tenant_key(1, &wrapped, now).await {
            // The tenant has a key already.
            Err(StoreError::Conflict { .. }) => Ok(()),
            other => {
                other?;
                tx.commit().await
            }
        }
    }
}

impl TenantQueries<'_, '_> {
    /// Assumes the database role that sees the rows of all tenants. [`TenantQueries::reset_role`] must follow
    /// before any statement that is not an operator's.
    pub(crate) async fn assume_platform_role(&mut self) -> Result<(), StoreError> {
        sqlx::query!("SELECT set_config('role', 'mw_platform', true)")
            .fetch_one(&mut *self.tx.inner)
            .await?;
        Ok(())
    }

    pub(crate) async fn reset_role(&mut self) -> Result<(), StoreError> {
        sqlx::query!("SELECT set_config('role', 'none', true)")
            .fetch_one(&mut *self.tx.inner)
            .await?;
        Ok(())
    }

    /// Switches this transaction to another tenant and returns the previous one. Only an operator's
    /// request does this, and it switches back before it writes rows of the operators' own tenant.
    async fn switch_tenant(&mut self, tenant: TenantId) -> Result<TenantId, StoreError> {
        sqlx::query!(
            "SELECT set_config('mw.tenant', $1, true)",
            tenant.0.to_string()
        )
        .fetch_one(&mut *self.tx.inner)
        .await?;
        Ok(std::mem::replace(&mut self.tx.tenant, tenant))
    }

    /// Adds a tenant with its first data key.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] with `tenants_name_unique` when the name is taken.
    pub async fn create_tenant(
        &mut self,
        new: &NewTenant<'_>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.assume_platform_role().await?;
        sqlx::query!(
            "INSERT INTO tenants (tenant_id, name, quotas, edition, created_at) VALUES ($1, $2, $3, $4, $5)",
            new.id.0,
            new.name,
            to_json(new.quotas),
            edition_text(new.edition),
            now.to_sqlx() as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        self.reset_role().await?;
        let before = self.switch_tenant(new.id).await?;
        sqlx::query!("INSERT INTO tenant_heads (tenant_id) VALUES ($1)", new.id.0)
            .execute(&mut *self.tx.inner)
            .await?;
        self.tx
            .sealing()
            .insert_tenant_key(1, new.wrapped_key, now)
            .await?;
        self.switch_tenant(before).await.map(drop)
    }

    /// Adds the first API key of a tenant that was created in this transaction.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn create_first_api_key(
        &mut self,
        tenant: TenantId,
        key: &NewApiKey,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let before = self.switch_tenant(tenant).await?;
        self.tx.api_keys().create_api_key(key, now).await?;
        self.switch_tenant(before).await.map(drop)
    }

    /// Adds an API key of an owner on an operator's request, for a tenant that has locked itself
    /// out. The audit entry is written into the tenant's own log at once.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] with `api_keys_name_unique` when the name is taken.
    pub async fn create_owner_api_key(
        &mut self,
        tenant: TenantId,
        key: &NewApiKey,
        entry: Entry,
    ) -> Result<ApiKey, StoreError> {
        let before = self.switch_tenant(tenant).await?;
        self.tx.api_keys().create_api_key(key, entry.at).await?;
        let made = self.tx.api_keys().get_api_key(key.id).await?;
        self.tx.audit().record_audit(entry);
        self.tx.events().flush_events_and_audit().await?;
        self.switch_tenant(before).await?;
        Ok(made)
    }

    /// Deletes a tenant that has neither meshes nor clusters, and erases its keys. Returns the
    /// numbers of its meshes and clusters; unless both are 0, the tenant is not changed.
    ///
    /// # Errors
    /// Returns [`StoreError::StaleVersion`] when the tenant has changed since the operator read it.
    pub async fn delete_tenant(&mut self, seen: &Tenant) -> Result<(u32, u32), StoreError> {
        let before = self.switch_tenant(seen.id).await?;
        self.lock_tenant().await?;
        let (meshes, clusters) = (
            self.count_objects(QuotaResource::Meshes).await?,
            self.count_objects(QuotaResource::Clusters).await?,
        );
        if meshes + clusters == 0 {
            sqlx::query!("DELETE FROM tenant_keys WHERE tenant_id = $1", seen.id.0)
                .execute(&mut *self.tx.inner)
                .await?;
            self.tx.store.sealer.evict_tenant_keys(seen.id);
        }
        self.switch_tenant(before).await?;
        if meshes + clusters == 0 {
            self.update_tenant(
                seen,
                &Tenant {
                    state: TenantState::Deleted,
                    ..seen.clone()
                },
            )
            .await?;
        }
        Ok((meshes, clusters))
    }

    /// Locks the tenant's head row until the transaction ends, so that changes which depend on a
    /// count of the tenant's things run one after the other.
    pub(crate) async fn lock_tenant(&mut self) -> Result<(), StoreError> {
        sqlx::query!(
            "SELECT 1 AS one FROM tenant_heads WHERE tenant_id = $1 FOR NO KEY UPDATE",
            self.tx.tenant.0
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?;
        Ok(())
    }

    /// Reads the tenant that this transaction acts for.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when the tenant does not exist.
    pub async fn current_tenant(&mut self) -> Result<Tenant, StoreError> {
        let row = sqlx::query_as!(
            TenantRow,
            "SELECT tenant_id, name, state, quotas, edition, generation, created_at FROM tenants WHERE tenant_id = $1",
            self.tx.tenant.0
        );
        row.fetch_optional(&mut *self.tx.inner)
            .await?
            .ok_or(StoreError::NotFound { what: "tenant" })?
            .into_tenant()
    }

    /// Lists tenants for an operator, oldest first; with `only`, just that one. The operators' own
    /// tenant is not listed.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when a row does not fit [`Tenant`].
    pub async fn list_tenants(
        &mut self,
        only: Option<TenantId>,
        deleted: bool,
        page: Page,
    ) -> Result<Vec<Tenant>, StoreError> {
        self.assume_platform_role().await?;
        let rows = sqlx::query_as!(
            TenantRow,
            "SELECT tenant_id, name, state, quotas, edition, generation, created_at FROM tenants
             WHERE tenant_id <> $1 AND ($2::uuid IS NULL OR tenant_id = $2) AND ($3::uuid IS NULL OR tenant_id > $3)
               AND ($4 OR state <> 'deleted')
             ORDER BY tenant_id LIMIT $5",
            TenantId::PLATFORM.0,
            only.map(|id| id.0),
            page.after,
            deleted,
            page.limit
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        self.reset_role().await?;
        rows.into_iter().map(TenantRow::into_tenant).collect()
    }

    /// Updates state, quotas and edition of a tenant, if its generation is still the one that the
    /// operator saw.
    ///
    /// # Errors
    /// Returns [`StoreError::StaleVersion`] when the generation has changed since.
    pub async fn update_tenant(
        &mut self,
        seen: &Tenant,
        wanted: &Tenant,
    ) -> Result<(), StoreError> {
        self.assume_platform_role().await?;
        let done = sqlx::query!(
            "UPDATE tenants SET state = $3, quotas = $4, edition = $5, generation = generation + 1
             WHERE tenant_id = $1 AND generation = $2",
            seen.id.0,
            seen.generation,
            wanted.state.as_str(),
            to_json(&wanted.quotas),
            edition_text(wanted.edition)
        )
        .execute(&mut *self.tx.inner)
        .await?;
        self.reset_role().await?;
        require_one_row(done.rows_affected(), StoreError::StaleVersion)
    }
}
