//! Stores operations: the queue that workers claim from, their steps and ends, and the upgrades that
//! they belong to.

pub(crate) mod attempts;
pub(crate) mod fencing;
pub(crate) mod notifications;
pub(crate) mod operation;
pub(crate) mod operation_row;
pub(crate) mod outcomes;
pub(crate) mod plans;
pub(crate) mod queue;
pub(crate) mod renewals;
pub(crate) mod rollouts;
pub(crate) mod transitions;
pub(crate) mod updates;
pub(crate) mod upgrades;
