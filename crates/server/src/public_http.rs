//! Sends requests to the addresses that tenants choose, of identity providers and webhooks. Only
//! https and public addresses are allowed, except for networks that the operator lists. Redirects
//! are not followed, and the timeouts are short.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use meshwright_api::{Fetch, FetchError};
use meshwright_kubernetes::AddressPolicy;
use meshwright_model::webhook::DeliveryError;
use meshwright_store::DeliveryAttempt;
use meshwright_worker::WebhookSender;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Maximum time to fetch one document, until its last byte.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// Message of the error for an address that the policy refuses.
const FORBIDDEN_ADDRESS_MESSAGE: &str = "its address is loopback, private or link-local";
/// Maximum size of a document in bytes. A key set has a few kilobytes.
const MAX_DOCUMENT_BYTES: usize = 256 * 1024;

/// Maximum time to send one webhook message, until the status of the answer.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// Fetches documents from the addresses that the policy of the operator allows.
#[derive(Debug)]
pub(crate) struct PublicFetcher {
    http: reqwest::Client,
    policy: AddressPolicy,
}

/// Sends webhook messages to the addresses that the policy of the operator allows.
#[derive(Debug)]
pub(crate) struct PublicWebhookSender {
    http: reqwest::Client,
    policy: AddressPolicy,
}

/// Resolves host names to the addresses that the policy allows, and to no others. The client
/// connects to these addresses, so a second answer of a name server cannot lead it elsewhere.
#[derive(Debug, Clone)]
struct PolicyResolver(AddressPolicy);

impl Resolve for PolicyResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found
                .filter(|address| rules.allows_address(address.ip()))
                .collect();
            if allowed.is_empty() {
                return Err(FORBIDDEN_ADDRESS_MESSAGE.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

impl PublicFetcher {
    pub(crate) fn new(rules: AddressPolicy) -> Result<Self, reqwest::Error> {
        Ok(Self {
            http: http_client_builder(&rules, FETCH_TIMEOUT)
                .https_only(true)
                .build()?,
            policy: rules,
        })
    }
}

fn http_client_builder(rules: &AddressPolicy, timeout: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .timeout(timeout)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .dns_resolver(Arc::new(PolicyResolver(rules.clone())))
}

/// Returns true for a URL whose host is an IP address that the policy refuses. Such a host is never
/// resolved, so the resolver cannot check it.
fn is_forbidden_literal(rules: &AddressPolicy, url: &reqwest::Url) -> bool {
    let literal = url
        .host_str()
        .and_then(|host| host.trim_matches(['[', ']']).parse().ok());
    literal.is_some_and(|address| !rules.allows_address(address))
}

impl PublicWebhookSender {
    pub(crate) fn new(rules: AddressPolicy) -> Result<Self, reqwest::Error> {
        Ok(Self {
            http: http_client_builder(&rules, WEBHOOK_TIMEOUT)
                .pool_max_idle_per_host(1)
                .build()?,
            policy: rules,
        })
    }

    /// Returns true for https, and for plain http to an IP address in a network that the operator
    /// lists: messages to it stay in a network that the operator controls.
    fn allows_plain_http(&self, url: &reqwest::Url) -> bool {
        let literal: Option<IpAddr> = url
            .host_str()
            .and_then(|host| host.trim_matches(['[', ']']).parse().ok());
        url.scheme() == "https"
            || literal.is_some_and(|address| self.policy.is_allowed_by_operator(address))
    }
}

#[async_trait]
impl WebhookSender for PublicWebhookSender {
    async fn send_message(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: Vec<u8>,
    ) -> DeliveryAttempt {
        let url = match url.parse::<reqwest::Url>() {
            Ok(url)
                if self.allows_plain_http(&url) && !is_forbidden_literal(&self.policy, &url) =>
            {
                url
            }
            _ => return DeliveryAttempt::Failed(DeliveryError::AddressRefused),
        };
        let agent = concat!("meshwright/", env!("CARGO_PKG_VERSION"));
        let request = self
            .http
            .post(url)
            .header("content-type", "application/json")
            .header("user-agent", agent);
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, value)
        });
        match request.body(body).send().await {
            Ok(answer) => DeliveryAttempt::Answered(answer.status().as_u16()),
            Err(error) if error.is_timeout() => DeliveryAttempt::Failed(DeliveryError::TooSlow),
            Err(error) if is_resolver_refusal(&error) => {
                DeliveryAttempt::Failed(DeliveryError::AddressRefused)
            }
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "a webhook message could not be sent"
                );
                DeliveryAttempt::Failed(DeliveryError::Unreachable)
            }
        }
    }
}

/// Returns true if the error comes from our own resolver, which refused the address.
fn is_resolver_refusal(error: &dyn std::error::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if error.to_string() == FORBIDDEN_ADDRESS_MESSAGE {
            return true;
        }
        source = error.source();
    }
    false
}

#[async_trait]
impl Fetch for PublicFetcher {
    async fn get(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        let failed = |error: &dyn std::fmt::Display| FetchError(format!("{url}: {error}"));
        let url: reqwest::Url = url.parse().map_err(|_| failed(&"it is no address"))?;
        if is_forbidden_literal(&self.policy, &url) {
            return Err(failed(&FORBIDDEN_ADDRESS_MESSAGE));
        }
        let mut answer = self
            .http
            .get(url.clone())
            .send()
            .await
            .map_err(|error| failed(&error))?;
        if !answer.status().is_success() {
            return Err(failed(&format!("it answered {}", answer.status())));
        }
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|error| failed(&error))? {
            body.extend(part);
            if body.len() > MAX_DOCUMENT_BYTES {
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
    async fn fetch_refuses_addresses_that_are_not_public() {
        let fetch = PublicFetcher::new(AddressPolicy::default()).expect("a client");
        for url in [
            "https://127.0.0.1:1/x",
            "https://[::1]/x",
            "https://[::ffff:10.0.0.1]/x",
            "https://169.254.169.254/latest/meta-data",
            "https://localhost/x",
        ] {
            let refused = fetch.get(url).await.expect_err(url).to_string();
            assert!(
                refused.contains("loopback") || refused.contains("error sending"),
                "{refused}"
            );
        }
        for url in ["http://example.com/", "file:///etc/passwd", "x"] {
            assert!(fetch.get(url).await.is_err(), "{url}");
        }
    }

    #[tokio::test]
    async fn webhook_sender_refuses_private_addresses_and_plain_http() {
        let post = PublicWebhookSender::new(AddressPolicy::default()).expect("a client");
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
            assert_eq!(
                post.send_message(url, &[], Vec::new()).await,
                DeliveryAttempt::Failed(DeliveryError::AddressRefused),
                "{url}"
            );
        }
    }
}
