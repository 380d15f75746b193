//! Holds the connections and transactions: how many a tenant may have, the sessions of async tasks,
//! repeated requests, and an embedded Postgres for development and tests.

pub(crate) mod connection_quota;
pub mod embedded_postgres;
pub(crate) mod idempotency;
pub(crate) mod lists;
pub(crate) mod query_areas;
pub(crate) mod session;
pub(crate) mod statements;
pub(crate) mod store;
pub(crate) mod tx;
