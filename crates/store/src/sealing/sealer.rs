//! Holds the secrets of a process, and seals values that belong to no tenant. The associated data
//! names the owner of a value, so a sealed value that is copied elsewhere does not open there.

use std::sync::Arc;

use aws_lc_rs::hmac;
use meshwright_model::ids::TenantId;

use crate::StoreError;
use crate::sealing::aead::{SymmetricKey, open, seal};
use crate::sealing::data_keys::KeyCache;
use crate::sealing::master_key::{KeyWrapper, MasterKeys, derive_master_key};

/// The secrets of a process. These are its own key, which peppers API keys and seals values that
/// belong to no tenant, and the access to the master key, which wraps the tenants' data keys.
/// Clones share the cache of unwrapped keys.
#[derive(Clone)]
pub struct Sealer {
    secret: SymmetricKey,
    wrapper: Arc<dyn KeyWrapper>,
    cache: KeyCache,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({:?})", self.wrapper)
    }
}

impl Sealer {
    /// Creates a sealer whose master key is derived from its own secret.
    pub fn new(secret: SymmetricKey) -> Self {
        Self::with_key_wrapper(
            secret,
            Arc::new(MasterKeys::new(derive_master_key(&secret), Vec::new())),
        )
    }

    /// Creates a sealer with a given wrapper, which holds the master key.
    pub fn with_key_wrapper(secret: SymmetricKey, wrapper: Arc<dyn KeyWrapper>) -> Self {
        Self {
            secret,
            wrapper,
            cache: KeyCache::default(),
        }
    }

    pub(crate) fn key_wrapper(&self) -> &dyn KeyWrapper {
        self.wrapper.as_ref()
    }

    pub(crate) fn key_cache(&self) -> &KeyCache {
        &self.cache
    }

    /// Removes a tenant's unwrapped keys from the cache, so that the next transaction reads them
    /// again.
    pub(crate) fn evict_tenant_keys(&self, tenant: TenantId) {
        self.cache.lock().expect("no holder panics").remove(&tenant);
    }

    /// Seals a secret of the operator for one column and row, such as
    /// `hosting_clusters.kubeconfig/hosting_01…`.
    pub fn seal(&self, associated_data: &str, text: &[u8]) -> Vec<u8> {
        seal(&self.secret, associated_data, text)
    }

    /// Opens a value that was sealed with the same associated data.
    ///
    /// # Errors
    /// Returns [`StoreError::UnsealFailed`] when the value is damaged or was sealed with another
    /// key or for another column or row.
    pub(crate) fn open(&self, associated_data: &str, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        open(&self.secret, associated_data, sealed)
    }

    fn pepper_key(&self) -> hmac::Key {
        // The pepper is a key of its own, so that a digest reveals nothing about the sealing key.
        let derived = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, &self.secret),
            b"meshwright api key pepper",
        );
        hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
    }

    /// Computes the digest that is stored instead of a secret that only its owner knows.
    pub fn digest_secret(&self, secret: &[u8]) -> Vec<u8> {
        hmac::sign(&self.pepper_key(), secret).as_ref().to_vec()
    }

    /// Compares a secret with its stored digest, in constant time.
    pub fn verify_secret(&self, secret: &[u8], digest: &[u8]) -> bool {
        hmac::verify(&self.pepper_key(), secret, digest).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_in_its_own_place_only() {
        let sealer = Sealer::new([7; 32]);
        let hosted = sealer.seal("hosting/a", b"secret");
        assert_eq!(
            sealer.open("hosting/a", &hosted).expect("its own place"),
            b"secret"
        );
        assert!(sealer.open("hosting/b", &hosted).is_err());
        assert!(Sealer::new([8; 32]).open("hosting/a", &hosted).is_err());
        assert!(sealer.open("hosting/a", b"short").is_err());
    }

    #[test]
    fn a_digest_matches_its_own_secret_under_its_own_pepper() {
        let (sealer, other) = (Sealer::new([7; 32]), Sealer::new([8; 32]));
        let digest = sealer.digest_secret(b"a secret");
        assert_eq!(digest.len(), 32);
        assert!(sealer.verify_secret(b"a secret", &digest));
        assert!(
            !sealer.verify_secret(b"another", &digest) && !sealer.verify_secret(b"a secret", b"")
        );
        assert!(!other.verify_secret(b"a secret", &digest));
        assert_ne!(other.digest_secret(b"a secret"), digest);
    }

    #[test]
    fn debug_output_of_the_sealer_hides_keys() {
        assert_eq!(
            format!("{:?}", Sealer::new([7; 32])),
            "Sealer(MasterKeys(1))"
        );
    }
}
