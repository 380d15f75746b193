//! Tenants, as operators see them and as they see themselves.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use model::audit::Entry;
use model::ids::TenantId;
use model::quota::{QuotaResource, Quotas};
use model::rules::Edition;

use crate::envelope::WrappedKey;
use crate::error::{decode_column, to_json};
use crate::meshes::edition_text;
use crate::{ApiKey, NewApiKey, Page, Store, StoreError, Tx, require_one_row};

/// Where a tenant stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantState {
    /// In use.
    Active,
    /// No credential of it is accepted.
    Suspended,
    /// Its secrets are erased.
    Deleted,
}

impl TenantState {
    const ALL: [Self; 3] = [Self::Active, Self::Suspended, Self::Deleted];

    /// The stored form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deleted => "deleted",
        }
    }

    pub(crate) fn from_stored(text: &str, tenant: TenantId) -> Result<Self, StoreError> {
        let state = Self::ALL.into_iter().find(|state| state.as_str() == text);
        decode_column(state.ok_or(()), "tenants", "state", tenant)
    }
}

/// A tenant.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: TenantState,
    /// Its own limits.
    pub quotas: Quotas,
    /// The highest edition that its new meshes can have.
    pub edition: Edition,
    /// Rises with every change by an operator.
    pub generation: i64,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A tenant to be made.
#[derive(Debug)]
pub struct NewTenant<'a> {
    /// Its id.
    pub id: TenantId,
    /// Its name.
    pub name: &'a str,
    /// Its own limits.
    pub quotas: &'a Quotas,
    /// The highest edition that its meshes can have.
    pub edition: Edition,
    /// Its first data key, from the vault: `first_wrapped_key`.
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
            state: TenantState::from_stored(&self.state, id)?,
            quotas: decode_column(serde_json::from_value(self.quotas), "tenants", "quotas", id)?,
            edition: decode_column(serde_json::from_value(self.edition.into()), "tenants", "edition", id)?,
            generation: self.generation,
            created_at: self.created_at.to_jiff(),
        })
    }
}

impl Store {
    /// Makes a tenant with a data key of its own, the highest edition and no keys for callers.
    ///
    /// # Errors
    /// The name is taken (`tenants_name_unique`), or the key service failed.
    pub async fn create_tenant(&self, tenant: TenantId, name: &str, now: Timestamp) -> Result<(), StoreError> {
        let wrapped = self.sealer.generate_wrapped_key(tenant).await?;
        let mut tx = self.begin(tenant).await?;
        let (quotas, edition) = (&Quotas::default(), Edition::Ultimate);
        tx.create_tenant(&NewTenant { id: tenant, name, quotas, edition, wrapped_key: &wrapped }, now).await?;
        tx.commit().await
    }

    /// Gives the operators' own tenant its data key, where it has none yet.
    ///
    /// # Errors
    /// The database or the key service failed.
    pub async fn ensure_platform_key(&self, now: Timestamp) -> Result<(), StoreError> {
        let wrapped = self.sealer.generate_wrapped_key(TenantId::PLATFORM).await?;
        let mut tx = self.begin(TenantId::PLATFORM).await?;
        match tx.insert_tenant_key(1, &wrapped, now).await {
            // It has one.
            Err(StoreError::Conflict { .. }) => Ok(()),
            other => {
                other?;
                tx.commit().await
            }
        }
    }
}

impl Tx<'_> {
    /// Takes up the role that sees every tenant's row. What follows needs [`Tx::as_tenant`] before it touches anything else.
    pub(crate) async fn assume_platform_role(&mut self) -> Result<(), StoreError> {
        sqlx::query!("SELECT set_config('role', 'mw_platform', true)").fetch_one(&mut *self.inner).await?;
        Ok(())
    }

    pub(crate) async fn reset_role(&mut self) -> Result<(), StoreError> {
        sqlx::query!("SELECT set_config('role', 'none', true)").fetch_one(&mut *self.inner).await?;
        Ok(())
    }

    /// Goes on, on behalf of another tenant; answers on whose behalf it was. Only an operator's request does this, and it
    /// goes back before anything of the operator's is written.
    async fn switch_tenant(&mut self, tenant: TenantId) -> Result<TenantId, StoreError> {
        sqlx::query!("SELECT set_config('mw.tenant', $1, true)", tenant.0.to_string())
            .fetch_one(&mut *self.inner)
            .await?;
        Ok(std::mem::replace(&mut self.tenant, tenant))
    }

    /// Makes a tenant.
    ///
    /// # Errors
    /// The name is taken (`tenants_name_unique`).
    pub async fn create_tenant(&mut self, new: &NewTenant<'_>, now: Timestamp) -> Result<(), StoreError> {
        self.assume_platform_role().await?;
        sqlx::query!(
            "INSERT INTO tenants (tenant_id, name, quotas, edition, created_at) VALUES ($1, $2, $3, $4, $5)",
            new.id.0,
            new.name,
            to_json(new.quotas),
            edition_text(new.edition),
            now.to_sqlx() as _
        )
        .execute(&mut *self.inner)
        .await?;
        self.reset_role().await?;
        let before = self.switch_tenant(new.id).await?;
        sqlx::query!("INSERT INTO tenant_heads (tenant_id) VALUES ($1)", new.id.0).execute(&mut *self.inner).await?;
        self.insert_tenant_key(1, new.wrapped_key, now).await?;
        self.switch_tenant(before).await.map(drop)
    }

    /// Makes the first key of a tenant that was made in this transaction.
    ///
    /// # Errors
    /// The database failed.
    pub async fn create_first_api_key(&mut self, tenant: TenantId, key: &NewApiKey, now: Timestamp) -> Result<(), StoreError> {
        let before = self.switch_tenant(tenant).await?;
        self.create_api_key(key, now).await?;
        self.switch_tenant(before).await.map(drop)
    }

    /// Makes another key for a tenant's owner, on an operator's behalf: the way in for a tenant that has locked itself out. The
    /// entry goes into the tenant's own audit log, at once.
    ///
    /// # Errors
    /// The name is taken (`api_keys_name_unique`).
    pub async fn create_owner_api_key(
        &mut self,
        tenant: TenantId,
        key: &NewApiKey,
        entry: Entry,
    ) -> Result<ApiKey, StoreError> {
        let before = self.switch_tenant(tenant).await?;
        self.create_api_key(key, entry.at).await?;
        let made = self.get_api_key(key.id).await?;
        self.record_audit(entry);
        self.flush_events_and_audit().await?;
        self.switch_tenant(before).await?;
        Ok(made)
    }

    /// Deletes a tenant that has neither meshes nor clusters, and erases its keys; answers how many it has.
    ///
    /// # Errors
    /// It has moved on since the operator looked.
    pub async fn delete_tenant(&mut self, seen: &Tenant) -> Result<(u32, u32), StoreError> {
        let before = self.switch_tenant(seen.id).await?;
        self.lock_tenant().await?;
        let (meshes, clusters) = (self.count_objects(QuotaResource::Meshes).await?, self.count_objects(QuotaResource::Clusters).await?);
        if meshes + clusters == 0 {
            sqlx::query!("DELETE FROM tenant_keys WHERE tenant_id = $1", seen.id.0).execute(&mut *self.inner).await?;
            self.store.sealer.evict_tenant_keys(seen.id);
        }
        self.switch_tenant(before).await?;
        if meshes + clusters == 0 {
            self.update_tenant(seen, &Tenant { state: TenantState::Deleted, ..seen.clone() }).await?;
        }
        Ok((meshes, clusters))
    }

    /// Changes of one tenant that count what it has take turns until they commit.
    pub(crate) async fn lock_tenant(&mut self) -> Result<(), StoreError> {
        sqlx::query!("SELECT 1 AS one FROM tenant_heads WHERE tenant_id = $1 FOR NO KEY UPDATE", self.tenant.0)
            .fetch_optional(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// The tenant that this transaction is on behalf of.
    ///
    /// # Errors
    /// It does not exist.
    pub async fn current_tenant(&mut self) -> Result<Tenant, StoreError> {
        let row = sqlx::query_as!(
            TenantRow,
            "SELECT tenant_id, name, state, quotas, edition, generation, created_at FROM tenants WHERE tenant_id = $1",
            self.tenant.0
        );
        row.fetch_optional(&mut *self.inner).await?.ok_or(StoreError::NotFound { what: "tenant" })?.into_tenant()
    }

    /// Tenants, oldest first, for an operator; one of them, where an id is given. The operators' own is not among them.
    ///
    /// # Errors
    /// The database failed.
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
        .fetch_all(&mut *self.inner)
        .await?;
        self.reset_role().await?;
        rows.into_iter().map(TenantRow::into_tenant).collect()
    }

    /// Changes state, quotas and edition of a tenant for an operator who looked at this generation of it.
    ///
    /// # Errors
    /// It has moved on since.
    pub async fn update_tenant(&mut self, seen: &Tenant, wanted: &Tenant) -> Result<(), StoreError> {
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
        .execute(&mut *self.inner)
        .await?;
        self.reset_role().await?;
        require_one_row(done.rows_affected(), StoreError::StaleVersion)
    }

    /// How much there is of something.
    ///
    /// # Errors
    /// The database failed.
    pub async fn count_objects(&mut self, of: QuotaResource) -> Result<u32, StoreError> {
        let tenant = self.tenant.0;
        let count = match of {
            QuotaResource::Clusters => {
                sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM clusters WHERE tenant_id = $1"#, tenant)
                    .fetch_one(&mut *self.inner)
                    .await?
            }
            QuotaResource::Meshes => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "count!" FROM meshes WHERE tenant_id = $1 AND state <> 'deleted'"#,
                    tenant
                )
                .fetch_one(&mut *self.inner)
                .await?
            }
            QuotaResource::ApiKeys => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "count!" FROM api_keys WHERE tenant_id = $1 AND revoked_at IS NULL"#,
                    tenant
                )
                .fetch_one(&mut *self.inner)
                .await?
            }
            QuotaResource::IdentityProviders => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "count!" FROM identity_providers WHERE tenant_id = $1"#,
                    tenant
                )
                .fetch_one(&mut *self.inner)
                .await?
            }
            QuotaResource::RoleBindings => {
                sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM role_bindings WHERE tenant_id = $1"#, tenant)
                    .fetch_one(&mut *self.inner)
                    .await?
            }
            QuotaResource::Webhooks => {
                sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM webhooks WHERE tenant_id = $1"#, tenant)
                    .fetch_one(&mut *self.inner)
                    .await?
            }
        };
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Refuses one more of something than the tenant may have. Two requests never both take the last place.
    ///
    /// # Errors
    /// [`StoreError::Quota`]; or the tenant was deleted meanwhile.
    pub async fn check_quota(&mut self, of: QuotaResource) -> Result<(), StoreError> {
        self.lock_tenant().await?;
        let tenant = self.current_tenant().await?;
        if tenant.state == TenantState::Deleted {
            return Err(StoreError::NotFound { what: "tenant" });
        }
        let limit = tenant.quotas.limit_for(of);
        if self.count_objects(of).await? < limit { Ok(()) } else { Err(StoreError::QuotaExceeded { of, limit }) }
    }
}
