//! Stores what happened, and the deliveries of events to webhooks.

pub(crate) mod deliveries;
pub(crate) mod event_log;
pub(crate) mod webhooks;
