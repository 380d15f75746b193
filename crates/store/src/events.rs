//! Stores the events of tenants, and their deliveries to webhooks.

pub(crate) mod deliveries;
pub(crate) mod delivery_queue;
pub(crate) mod event_log;
pub(crate) mod webhooks;
