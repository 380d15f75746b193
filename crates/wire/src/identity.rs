//! Identity providers and role bindings.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An issuer of `OpenID` Connect tokens to trust.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateIdentityProvider {
    /// Its name: a DNS label.
    #[schema(example = "company")]
    pub name: String,
    /// What its tokens say in `iss`: an https address, with the discovery document below it.
    #[schema(example = "https://login.example.com/realms/company")]
    pub issuer: String,
    /// The signature algorithms that it uses; no other is accepted.
    #[serde(default = "default_algorithms")]
    #[schema(default = json!(["RS256"]))]
    pub algorithms: Vec<String>,
    /// The claim that lists groups.
    #[serde(default = "default_groups_claim")]
    #[schema(default = "groups")]
    pub groups_claim: String,
    /// Claims that every token must have with exactly these values.
    #[serde(default)]
    pub required_claims: BTreeMap<String, String>,
}

fn default_algorithms() -> Vec<String> {
    vec!["RS256".into()]
}

fn default_groups_claim() -> String {
    "groups".into()
}

/// An issuer that is trusted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct IdentityProvider {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What its tokens say in `iss`.
    pub issuer: String,
    /// What its tokens must say in `aud`: it names the tenant.
    pub audience: String,
    /// The signature algorithms that are accepted.
    pub algorithms: Vec<String>,
    /// The claim that lists groups.
    pub groups_claim: String,
    /// Claims that every token must have with exactly these values.
    pub required_claims: BTreeMap<String, String>,
    /// When it was added.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A role to grant.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRoleBinding {
    /// From which identity provider they come.
    pub provider_id: String,
    /// One person or program: what their tokens say in `sub`.
    pub subject: Option<String>,
    /// Everybody whose tokens list this group.
    pub group: Option<String>,
    /// `owner`, `operator`, `viewer` or `auditor`.
    pub role: String,
    /// `tenant`, or the id of a mesh or a cluster.
    #[serde(default = "default_scope")]
    #[schema(default = "tenant")]
    pub scope: String,
}

fn default_scope() -> String {
    "tenant".into()
}

/// A role that was granted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RoleBinding {
    /// Its id.
    pub id: String,
    /// From which identity provider they come.
    pub provider_id: String,
    /// One person or program.
    pub subject: Option<String>,
    /// Everybody with this group.
    pub group: Option<String>,
    /// What they may do.
    pub role: String,
    /// With what.
    pub scope: String,
    /// When it was granted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}
