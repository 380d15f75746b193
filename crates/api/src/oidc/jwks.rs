//! Fetches the keys of issuers by `OpenID` Connect discovery, and caches them for a short time.
//!
//! A key that an issuer no longer lists is refused within a minute. If an issuer does not answer,
//! its cached keys stay valid for a day. An issuer is asked at most once in ten seconds, however
//! many unknown key ids clients send.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{JwkSet, PublicKeyUse};
use serde::Deserialize;

/// Age at which cached keys are fetched again before they are used.
const REFRESH_INTERVAL: SignedDuration = SignedDuration::from_secs(30);
/// Minimum time between two fetches from one issuer, also for an unknown key.
const MIN_FETCH_INTERVAL: SignedDuration = SignedDuration::from_secs(10);
/// Age at which cached keys are no longer used, if their issuer has not answered since.
const MAX_KEY_AGE: SignedDuration = SignedDuration::from_hours(24);
/// Maximum number of keys of one issuer that are cached.
const MAX_KEYS_PER_ISSUER: usize = 64;

/// Fetches a document of an identity provider.
#[async_trait]
pub trait Fetch: Send + Sync + std::fmt::Debug {
    /// Returns the body of a successful answer, with a limit on its size and on the time. Addresses
    /// that are not public are refused, and redirects are not followed, because a tenant chose the
    /// address.
    ///
    /// # Errors
    /// Returns an error if the document could not be fetched.
    async fn get(&self, url: &str) -> Result<Vec<u8>, FetchError>;
}

/// Cause why a document could not be fetched.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(pub String);

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Default)]
struct CachedKeys {
    keys: HashMap<String, DecodingKey>,
    fetched_at: Option<Timestamp>,
    attempted_at: Option<Timestamp>,
}

/// Cache of the keys of all issuers that were asked for.
pub struct IssuerKeys {
    fetch: Arc<dyn Fetch>,
    /// Cached keys by issuer, with a lock for each issuer, so that one of several requests at once
    /// fetches the keys and the others wait for it.
    issuers: Mutex<HashMap<String, Arc<tokio::sync::Mutex<CachedKeys>>>>,
}

impl std::fmt::Debug for IssuerKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuerKeys").finish_non_exhaustive()
    }
}

impl IssuerKeys {
    /// Creates an empty cache. The keys of an issuer are fetched when the first token of it
    /// arrives.
    pub fn new(fetch: Arc<dyn Fetch>) -> Self {
        Self {
            fetch,
            issuers: Mutex::default(),
        }
    }

    /// Returns a key of an issuer that a tenant trusts. Fetches the keys of the issuer if they are
    /// too old, or if this key is not among them.
    pub(crate) async fn find_key(
        &self,
        issuer: &str,
        name: &str,
        now: Timestamp,
    ) -> Option<DecodingKey> {
        let known = self
            .issuers
            .lock()
            .expect("no holder panics")
            .entry(issuer.to_owned())
            .or_default()
            .clone();
        let mut known = known.lock().await;
        let age = |time: Option<Timestamp>| {
            time.map_or(SignedDuration::MAX, |time| now.duration_since(time))
        };
        let wanted = age(known.fetched_at) >= REFRESH_INTERVAL || !known.keys.contains_key(name);
        if wanted && age(known.attempted_at) >= MIN_FETCH_INTERVAL {
            known.attempted_at = Some(now);
            match self.fetch_keys(issuer).await {
                Ok(keys) => (known.keys, known.fetched_at) = (keys, Some(now)),
                Err(error) => {
                    tracing::warn!(issuer, %error, "could not fetch the keys of an identity provider");
                }
            }
        }
        if age(known.fetched_at) >= MAX_KEY_AGE {
            return None;
        }
        known.keys.get(name).cloned()
    }

    /// Fetches the discovery document of an issuer and the keys that it refers to.
    async fn fetch_keys(&self, issuer: &str) -> Result<HashMap<String, DecodingKey>, FetchError> {
        let unreadable =
            |error: serde_json::Error| FetchError(format!("it cannot be read: {error}"));
        let url = format!(
            "{}/.well-known/openid-configuration",
            issuer.trim_end_matches('/')
        );
        let discovery: Discovery =
            serde_json::from_slice(&self.fetch.get(&url).await?).map_err(unreadable)?;
        if discovery.issuer != issuer {
            return Err(FetchError(format!(
                "its discovery document is that of {}",
                discovery.issuer
            )));
        }
        let set: JwkSet = serde_json::from_slice(&self.fetch.get(&discovery.jwks_uri).await?)
            .map_err(unreadable)?;
        let signs = |usage: &Option<PublicKeyUse>| {
            usage
                .as_ref()
                .is_none_or(|usage| *usage == PublicKeyUse::Signature)
        };
        let keys = set
            .keys
            .iter()
            .filter(|key| signs(&key.common.public_key_use))
            .filter_map(|key| {
                let name = key.common.key_id.clone()?;
                // Leave symmetric keys out: a shared secret in a public document proves nothing.
                let shared = matches!(
                    key.algorithm,
                    jsonwebtoken::jwk::AlgorithmParameters::OctetKey(_)
                );
                Some((name, DecodingKey::from_jwk(key).ok().filter(|_| !shared)?))
            });
        Ok(keys.take(MAX_KEYS_PER_ISSUER).collect())
    }
}
