//! Serves the HTTP API. This is the only crate that uses axum. It records what clients want and
//! reads what workers have observed; it never calls a cluster.
//!
//! A request passes through [`router`] and one file for each resource to `store`.

mod app;
mod connection_limits;
mod error;
mod listener;
mod middleware;
mod oidc;
mod openapi;
mod request;
mod resources;
mod router;
mod write_limit;

pub use app::{App, NewAuthority, ReadCharts, ReadKubeconfig};
pub use listener::{ConnectionLimits, serve};
pub use middleware::metrics::{MetricsServer, metrics_router};
pub use middleware::rate_limit::{Rate, Rates, RequestLimiter};
pub use oidc::{Fetch, FetchError, IssuerKeys};
pub use request::release_import::parse_import_release;
pub use router::{openapi, router};
