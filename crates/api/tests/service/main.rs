//! The service through its own door: real Postgres, real router, no network.

mod access;
mod audit;
mod events;
mod keys;
mod lists;
mod requests;
mod support;
