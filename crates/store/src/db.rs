//! Holds the connections and transactions: how many a tenant may have, the sessions of tasks, repeated requests, and a private
//! Postgres for development and tests.

pub(crate) mod connection_quota;
pub mod embedded_postgres;
pub(crate) mod idempotency;
pub(crate) mod session;
