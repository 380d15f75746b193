//! Resolves host names. Every connect resolves the name again.

use std::io;
use std::net::SocketAddr;

use async_trait::async_trait;

/// Resolves host names. Tests use a fake resolver.
#[async_trait]
pub trait Resolver: Send + Sync + std::fmt::Debug {
    /// Returns all addresses of a name, in the order in which they are to be tried.
    ///
    /// # Errors
    /// Returns an error if the name does not resolve.
    async fn resolve_host(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// Resolves names with the resolver of the operating system.
#[derive(Debug, Clone, Copy)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve_host(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }
}
