//! Tenants.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use model::ids::TenantId;

use crate::{Store, StoreError};

impl Store {
    /// Makes a tenant.
    ///
    /// # Errors
    /// The name is taken (`tenants_name_unique`), or the key service failed.
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
        self.first_key(&mut tx, now).await?;
        tx.commit().await
    }
}
