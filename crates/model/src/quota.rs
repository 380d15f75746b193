//! Defines how many resources of each kind a tenant may have.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::closed_set;

/// Kind of resource that a quota limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaResource {
    /// Registered clusters, with or without a mesh.
    Clusters,
    /// Meshes that are not deleted.
    Meshes,
    /// API keys that were not revoked.
    ApiKeys,
    /// Identity providers whose tokens the tenant accepts.
    IdentityProviders,
    /// Role bindings of all identity providers.
    RoleBindings,
    /// Webhooks that receive events.
    Webhooks,
}

closed_set!(QuotaResource {
    Clusters = "clusters",
    Meshes = "meshes",
    ApiKeys = "api_keys",
    IdentityProviders = "identity_providers",
    RoleBindings = "role_bindings",
    Webhooks = "webhooks",
});

impl QuotaResource {
    /// Returns the limit for tenants without a limit of their own.
    pub const fn default_limit(self) -> u32 {
        match self {
            Self::Clusters => 100,
            Self::Meshes => 50,
            Self::ApiKeys => 200,
            Self::IdentityProviders => 10,
            Self::RoleBindings => 1000,
            Self::Webhooks => 20,
        }
    }
}

/// Limits of one tenant, where they differ from the default limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Quotas(pub BTreeMap<QuotaResource, u32>);

impl Quotas {
    /// Returns the most resources of this kind that the tenant may have.
    pub fn limit_for(&self, of: QuotaResource) -> u32 {
        self.0
            .get(&of)
            .copied()
            .unwrap_or_else(|| of.default_limit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_limits_come_before_the_default_limits() {
        let own: Quotas = serde_json::from_str(r#"{ "meshes": 3 }"#).expect("quotas");
        assert_eq!(
            (
                own.limit_for(QuotaResource::Meshes),
                own.limit_for(QuotaResource::Clusters)
            ),
            (3, 100)
        );
    }
}
