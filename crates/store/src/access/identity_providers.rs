//! Stores the identity providers that a tenant trusts, and the roles of the people and programs
//! that they authenticate.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use meshwright_model::access::{Grant, Role, Scope};
use meshwright_model::ids::{BindingId, ProviderId};

use crate::db::query_areas::IdentityQueries;
use crate::db::statements::require_one_row;
use crate::error::{decode_column, to_json};
use crate::{Page, StoreError};

/// An `OpenID` Connect provider whose tokens the tenant accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Identifier of the identity provider.
    pub id: ProviderId,
    /// Name of the provider, unique within the tenant.
    pub name: String,
    /// Issuer URL: the value of `iss` in its tokens, below which its discovery document is served.
    pub issuer: String,
    /// Signature algorithms that the provider uses. A token with any other algorithm is refused
    /// before its signature is checked.
    pub algorithms: Vec<String>,
    /// Claim that lists the groups of the subject.
    pub groups_claim: String,
    /// Claims that every token must have, each with exactly this value.
    pub required_claims: BTreeMap<String, String>,
    /// Time when the provider was added.
    pub created_at: Timestamp,
}

/// The subject of a role binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// One person or program, by the claim `sub`.
    User(String),
    /// Every subject that is in this group.
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

/// A role that is granted to a subject or group of an identity provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Identifier of the role binding.
    pub id: BindingId,
    /// Identity provider that authenticates the subject.
    pub provider: ProviderId,
    /// Person, program or group that receives the role.
    pub subject: Subject,
    /// Role and the scope that it holds for.
    pub grant: Grant,
    /// Time when the binding was created.
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

impl IdentityQueries<'_, '_> {
    /// Adds an identity provider that this tenant trusts.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] with `identity_providers_name_unique` or
    /// `identity_providers_issuer_unique` when the name or the issuer is taken.
    pub async fn create_identity_provider(&mut self, new: &Provider) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO identity_providers (tenant_id, provider_id, name, issuer, algorithms, groups_claim, required_claims, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            self.tx.tenant.0,
            new.id.0,
            new.name,
            new.issuer,
            &new.algorithms,
            new.groups_claim,
            to_json(&new.required_claims),
            new.created_at.to_sqlx() as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }

    /// Lists the identity providers of this tenant, oldest first.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when a row does not fit.
    pub async fn list_identity_providers(
        &mut self,
        page: Page,
    ) -> Result<Vec<Provider>, StoreError> {
        let rows = sqlx::query_as!(
            ProviderRow,
            "SELECT provider_id, name, issuer, algorithms, groups_claim, required_claims, created_at FROM identity_providers
             WHERE tenant_id = $1 AND ($2::uuid IS NULL OR provider_id > $2) ORDER BY provider_id LIMIT $3",
            self.tx.tenant.0,
            page.after,
            page.limit
        );
        rows.fetch_all(&mut *self.tx.inner)
            .await?
            .into_iter()
            .map(ProviderRow::into_provider)
            .collect()
    }

    /// Reads one identity provider.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such provider.
    pub async fn get_identity_provider(&mut self, id: ProviderId) -> Result<Provider, StoreError> {
        let row = sqlx::query_as!(
            ProviderRow,
            "SELECT provider_id, name, issuer, algorithms, groups_claim, required_claims, created_at FROM identity_providers
             WHERE tenant_id = $1 AND provider_id = $2",
            self.tx.tenant.0,
            id.0
        );
        let missing = StoreError::NotFound {
            what: "identity provider",
        };
        row.fetch_optional(&mut *self.tx.inner)
            .await?
            .ok_or(missing)?
            .into_provider()
    }

    /// Finds the identity provider with this issuer, if the tenant trusts it.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when the row does not fit.
    pub async fn find_provider_by_issuer(
        &mut self,
        issuer: &str,
    ) -> Result<Option<Provider>, StoreError> {
        let row = sqlx::query_as!(
            ProviderRow,
            "SELECT provider_id, name, issuer, algorithms, groups_claim, required_claims, created_at FROM identity_providers
             WHERE tenant_id = $1 AND issuer = $2",
            self.tx.tenant.0,
            issuer
        );
        row.fetch_optional(&mut *self.tx.inner)
            .await?
            .map(ProviderRow::into_provider)
            .transpose()
    }

    /// Deletes an identity provider together with its role bindings.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such provider.
    pub async fn delete_identity_provider(&mut self, id: ProviderId) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "DELETE FROM identity_providers WHERE tenant_id = $1 AND provider_id = $2",
            self.tx.tenant.0,
            id.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(
            done.rows_affected(),
            StoreError::NotFound {
                what: "identity provider",
            },
        )
    }

    /// Adds a role binding.
    ///
    /// # Errors
    /// Returns [`StoreError::Conflict`] with `role_bindings_unique` when the same binding exists,
    /// or with `role_bindings_provider_fk` when there is no such provider.
    pub async fn create_role_binding(&mut self, new: &Binding) -> Result<(), StoreError> {
        let (kind, subject) = new.subject.kind_and_name();
        sqlx::query!(
            "INSERT INTO role_bindings (tenant_id, binding_id, provider_id, subject_kind, subject, role, scope, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            self.tx.tenant.0,
            new.id.0,
            new.provider.0,
            kind,
            subject,
            new.grant.role.as_str(),
            new.grant.scope.to_string(),
            new.created_at.to_sqlx() as _
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }

    /// Lists the role bindings of this tenant, oldest first; with `only`, just that one.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when a row does not fit.
    pub async fn list_role_bindings(
        &mut self,
        only: Option<BindingId>,
        page: Page,
    ) -> Result<Vec<Binding>, StoreError> {
        let rows = sqlx::query!(
            "SELECT binding_id, provider_id, subject_kind, subject, role, scope, created_at FROM role_bindings
             WHERE tenant_id = $1 AND ($2::uuid IS NULL OR binding_id = $2) AND ($3::uuid IS NULL OR binding_id > $3)
             ORDER BY binding_id LIMIT $4",
            self.tx.tenant.0,
            only.map(|id| id.0),
            page.after,
            page.limit
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        let read = rows.into_iter().map(|row| {
            let id = BindingId(row.binding_id);
            let group = row.subject_kind == "group";
            Ok(Binding {
                id,
                provider: ProviderId(row.provider_id),
                subject: if group {
                    Subject::Group(row.subject)
                } else {
                    Subject::User(row.subject)
                },
                grant: decode_grant(&row.role, &row.scope, id)?,
                created_at: row.created_at.to_jiff(),
            })
        });
        read.collect()
    }

    /// Deletes a role binding.
    ///
    /// # Errors
    /// Returns [`StoreError::NotFound`] when this tenant has no such role binding.
    pub async fn delete_role_binding(&mut self, id: BindingId) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "DELETE FROM role_bindings WHERE tenant_id = $1 AND binding_id = $2",
            self.tx.tenant.0,
            id.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        require_one_row(
            done.rows_affected(),
            StoreError::NotFound {
                what: "role binding",
            },
        )
    }

    /// Lists the grants of a subject of an identity provider: its own and those of its groups.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when a row does not fit.
    pub async fn list_grants(
        &mut self,
        provider: ProviderId,
        subject: &str,
        groups: &[String],
    ) -> Result<Vec<Grant>, StoreError> {
        let rows = sqlx::query!(
            "SELECT binding_id, role, scope FROM role_bindings WHERE tenant_id = $1 AND provider_id = $2
                 AND ((subject_kind = 'subject' AND subject = $3) OR (subject_kind = 'group' AND subject = ANY($4)))",
            self.tx.tenant.0,
            provider.0,
            subject,
            groups
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        rows.into_iter()
            .map(|row| decode_grant(&row.role, &row.scope, BindingId(row.binding_id)))
            .collect()
    }
}
