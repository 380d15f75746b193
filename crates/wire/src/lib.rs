//! Request and response bodies and problem codes, shared by the api and the cli.
//!
//! Enums grow: clients must tolerate values that they do not know. Times are RFC 3339 in UTC.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

mod data_plane;
mod fleet;
mod identity;
mod keys;
mod leaving;
mod object;
mod operations;
#[cfg(feature = "options")]
mod options;
mod problem;
mod problem_pages;
mod tenants;
mod upgrades;
mod webhooks;
mod whole;

pub use data_plane::*;
pub use fleet::*;
pub use identity::*;
pub use keys::*;
pub use leaving::*;
pub use object::JsonObject;
pub use operations::*;
#[cfg(feature = "options")]
pub use options::ReleaseArgs;
pub use problem::*;
pub use problem_pages::*;
pub use tenants::*;
pub use upgrades::*;
pub use webhooks::*;

macro_rules! lists {
    ($($(#[$doc:meta])* $name:ident of $item:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
        pub struct $name {
            /// The items of this page.
            pub items: Vec<$item>,
            /// Give it back as `page_token` for the next page; absent on the last one.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub next_page_token: Option<String>,
        }
    )*};
}

lists! {
    /// Hosting clusters.
    HostingClusterList of HostingCluster;
    /// Releases.
    ReleaseList of Release;
    /// Clusters.
    ClusterList of Cluster;
    /// Meshes.
    MeshList of Mesh;
    /// Upgrades.
    UpgradeList of Upgrade;
    /// Operations.
    OperationList of Operation;
    /// Upgrade options.
    UpgradeOptionList of UpgradeOption;
    /// API keys.
    ApiKeyList of ApiKey;
    /// Identity providers.
    IdentityProviderList of IdentityProvider;
    /// Role bindings.
    RoleBindingList of RoleBinding;
    /// Tenants.
    TenantList of Tenant;
    /// Events.
    EventList of Event;
    /// Webhooks.
    WebhookList of Webhook;
    /// Deliveries.
    DeliveryList of Delivery;
}
