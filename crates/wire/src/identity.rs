//! Bodies about identity providers and role bindings.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Role, SignatureAlgorithm, SignatureAlgorithmValue};

/// Request to trust an issuer of `OpenID` Connect tokens.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateIdentityProvider {
    /// Name of the identity provider: a DNS label of 1 to 63 characters.
    #[schema(example = "company")]
    pub name: String,
    /// Value of the claim `iss` in its tokens, at most 255 bytes: an https address below which the
    /// discovery document is found.
    #[schema(example = "https://login.example.com/realms/company")]
    pub issuer: String,
    /// Signature algorithms of its tokens; tokens with another algorithm are refused.
    #[serde(default = "default_algorithms")]
    #[schema(default = json!(["RS256"]), inline)]
    pub algorithms: Vec<SignatureAlgorithm>,
    /// Claim that lists the groups of a person, 1 to 255 bytes.
    #[serde(default = "default_groups_claim")]
    #[schema(default = "groups")]
    pub groups_claim: String,
    /// Claims that every token must have with exactly these values, at most 20. Names and values
    /// have 1 to 255 bytes.
    #[serde(default)]
    pub required_claims: BTreeMap<String, String>,
}

fn default_algorithms() -> Vec<SignatureAlgorithm> {
    vec![SignatureAlgorithmValue::Rs256.into()]
}

fn default_groups_claim() -> String {
    "groups".into()
}

/// Issuer of `OpenID` Connect tokens that a tenant trusts.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct IdentityProvider {
    /// Id of the identity provider.
    pub id: String,
    /// Name of the identity provider.
    pub name: String,
    /// Value of the claim `iss` in its tokens.
    pub issuer: String,
    /// Value that the claim `aud` of its tokens must have; it names the tenant.
    pub audience: String,
    /// Signature algorithms that are accepted.
    #[schema(inline)]
    pub algorithms: Vec<SignatureAlgorithm>,
    /// Claim that lists the groups of a person.
    pub groups_claim: String,
    /// Claims that every token must have with exactly these values.
    pub required_claims: BTreeMap<String, String>,
    /// Time at which the identity provider was added.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Request to grant a role to a subject or a group of an identity provider.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRoleBinding {
    /// Id of the identity provider that issues the tokens.
    pub provider_id: String,
    /// Claim `sub` in the tokens of one person or program. Either this or `group` is given.
    pub subject: Option<String>,
    /// Group that the tokens of its members list. Either this or `subject` is given.
    pub group: Option<String>,
    /// Role to grant: `owner`, `operator`, `viewer` or `auditor`.
    #[schema(inline)]
    pub role: Role,
    /// Scope of the role: `tenant` for the whole tenant, or the id of a mesh or cluster.
    #[serde(default = "default_scope")]
    #[schema(default = "tenant")]
    pub scope: String,
}

fn default_scope() -> String {
    "tenant".into()
}

/// Role that was granted to a subject or a group of an identity provider.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RoleBinding {
    /// Id of the role binding.
    pub id: String,
    /// Id of the identity provider that issues the tokens.
    pub provider_id: String,
    /// Claim `sub` in the tokens of the person or program; null if a group has the role.
    pub subject: Option<String>,
    /// Group whose members have the role; null if one person or program has it.
    pub group: Option<String>,
    /// Role that was granted: `owner`, `operator`, `viewer` or `auditor`.
    #[schema(inline)]
    pub role: Role,
    /// Scope of the role: `tenant` for the whole tenant, or the id of a mesh or cluster.
    pub scope: String,
    /// Time at which the role was granted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}
