//! The service through its own door: real Postgres, real router, no network.

mod access;
mod audit;
mod catalogue;
mod connections;
mod crowd;
mod data_plane;
mod deregistration;
mod events;
mod isolation;
mod issuer;
mod keys;
mod leaving;
mod limits;
mod lists;
mod matches;
mod meshes;
mod oidc;
mod operations;
mod requests;
mod rollouts;
mod support;
mod tenants;
mod trips;
mod webhooks;
mod written;
