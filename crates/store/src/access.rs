//! Stores the tenants and the access to them: API keys, identity providers with their role bindings,
//! and the audit log.

pub(crate) mod api_key_token;
pub(crate) mod api_keys;
pub(crate) mod audit_log;
pub(crate) mod identity_providers;
pub(crate) mod quotas;
pub(crate) mod tenants;
