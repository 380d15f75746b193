//! Request bodies, response bodies and problem codes, shared by the API and the command line.
//!
//! Enums can get new values: clients must tolerate values that they do not know. Times are RFC 3339
//! in UTC.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[cfg(feature = "options")]
mod catalogue;
#[cfg(feature = "options")]
mod cli_args;
mod closed_sets;
mod data_plane;
mod fleet;
mod identity;
mod integer;
mod keys;
mod leaving;
mod object;
mod operations;
mod problem;
mod problem_pages;
mod rollouts;
mod tenants;
mod upgrades;
mod webhooks;

#[cfg(feature = "options")]
pub use catalogue::{Catalogue, InvalidCatalogue};
#[cfg(feature = "options")]
pub use cli_args::ReleaseArgs;
pub use closed_sets::*;
pub use data_plane::*;
pub use fleet::*;
pub use identity::*;
pub use keys::*;
pub use leaving::*;
pub use object::JsonObject;
pub use operations::*;
pub use problem::*;
pub use problem_pages::*;
pub use rollouts::*;
pub use tenants::*;
pub use upgrades::*;
pub use webhooks::*;

macro_rules! lists {
    ($($(#[$doc:meta])* $name:ident of $item:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
        pub struct $name {
            /// Items of this page, in order.
            pub items: Vec<$item>,
            /// Value of `page_token` that returns the next page; absent on the last page.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub next_page_token: Option<String>,
        }
    )*};
}

lists! {
    /// Page of hosting clusters.
    HostingClusterList of HostingCluster;
    /// Page of the releases in the catalogue.
    ReleaseList of Release;
    /// Page of registered clusters.
    ClusterList of Cluster;
    /// Page of a tenant's meshes.
    MeshList of Mesh;
    /// Page of a mesh's upgrades.
    UpgradeList of Upgrade;
    /// Page of a tenant's operations.
    OperationList of Operation;
    /// Page of a mesh's roll-outs.
    RolloutList of Rollout;
    /// Page of the workloads of a roll-out.
    RolloutItemList of RolloutItem;
    /// Page of a mesh's upgrade options.
    UpgradeOptionList of UpgradeOption;
    /// Page of a tenant's API keys.
    ApiKeyList of ApiKey;
    /// Page of trusted identity providers.
    IdentityProviderList of IdentityProvider;
    /// Page of a tenant's role bindings.
    RoleBindingList of RoleBinding;
    /// Page of the service's tenants.
    TenantList of Tenant;
    /// Page of a tenant's events.
    EventList of Event;
    /// Page of a tenant's webhooks.
    WebhookList of Webhook;
    /// Page of a webhook's deliveries.
    DeliveryList of Delivery;
}
