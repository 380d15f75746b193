//! Bodies about tenants, their quotas and their usage.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Channel, Edition, ReleaseState, RequestedTenantState, TenantState};

/// Request to create a tenant.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTenant {
    /// Name of the tenant: a DNS label of 1 to 63 characters.
    #[schema(example = "payments")]
    pub name: String,
    /// Quotas that differ from the defaults, from 0 to 1000000 each, by what is counted:
    /// `clusters`, `meshes`, `api_keys`, `identity_providers`, `role_bindings` or `webhooks`.
    #[serde(default, deserialize_with = "crate::integer::deserialize_u32_map")]
    pub quotas: BTreeMap<String, u32>,
    /// Highest edition that meshes of the tenant can have: `standard`, `enterprise` or `ultimate`.
    #[serde(default = "crate::fleet::default_edition")]
    #[schema(default = "standard", inline)]
    pub edition: Edition,
}

/// Changes to a tenant. Fields that are left out stay as they are.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeTenant {
    /// New state of the tenant: `active` or `suspended`.
    #[schema(inline)]
    pub state: Option<RequestedTenantState>,
    /// Quotas to change, from 0 to 1000000 each, by what is counted: `clusters`, `meshes`,
    /// `api_keys`, `identity_providers`, `role_bindings` or `webhooks`.
    #[serde(default, deserialize_with = "crate::integer::deserialize_u32_map")]
    pub quotas: BTreeMap<String, u32>,
    /// Highest edition that new meshes can have: `standard`, `enterprise` or `ultimate`. Existing
    /// meshes keep their edition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Edition, required = false, inline)]
    pub edition: Option<Edition>,
}

/// Request to create a key with the role `owner` for a tenant.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateOwnerKey {
    /// Name of the key: a DNS label of 1 to 63 characters.
    #[schema(example = "recovery")]
    pub name: String,
}

/// Tenant: one customer of the service.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    /// Id of the tenant.
    pub id: String,
    /// Name of the tenant.
    pub name: String,
    /// State of the tenant: `active`, `suspended` (its credentials are refused, its meshes go on
    /// serving) or `deleted`.
    #[schema(inline)]
    pub state: TenantState,
    /// Quotas of the tenant, by what is counted: `clusters`, `meshes`, `api_keys`,
    /// `identity_providers`, `role_bindings` and `webhooks`.
    pub quotas: BTreeMap<String, u32>,
    /// Highest edition that new meshes can have: `standard`, `enterprise` or `ultimate`.
    #[schema(inline)]
    pub edition: Edition,
    /// Time at which the tenant was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Key of the first owner, shown once: in the answer that created the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_key: Option<String>,
}

/// Usage of a tenant's quotas.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Id of the tenant.
    pub tenant_id: String,
    /// Name of the tenant.
    pub tenant: String,
    /// Highest edition that new meshes can have: `standard`, `enterprise` or `ultimate`.
    #[schema(inline)]
    pub edition: Edition,
    /// Usage and quota, by what is counted: `clusters`, `meshes`, `api_keys`, `identity_providers`,
    /// `role_bindings` and `webhooks`.
    pub items: BTreeMap<String, QuotaUsage>,
}

/// Usage of one quota.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[schema(as = Used)]
pub struct QuotaUsage {
    /// Number of things that count now.
    pub used: u32,
    /// Number of things that are allowed.
    pub limit: u32,
}

/// Changes to a release. Fields that are left out stay as they are; charts and images never change.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeRelease {
    /// New state of the release: `available`, `deprecated` or `withdrawn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub state: Option<ReleaseState>,
    /// Channels that offer the release from now on, instead of the former ones: `rapid`, `regular`
    /// or `stable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub channels: Option<Vec<Channel>>,
    /// Day on which support for the release ends, as YYYY-MM-DD, for example 2027-06-30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supported_until: Option<String>,
    /// Notes for users, at most 255 bytes: a sentence, or the address of the release notes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
}
