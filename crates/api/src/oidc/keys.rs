//! Keys of issuers, fetched by discovery and kept for a short while.
//!
//! A key that an issuer no longer lists is dead within a minute; an issuer that does not answer keeps the keys that it had;
//! and nobody can make this service ask an issuer more often than every few seconds by inventing key names.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{JwkSet, PublicKeyUse};
use serde::Deserialize;

/// Older than this, keys are fetched again before they are used.
const REFRESH_INTERVAL: SignedDuration = SignedDuration::from_secs(30);
/// An unknown key does not make us ask again sooner than this after the last time.
const MIN_FETCH_INTERVAL: SignedDuration = SignedDuration::from_secs(10);
/// How long an issuer may be out of reach before its keys are no longer believed.
const MAX_KEY_AGE: SignedDuration = SignedDuration::from_hours(24);
/// The most keys of an issuer that are kept.
const MAX_KEYS_PER_ISSUER: usize = 64;

/// Reads a document of an identity provider.
#[async_trait]
pub trait Fetch: Send + Sync + std::fmt::Debug {
    /// The body of a successful answer, of a limited size and in a limited time. Addresses that are not public are
    /// refused, and redirects are not followed: the address is a tenant's.
    ///
    /// # Errors
    /// It could not be had.
    async fn get(&self, url: &str) -> Result<Vec<u8>, FetchError>;
}

/// A document could not be had.
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

/// The keys of every issuer that was asked for.
pub struct IssuerKeys {
    fetch: Arc<dyn Fetch>,
    /// One lock for each issuer: of many requests at once, one asks.
    issuers: Mutex<HashMap<String, Arc<tokio::sync::Mutex<CachedKeys>>>>,
}

impl std::fmt::Debug for IssuerKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuerKeys").finish_non_exhaustive()
    }
}

impl IssuerKeys {
    /// Nothing is fetched before somebody comes.
    pub fn new(fetch: Arc<dyn Fetch>) -> Self {
        Self { fetch, issuers: Mutex::default() }
    }

    /// A key of an issuer that some tenant trusts.
    pub(crate) async fn find_key(&self, issuer: &str, name: &str, now: Timestamp) -> Option<DecodingKey> {
        let known = self.issuers.lock().expect("no holder panics").entry(issuer.to_owned()).or_default().clone();
        let mut known = known.lock().await;
        let age = |time: Option<Timestamp>| time.map_or(SignedDuration::MAX, |time| now.duration_since(time));
        let wanted = age(known.fetched_at) >= REFRESH_INTERVAL || !known.keys.contains_key(name);
        if wanted && age(known.attempted_at) >= MIN_FETCH_INTERVAL {
            known.attempted_at = Some(now);
            match self.fetch_keys(issuer).await {
                Ok(keys) => (known.keys, known.fetched_at) = (keys, Some(now)),
                Err(error) => tracing::warn!(issuer, %error, "an issuer's keys could not be fetched"),
            }
        }
        if age(known.fetched_at) >= MAX_KEY_AGE {
            return None;
        }
        known.keys.get(name).cloned()
    }

    async fn fetch_keys(&self, issuer: &str) -> Result<HashMap<String, DecodingKey>, FetchError> {
        let unreadable = |error: serde_json::Error| FetchError(format!("it cannot be read: {error}"));
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let discovery: Discovery = serde_json::from_slice(&self.fetch.get(&url).await?).map_err(unreadable)?;
        if discovery.issuer != issuer {
            return Err(FetchError(format!("its discovery document is that of {}", discovery.issuer)));
        }
        let set: JwkSet = serde_json::from_slice(&self.fetch.get(&discovery.jwks_uri).await?).map_err(unreadable)?;
        let signs = |usage: &Option<PublicKeyUse>| usage.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
        let keys = set.keys.iter().filter(|key| signs(&key.common.public_key_use)).filter_map(|key| {
            let name = key.common.key_id.clone()?;
            // A shared secret in a public document proves nothing.
            let shared = matches!(key.algorithm, jsonwebtoken::jwk::AlgorithmParameters::OctetKey(_));
            Some((name, DecodingKey::from_jwk(key).ok().filter(|_| !shared)?))
        });
        Ok(keys.take(MAX_KEYS_PER_ISSUER).collect())
    }
}
