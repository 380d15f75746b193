//! Documents of identity providers, whose addresses tenants choose: https only, public addresses only, no redirects, and
//! little patience.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::{Fetch, FetchError};
use async_trait::async_trait;
use cluster::Dialling;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// One document, from the first byte to the last.
const PATIENCE: Duration = Duration::from_secs(2);
/// The largest document: a key set has a few kilobytes.
const LARGEST: usize = 256 * 1024;

/// A client that dials what the operator allows.
#[derive(Debug)]
pub(crate) struct PublicFetch {
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
                return Err("its address is loopback, private or link-local".into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

impl PublicFetch {
    pub(crate) fn new(rules: Dialling) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(Checked(rules.clone())));
        Ok(Self { http: client.build()?, rules })
    }
}

#[async_trait]
impl Fetch for PublicFetch {
    async fn get(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        let failed = |error: &dyn std::fmt::Display| FetchError(format!("{url}: {error}"));
        let url: reqwest::Url = url.parse().map_err(|_| failed(&"it is no address"))?;
        // An address that is written as one is never resolved.
        let literal = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse().ok());
        if literal.is_some_and(|address| !self.rules.allows(address)) {
            return Err(failed(&"its address is loopback, private or link-local"));
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
}
