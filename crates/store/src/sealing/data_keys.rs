//! Holds the unwrapped data keys of tenants, and seals and opens values with them. A process caches
//! unwrapped keys for a short time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use meshwright_model::ids::TenantId;

use crate::StoreError;
use crate::sealing::aead::{SymmetricKey, open, seal};

/// Time that unwrapped data keys are cached: 1 minute. Every process notices the erasure or
/// rotation of a tenant's keys within this time.
const KEY_CACHE_TTL: Duration = Duration::from_mins(1);
/// Format version of sealed values; there is only one.
const FORMAT_VERSION: u8 = 1;
const HEADER_LEN: usize = 1 + 4;

/// The unwrapped data keys of a tenant, by version.
#[derive(Default)]
pub(crate) struct TenantKeys(pub(crate) BTreeMap<i32, SymmetricKey>);

impl std::fmt::Debug for TenantKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TenantKeys({:?})", self.0.keys())
    }
}

impl TenantKeys {
    pub(crate) fn seal(
        &self,
        tenant: TenantId,
        associated_data: &str,
        text: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let (version, key) = self.0.last_key_value().ok_or(StoreError::KeysErased)?;
        let mut out = vec![FORMAT_VERSION];
        out.extend(version.to_be_bytes());
        out.append(&mut seal(
            key,
            &format!("{tenant}/{associated_data}/{version}"),
            text,
        ));
        Ok(out)
    }

    pub(crate) fn open(
        &self,
        tenant: TenantId,
        associated_data: &str,
        sealed: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let version = sealed_key_version(sealed)?;
        let key = self.0.get(&version).ok_or(StoreError::UnsealFailed)?;
        open(
            key,
            &format!("{tenant}/{associated_data}/{version}"),
            &sealed[HEADER_LEN..],
        )
    }

    pub(crate) fn has_version(&self, version: i32) -> bool {
        self.0.contains_key(&version)
    }
}

/// Reads from a sealed value which version of its tenant's key it was sealed with.
pub(crate) fn sealed_key_version(sealed: &[u8]) -> Result<i32, StoreError> {
    match sealed.split_first_chunk::<HEADER_LEN>() {
        Some(([FORMAT_VERSION, version @ ..], _)) => Ok(i32::from_be_bytes(*version)),
        _ => Err(StoreError::UnsealFailed),
    }
}

/// A tenant's unwrapped keys, with the time until which the cache may serve them.
#[derive(Debug, Clone)]
pub(crate) struct CachedTenantKeys {
    fresh_until: Instant,
    pub(crate) keys: Arc<TenantKeys>,
}

impl CachedTenantKeys {
    pub(crate) fn cached_at(now: Instant, keys: Arc<TenantKeys>) -> Self {
        Self {
            fresh_until: now + KEY_CACHE_TTL,
            keys,
        }
    }

    pub(crate) fn is_fresh_at(&self, now: Instant) -> bool {
        now < self.fresh_until
    }
}

/// Unwrapped data keys by tenant, shared by all clones of a sealer.
pub(crate) type KeyCache = Arc<Mutex<HashMap<TenantId, CachedTenantKeys>>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opened_keys_are_looked_up_again_after_a_minute() {
        let now = Instant::now();
        let opened = CachedTenantKeys::cached_at(now, Arc::default());
        assert!(
            opened.is_fresh_at(now)
                && opened.is_fresh_at(now + KEY_CACHE_TTL.saturating_sub(Duration::from_nanos(1)))
        );
        assert!(!opened.is_fresh_at(now + KEY_CACHE_TTL));
        assert_eq!(
            KEY_CACHE_TTL,
            Duration::from_mins(1),
            "the promise that an erased tenant is noticed within"
        );
    }

    #[test]
    fn keys_are_not_shown() {
        let keys = TenantKeys([(3, [0xab; 32])].into());
        assert_eq!(format!("{keys:?}"), "TenantKeys([3])");
    }
}
