//! Tenants and what they use.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A tenant to make.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTenant {
    /// Its name: a DNS label.
    #[schema(example = "payments")]
    pub name: String,
    /// How much of each thing it may have, where that differs from what everybody may have.
    #[serde(default, deserialize_with = "crate::whole::deserialize_u32_map")]
    pub quotas: BTreeMap<String, u32>,
    /// The highest edition that its meshes can have: `standard`, `enterprise` or `ultimate`.
    #[serde(default = "crate::fleet::default_edition")]
    #[schema(default = "standard")]
    pub edition: String,
}

/// What to change of a tenant; what is left out stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeTenant {
    /// `active` or `suspended`.
    pub state: Option<String>,
    /// How much of each thing it may have.
    #[serde(default, deserialize_with = "crate::whole::deserialize_u32_map")]
    pub quotas: BTreeMap<String, u32>,
    /// The highest edition that its new meshes can have. Meshes that it has keep theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub edition: Option<String>,
}

/// A key of an owner to make for a tenant.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateOwnerKey {
    /// Its name among the keys of the tenant: a DNS label.
    #[schema(example = "recovery")]
    pub name: String,
}

/// A tenant.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `active`, `suspended` or `deleted`.
    pub state: String,
    /// How much of each thing it may have.
    pub quotas: BTreeMap<String, u32>,
    /// The highest edition that its new meshes can have.
    pub edition: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// The first owner's key; shown once, when the tenant is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_key: Option<String>,
}

/// What a tenant uses of what it may have.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Its id.
    pub tenant_id: String,
    /// Its name.
    pub tenant: String,
    /// The highest edition that new meshes can have.
    pub edition: String,
    /// By what is counted.
    pub items: BTreeMap<String, Used>,
}

/// How much there is of something, and how much there may be.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct Used {
    /// How much there is.
    pub used: u32,
    /// How much there may be.
    pub limit: u32,
}

/// What to change of a release. What is left out stays. Its charts and images never change.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeRelease {
    /// `available`, `deprecated` or `withdrawn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// All channels that it is offered in from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<String>>,
    /// The day on which its support ends, for example 2027-06-30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supported_until: Option<String>,
    /// What users should know of it: a sentence, or where its notes are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
}
