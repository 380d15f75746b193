//! Tenants, as operators see them and as they see themselves.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use model::audit::Entry;
use model::ids::TenantId;
use model::quota::{Counted, Quotas};
use model::rules::Edition;

use crate::envelope::WrappedKey;
use crate::error::{fits, json};
use crate::meshes::edition_text;
use crate::{ApiKey, NewKey, Page, Store, StoreError, Tx, exactly_one};

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

    pub(crate) fn read(text: &str, tenant: TenantId) -> Result<Self, StoreError> {
        let state = Self::ALL.into_iter().find(|state| state.as_str() == text);
        fits(state.ok_or(()), "tenants", "state", tenant)
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
    pub wrapped: &'a WrappedKey,
}

struct Row {
    tenant_id: uuid::Uuid,
    name: String,
    state: String,
    quotas: serde_json::Value,
    edition: String,
    generation: i64,
    created_at: jiff_sqlx::Timestamp,
}

impl Row {
    fn read(self) -> Result<Tenant, StoreError> {
        let id = TenantId(self.tenant_id);
        Ok(Tenant {
            id,
            name: self.name,
            state: TenantState::read(&self.state, id)?,
            quotas: fits(serde_json::from_value(self.quotas), "tenants", "quotas", id)?,
            edition: fits(serde_json::from_value(self.edition.into()), "tenants", "edition", id)?,
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
        let wrapped = self.vault.first_wrapped_key(tenant).await?;
        let mut tx = self.begin(tenant).await?;
        let (quotas, edition) = (&Quotas::default(), Edition::Ultimate);
        tx.create_tenant(&NewTenant { id: tenant, name, quotas, edition, wrapped: &wrapped }, now).await?;
        tx.commit().await
    }

    /// Gives the operators' own tenant its data key, where it has none yet.
    ///
    /// # Errors
    /// The database or the key service failed.
    pub async fn prepare_platform(&self, now: Timestamp) -> Result<(), StoreError> {
        let wrapped = self.vault.first_wrapped_key(TenantId::PLATFORM).await?;
        let mut tx = self.begin(TenantId::PLATFORM).await?;
        match tx.add_key(1, &wrapped, now).await {
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
    pub(crate) async fn as_platform(&mut self) -> Result<(), StoreError> {
        sqlx::query!("SELECT set_config('role', 'mw_platform', true)").fetch_one(&mut *self.inner).await?;
        Ok(())
    }

    pub(crate) async fn as_tenant(&mut self) -> Result<(), StoreError> {
        sqlx::query!("SELECT set_config('role', 'none', true)").fetch_one(&mut *self.inner).await?;
        Ok(())
    }

    /// Goes on, on behalf of another tenant; answers on whose behalf it was. Only an operator's request does this, and it
    /// goes back before anything of the operator's is written.
    async fn go_over(&mut self, tenant: TenantId) -> Result<TenantId, StoreError> {
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
        self.as_platform().await?;
        sqlx::query!(
            "INSERT INTO tenants (tenant_id, name, quotas, edition, created_at) VALUES ($1, $2, $3, $4, $5)",
            new.id.0,
            new.name,
            json(new.quotas),
            edition_text(new.edition),
            now.to_sqlx() as _
        )
        .execute(&mut *self.inner)
        .await?;
        self.as_tenant().await?;
        let before = self.go_over(new.id).await?;
        sqlx::query!("INSERT INTO tenant_heads (tenant_id) VALUES ($1)", new.id.0).execute(&mut *self.inner).await?;
        self.add_key(1, new.wrapped, now).await?;
        self.go_over(before).await.map(drop)
    }

    /// Makes the first key of a tenant that was made in this transaction.
    ///
    /// # Errors
    /// The database failed.
    pub async fn create_first_key(&mut self, tenant: TenantId, key: &NewKey, now: Timestamp) -> Result<(), StoreError> {
        let before = self.go_over(tenant).await?;
        self.create_key(key, now).await?;
        self.go_over(before).await.map(drop)
    }

    /// Makes another key for a tenant's owner, on an operator's behalf: the way in for a tenant that has locked itself out. The
    /// entry goes into the tenant's own audit log, at once.
    ///
    /// # Errors
    /// The name is taken (`api_keys_name_unique`).
    pub async fn create_owner_key(
        &mut self,
        tenant: TenantId,
        key: &NewKey,
        entry: Entry,
    ) -> Result<ApiKey, StoreError> {
        let before = self.go_over(tenant).await?;
        self.create_key(key, entry.at).await?;
        let made = self.key(key.id).await?;
        self.note(entry);
        self.write_log().await?;
        self.go_over(before).await?;
        Ok(made)
    }

    /// Deletes a tenant that has neither meshes nor clusters, and erases its keys; answers how many it has.
    ///
    /// # Errors
    /// It has moved on since the operator looked.
    pub async fn delete_tenant(&mut self, seen: &Tenant) -> Result<(u32, u32), StoreError> {
        let before = self.go_over(seen.id).await?;
        self.take_turns().await?;
        let (meshes, clusters) = (self.count(Counted::Meshes).await?, self.count(Counted::Clusters).await?);
        if meshes + clusters == 0 {
            sqlx::query!("DELETE FROM tenant_keys WHERE tenant_id = $1", seen.id.0).execute(&mut *self.inner).await?;
            self.store.vault.forget(seen.id);
        }
        self.go_over(before).await?;
        if meshes + clusters == 0 {
            self.change_tenant(seen, &Tenant { state: TenantState::Deleted, ..seen.clone() }).await?;
        }
        Ok((meshes, clusters))
    }

    /// Changes of one tenant that count what it has take turns until they commit.
    pub(crate) async fn take_turns(&mut self) -> Result<(), StoreError> {
        sqlx::query!("SELECT 1 AS one FROM tenant_heads WHERE tenant_id = $1 FOR NO KEY UPDATE", self.tenant.0)
            .fetch_optional(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// The tenant that this transaction is on behalf of.
    ///
    /// # Errors
    /// It does not exist.
    pub async fn own_tenant(&mut self) -> Result<Tenant, StoreError> {
        let row = sqlx::query_as!(
            Row,
            "SELECT tenant_id, name, state, quotas, edition, generation, created_at FROM tenants WHERE tenant_id = $1",
            self.tenant.0
        );
        row.fetch_optional(&mut *self.inner).await?.ok_or(StoreError::NotFound { what: "tenant" })?.read()
    }

    /// Tenants, oldest first, for an operator; one of them, where an id is given. The operators' own is not among them.
    ///
    /// # Errors
    /// The database failed.
    pub async fn tenants(
        &mut self,
        only: Option<TenantId>,
        deleted: bool,
        page: Page,
    ) -> Result<Vec<Tenant>, StoreError> {
        self.as_platform().await?;
        let rows = sqlx::query_as!(
            Row,
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
        self.as_tenant().await?;
        rows.into_iter().map(Row::read).collect()
    }

    /// Changes state, quotas and edition of a tenant for an operator who looked at this generation of it.
    ///
    /// # Errors
    /// It has moved on since.
    pub async fn change_tenant(&mut self, seen: &Tenant, wanted: &Tenant) -> Result<(), StoreError> {
        self.as_platform().await?;
        let done = sqlx::query!(
            "UPDATE tenants SET state = $3, quotas = $4, edition = $5, generation = generation + 1
             WHERE tenant_id = $1 AND generation = $2",
            seen.id.0,
            seen.generation,
            wanted.state.as_str(),
            json(&wanted.quotas),
            edition_text(wanted.edition)
        )
        .execute(&mut *self.inner)
        .await?;
        self.as_tenant().await?;
        exactly_one(done.rows_affected(), StoreError::Moved)
    }

    /// How much there is of something.
    ///
    /// # Errors
    /// The database failed.
    pub async fn count(&mut self, of: Counted) -> Result<u32, StoreError> {
        let tenant = self.tenant.0;
        let count = match of {
            Counted::Clusters => {
                sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM clusters WHERE tenant_id = $1"#, tenant)
                    .fetch_one(&mut *self.inner)
                    .await?
            }
            Counted::Meshes => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "count!" FROM meshes WHERE tenant_id = $1 AND state <> 'deleted'"#,
                    tenant
                )
                .fetch_one(&mut *self.inner)
                .await?
            }
            Counted::ApiKeys => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "count!" FROM api_keys WHERE tenant_id = $1 AND revoked_at IS NULL"#,
                    tenant
                )
                .fetch_one(&mut *self.inner)
                .await?
            }
            Counted::IdentityProviders => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "count!" FROM identity_providers WHERE tenant_id = $1"#,
                    tenant
                )
                .fetch_one(&mut *self.inner)
                .await?
            }
            Counted::RoleBindings => {
                sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM role_bindings WHERE tenant_id = $1"#, tenant)
                    .fetch_one(&mut *self.inner)
                    .await?
            }
            Counted::Webhooks => {
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
    pub async fn room_for(&mut self, of: Counted) -> Result<(), StoreError> {
        self.take_turns().await?;
        let tenant = self.own_tenant().await?;
        if tenant.state == TenantState::Deleted {
            return Err(StoreError::NotFound { what: "tenant" });
        }
        let limit = tenant.quotas.limit(of);
        if self.count(of).await? < limit { Ok(()) } else { Err(StoreError::Quota { of, limit }) }
    }
}
