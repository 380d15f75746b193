//! Defines the domain and its rules: versions, upgrade rules, injection, states with their
//! transitions, and plans as data.
//!
//! This crate reads no clock, no file and no socket, and has no async code. All other crates
//! translate to and from these types.

pub mod access;
pub mod audit;
pub mod backoff;
pub mod clock;
pub mod closed_set;
pub mod credential;
pub mod edition;
pub mod fleet;
pub mod ids;
pub mod injection;
pub mod label;
pub mod leftover;
pub mod name;
pub mod network;
pub mod observation;
pub mod operation;
pub mod plan;
pub mod problem;
pub mod quota;
pub mod release;
pub mod rules;
pub mod switch;
pub mod upgrade;
pub mod version;
pub mod webhook;

pub use clock::Clock;
pub use closed_set::{ClosedSet, OpenEnum};
pub use name::Name;
pub use plan::rollout;
pub use version::{RevisionName, Version};
