//! What is written into a user's cluster, and what is not, over an imagined API server.

mod access;
mod fake;
mod former_address;
mod leaving;
mod owners;
mod registration;
