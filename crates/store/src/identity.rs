//! Identity providers that a tenant trusts, and what those who come from them may do.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use model::access::{Grant, Role, Scope};
use model::ids::{BindingId, ProviderId};

use crate::error::{decode_column, to_json};
use crate::{Page, StoreError, Tx, require_one_row};

/// An issuer of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Its id.
    pub id: ProviderId,
    /// Its name, unique within the tenant.
    pub name: String,
    /// What its tokens say in `iss`; also where its discovery document is.
    pub issuer: String,
    /// The signature algorithms that it uses; no other is looked at.
    pub algorithms: Vec<String>,
    /// The claim that lists groups.
    pub groups_claim: String,
    /// Claims that every token must have with these values.
    pub required_claims: BTreeMap<String, String>,
    /// When it was added.
    pub created_at: Timestamp,
}

/// Whom a binding is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// One person or program, by `sub`.
    User(String),
    /// Everybody with a group.
    Group(String),
}

impl Subject {
    fn kind_and_name(&self) -> (&'static str, &str) {
        match self {
            Self::User(subject) => ("subject", subject),
            Self::Group(group) => ("group", group),
        }
    }
}

/// A grant to somebody who comes from a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Its id.
    pub id: BindingId,
    /// From where they come.
    pub provider: ProviderId,
    /// Who.
    pub subject: Subject,
    /// What they may do with what.
    pub grant: Grant,
    /// When it was made.
    pub created_at: Timestamp,
}

struct ProviderRow {
    provider_id: uuid::Uuid,
    name: String,
    issuer: String,
    algorithms: Vec<String>,
    groups_claim: String,
    required_claims: serde_json::Value,
    created_at: jiff_sqlx::Timestamp,
}

impl ProviderRow {
    fn into_provider(self) -> Result<Provider, StoreError> {
        let id = ProviderId(self.provider_id);
        let required = serde_json::from_value(self.required_claims);
        Ok(Provider {
            id,
            name: self.name,
            issuer: self.issuer,
            algorithms: self.algorithms,
            groups_claim: self.groups_claim,
            required_claims: decode_column(required, "identity_providers", "required_claims", id)?,
            created_at: self.created_at.to_jiff(),
        })
    }
}

fn decode_grant(role: &str, scope: &str, id: BindingId) -> Result<Grant, StoreError> {
    Ok(Grant {
        role: decode_column(role.parse::<Role>(), "role_bindings", "role", id)?,
        scope: decode_column(scope.parse::<Scope>(), "role_bindings", "scope", id)?,
    })
}

impl Tx<'_> {
    /// Trusts an issuer.
    ///
    /// # Errors
    /// Its name (`identity_providers_name_unique`) or its issuer (`identity_providers_issuer_unique`) is taken.
    pub async fn create_identity_provider(&mut self, new: &Provider) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO identity_providers (tenant_id, provider_id, name, issuer, algorithms, groups_claim, required_claims, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            self.tenant.0,
            new.id.0,
            new.name,
            new.issuer,
            &new.algorithms,
            new.groups_claim,
            to_json(&new.required_claims),
            new.created_at.to_sqlx() as _
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Providers of this tenant, oldest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn list_identity_providers(&mut self, page: Page) -> Result<Vec<Provider>, StoreError> {
        let rows = sqlx::query_as!(
            ProviderRow,
            "SELECT provider_id, name, issuer, algorithms, groups_claim, required_claims, created_at FROM identity_providers
             WHERE tenant_id = $1 AND ($2::uuid IS NULL OR provider_id > $2) ORDER BY provider_id LIMIT $3",
            self.tenant.0,
            page.after,
            page.limit
        );
        rows.fetch_all(&mut *self.inner).await?.into_iter().map(ProviderRow::into_provider).collect()
    }

    /// One provider.
    ///
    /// # Errors
    /// There is none of that id in this tenant.
    pub async fn get_identity_provider(&mut self, id: ProviderId) -> Result<Provider, StoreError> {
        let row = sqlx::query_as!(
            ProviderRow,
            "SELECT provider_id, name, issuer, algorithms, groups_claim, required_claims, created_at FROM identity_providers
             WHERE tenant_id = $1 AND provider_id = $2",
            self.tenant.0,
            id.0
        );
        let missing = StoreError::NotFound { what: "identity provider" };
        row.fetch_optional(&mut *self.inner).await?.ok_or(missing)?.into_provider()
    }

    /// The provider of an issuer, if this tenant trusts it.
    ///
    /// # Errors
    /// The database failed.
    pub async fn find_provider_by_issuer(&mut self, issuer: &str) -> Result<Option<Provider>, StoreError> {
        let row = sqlx::query_as!(
            ProviderRow,
            "SELECT provider_id, name, issuer, algorithms, groups_claim, required_claims, created_at FROM identity_providers
             WHERE tenant_id = $1 AND issuer = $2",
            self.tenant.0,
            issuer
        );
        row.fetch_optional(&mut *self.inner).await?.map(ProviderRow::into_provider).transpose()
    }

    /// Trusts an issuer no longer; what its people were granted goes with it.
    ///
    /// # Errors
    /// There is no such provider.
    pub async fn delete_identity_provider(&mut self, id: ProviderId) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "DELETE FROM identity_providers WHERE tenant_id = $1 AND provider_id = $2",
            self.tenant.0,
            id.0
        )
        .execute(&mut *self.inner)
        .await?;
        require_one_row(done.rows_affected(), StoreError::NotFound { what: "identity provider" })
    }

    /// Grants something.
    ///
    /// # Errors
    /// The same was granted before (`role_bindings_unique`), or there is no such provider (`role_bindings_provider_fk`).
    pub async fn create_role_binding(&mut self, new: &Binding) -> Result<(), StoreError> {
        let (kind, subject) = new.subject.kind_and_name();
        sqlx::query!(
            "INSERT INTO role_bindings (tenant_id, binding_id, provider_id, subject_kind, subject, role, scope, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            self.tenant.0,
            new.id.0,
            new.provider.0,
            kind,
            subject,
            new.grant.role.as_str(),
            new.grant.scope.to_string(),
            new.created_at.to_sqlx() as _
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Bindings of this tenant, oldest first; one of them, where an id is given.
    ///
    /// # Errors
    /// The database failed.
    pub async fn list_role_bindings(&mut self, only: Option<BindingId>, page: Page) -> Result<Vec<Binding>, StoreError> {
        let rows = sqlx::query!(
            "SELECT binding_id, provider_id, subject_kind, subject, role, scope, created_at FROM role_bindings
             WHERE tenant_id = $1 AND ($2::uuid IS NULL OR binding_id = $2) AND ($3::uuid IS NULL OR binding_id > $3)
             ORDER BY binding_id LIMIT $4",
            self.tenant.0,
            only.map(|id| id.0),
            page.after,
            page.limit
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let read = rows.into_iter().map(|row| {
            let id = BindingId(row.binding_id);
            let group = row.subject_kind == "group";
            Ok(Binding {
                id,
                provider: ProviderId(row.provider_id),
                subject: if group { Subject::Group(row.subject) } else { Subject::User(row.subject) },
                grant: decode_grant(&row.role, &row.scope, id)?,
                created_at: row.created_at.to_jiff(),
            })
        });
        read.collect()
    }

    /// Takes a grant back.
    ///
    /// # Errors
    /// There is no such binding.
    pub async fn delete_role_binding(&mut self, id: BindingId) -> Result<(), StoreError> {
        let done =
            sqlx::query!("DELETE FROM role_bindings WHERE tenant_id = $1 AND binding_id = $2", self.tenant.0, id.0)
                .execute(&mut *self.inner)
                .await?;
        require_one_row(done.rows_affected(), StoreError::NotFound { what: "role binding" })
    }

    /// What somebody who comes from a provider was granted, by themselves or by a group.
    ///
    /// # Errors
    /// The database failed.
    pub async fn list_grants(
        &mut self,
        provider: ProviderId,
        subject: &str,
        groups: &[String],
    ) -> Result<Vec<Grant>, StoreError> {
        let rows = sqlx::query!(
            "SELECT binding_id, role, scope FROM role_bindings WHERE tenant_id = $1 AND provider_id = $2
                 AND ((subject_kind = 'subject' AND subject = $3) OR (subject_kind = 'group' AND subject = ANY($4)))",
            self.tenant.0,
            provider.0,
            subject,
            groups
        )
        .fetch_all(&mut *self.inner)
        .await?;
        rows.into_iter().map(|row| decode_grant(&row.role, &row.scope, BindingId(row.binding_id))).collect()
    }
}
