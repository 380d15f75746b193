//! Stores who may do what: tenants, API keys, identity providers with their role bindings, and the audit log.

pub(crate) mod api_keys;
pub(crate) mod audit_log;
pub(crate) mod identity_providers;
pub(crate) mod tenants;
