//! Plans and executes changes of a mesh: turns each stage of an upgrade into a plan, checks each
//! step before it acts, and decides in a pure function what the engine does next.
//!
//! The crate does no IO of its own. It reaches clusters through [`ports::MeshClusters`], which
//! `kubernetes` implements for real clusters and `testkit` for simulated clusters with faults.

pub mod converge;
pub mod decide;
pub mod plan;
pub mod ports;
pub mod round;
pub mod step;
