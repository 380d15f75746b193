//! Counts the things that a tenant's quotas limit, and refuses those beyond a quota.

use meshwright_model::fleet::TenantState;
use meshwright_model::quota::QuotaResource;

use crate::StoreError;
use crate::db::query_areas::TenantQueries;

impl TenantQueries<'_, '_> {
    /// Counts the tenant's things of one kind, as its quotas count them.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn count_objects(&mut self, of: QuotaResource) -> Result<u32, StoreError> {
        let tenant = self.tx.tenant.0;
        let count = match of {
            QuotaResource::Clusters => {
                sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM clusters WHERE tenant_id = $1"#, tenant)
                    .fetch_one(&mut *self.tx.inner)
                    .await?
            }
            QuotaResource::Meshes => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "count!" FROM meshes WHERE tenant_id = $1 AND state <> 'deleted'"#,
                    tenant
                )
                .fetch_one(&mut *self.tx.inner)
                .await?
            }
            QuotaResource::ApiKeys => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "count!" FROM api_keys WHERE tenant_id = $1 AND revoked_at IS NULL"#,
                    tenant
                )
                .fetch_one(&mut *self.tx.inner)
                .await?
            }
            QuotaResource::IdentityProviders => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "count!" FROM identity_providers WHERE tenant_id = $1"#,
                    tenant
                )
                .fetch_one(&mut *self.tx.inner)
                .await?
            }
            QuotaResource::RoleBindings => {
                sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM role_bindings WHERE tenant_id = $1"#, tenant)
                    .fetch_one(&mut *self.tx.inner)
                    .await?
            }
            QuotaResource::Webhooks => {
                sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM webhooks WHERE tenant_id = $1"#, tenant)
                    .fetch_one(&mut *self.tx.inner)
                    .await?
            }
        };
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Refuses one more thing of a kind when the tenant has reached its quota. The tenant stays
    /// locked until the transaction ends, so two requests never both take the last one.
    ///
    /// # Errors
    /// Returns [`StoreError::QuotaExceeded`] at the limit, and [`StoreError::NotFound`] when the
    /// tenant was deleted meanwhile.
    pub async fn check_quota(&mut self, of: QuotaResource) -> Result<(), StoreError> {
        self.lock_tenant().await?;
        let tenant = self.current_tenant().await?;
        if tenant.state == TenantState::Deleted {
            return Err(StoreError::NotFound { what: "tenant" });
        }
        let limit = tenant.quotas.limit_for(of);
        if self.count_objects(of).await? < limit {
            Ok(())
        } else {
            Err(StoreError::QuotaExceeded { of, limit })
        }
    }
}
