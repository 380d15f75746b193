//! How an upgrade goes: stages become plans, each step looks before it acts, and a pure function decides what is next.
//!
//! This crate does no IO of its own: it meets clusters through [`ports::World`], which `cluster` implements for real
//! ones and `testkit` for imagined ones with faults.

pub mod decide;
pub mod plan;
pub mod ports;
pub mod step;
