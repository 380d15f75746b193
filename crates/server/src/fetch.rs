//! Addresses that tenants choose, of identity providers and webhooks: https only, public addresses only, no redirects, and
//! little patience.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::{Fetch, FetchError};
use async_trait::async_trait;
use cluster::Dialling;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use store::Attempt;
use worker::Post;

/// One document, from the first byte to the last.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is said of an address that is not dialled.
const FORBIDDEN: &str = "its address is loopback, private or link-local";
/// The largest document: a key set has a few kilobytes.
const LARGEST: usize = 256 * 1024;

/// One message, until its status.
const POST_PATIENCE: Duration = Duration::from_secs(10);

/// A client that dials what the operator allows.
#[derive(Debug)]
pub(crate) struct PublicFetch {
    http: reqwest::Client,
    rules: Dialling,
}

/// The same for messages.
#[derive(Debug)]
pub(crate) struct PublicPost {
    http: reqwest::Client,
    rules: Dialling,
}

/// Gives the client only addresses that it may dial, so that no second answer of a name server leads it elsewhere.
#[derive(Debug, Clone)]
struct Checked(Dialling);

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|address| rules.allows(address.ip())).collect();
            if allowed.is_empty() {
                return Err(FORBIDDEN.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

impl PublicFetch {
    pub(crate) fn new(rules: Dialling) -> Result<Self, reqwest::Error> {
        Ok(Self { http: client(&rules, PATIENCE).https_only(true).build()?, rules })
    }
}

fn client(rules: &Dialling, patience: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .timeout(patience)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .dns_resolver(Arc::new(Checked(rules.clone())))
}

/// An address that is written as one is never resolved: it is checked here.
fn forbidden(rules: &Dialling, url: &reqwest::Url) -> bool {
    let literal = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse().ok());
    literal.is_some_and(|address| !rules.allows(address))
}

impl PublicPost {
    pub(crate) fn new(rules: Dialling) -> Result<Self, reqwest::Error> {
        Ok(Self { http: client(&rules, POST_PATIENCE).pool_max_idle_per_host(1).build()?, rules })
    }

    /// Without TLS only within the networks that the operator allows by name: there the wire is theirs.
    fn plain_is_fine(&self, url: &reqwest::Url) -> bool {
        let literal: Option<IpAddr> = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse().ok());
        url.scheme() == "https" || literal.is_some_and(|address| self.rules.allowed_by_name(address))
    }
}

#[async_trait]
impl Post for PublicPost {
    async fn post(&self, url: &str, headers: &[(&'static str, String)], body: Vec<u8>) -> Attempt {
        let url = match url.parse::<reqwest::Url>() {
            Ok(url) if self.plain_is_fine(&url) && !forbidden(&self.rules, &url) => url,
            _ => return Attempt::Failed("address_refused"),
        };
        let agent = concat!("meshwright/", env!("CARGO_PKG_VERSION"));
        let request = self.http.post(url).header("content-type", "application/json").header("user-agent", agent);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        match request.body(body).send().await {
            Ok(answer) => Attempt::Answered(answer.status().as_u16()),
            Err(error) if error.is_timeout() => Attempt::Failed("too_slow"),
            Err(error) if refused(&error) => Attempt::Failed("address_refused"),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a message was not sent");
                Attempt::Failed("unreachable")
            }
        }
    }
}

/// Whether it was our own resolver that said no.
fn refused(error: &dyn std::error::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if error.to_string() == FORBIDDEN {
            return true;
        }
        source = error.source();
    }
    false
}

#[async_trait]
impl Fetch for PublicFetch {
    async fn get(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        let failed = |error: &dyn std::fmt::Display| FetchError(format!("{url}: {error}"));
        let url: reqwest::Url = url.parse().map_err(|_| failed(&"it is no address"))?;
        if forbidden(&self.rules, &url) {
            return Err(failed(&FORBIDDEN));
        }
        let mut answer = self.http.get(url.clone()).send().await.map_err(|error| failed(&error))?;
        if !answer.status().is_success() {
            return Err(failed(&format!("it answered {}", answer.status())));
        }
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|error| failed(&error))? {
            body.extend(part);
            if body.len() > LARGEST {
                return Err(failed(&"it is too large"));
            }
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_public_is_never_dialled() {
        let fetch = PublicFetch::new(Dialling::default()).expect("a client");
        for url in [
            "https://127.0.0.1:1/x",
            "https://[::1]/x",
            "https://[::ffff:10.0.0.1]/x",
            "https://169.254.169.254/latest/meta-data",
            "https://localhost/x",
        ] {
            let refused = fetch.get(url).await.expect_err(url).to_string();
            assert!(refused.contains("loopback") || refused.contains("error sending"), "{refused}");
        }
        for url in ["http://example.com/", "file:///etc/passwd", "x"] {
            assert!(fetch.get(url).await.is_err(), "{url}");
        }
    }

    #[tokio::test]
    async fn no_message_goes_to_an_address_that_is_not_public_or_over_a_wire_that_is_not_ours() {
        let post = PublicPost::new(Dialling::default()).expect("a client");
        for url in [
            "https://127.0.0.1:1/x",
            "https://[::1]/x",
            "https://[::ffff:10.0.0.1]/x",
            "https://169.254.169.254/latest/meta-data",
            "https://localhost:1/x",
            "https://2130706433/x",
            "https://0x7f.1/x",
            "http://example.com/x",
            "http://127.0.0.1:1/x",
            "file:///etc/passwd",
            "gopher://127.0.0.1/",
            "x",
        ] {
            assert_eq!(post.post(url, &[], Vec::new()).await, Attempt::Failed("address_refused"), "{url}");
        }
    }
}
