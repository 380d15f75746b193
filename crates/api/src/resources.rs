//! Holds the handlers, one file for each kind of resource, and the views that they answer with.

pub(crate) mod api_keys;
pub(crate) mod audit;
pub(crate) mod catalogue;
pub(crate) mod clusters;
pub(crate) mod events;
pub(crate) mod identity_providers;
pub(crate) mod leaving;
pub(crate) mod meshes;
pub(crate) mod operations;
pub(crate) mod release_rules;
pub(crate) mod rollouts;
pub(crate) mod tenants;
pub(crate) mod upgrades;
pub(crate) mod views;
pub(crate) mod webhooks;
