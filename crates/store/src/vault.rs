//! The server's own secret, and the sealing of single values: AES-256-GCM, with what a value belongs to as associated
//! data, so that a sealed value that is copied elsewhere does not open there.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use model::audit::hex;
use model::ids::TenantId;

use crate::StoreError;
use crate::envelope::Cache;
use crate::master::{Key, KeyWrapper, MasterKeys, derived};

/// What a process keeps secret: its own key, which peppers API keys and seals what belongs to no tenant, and the way to
/// the master key, which wraps the tenants' data keys. Clones share what they have opened.
#[derive(Clone)]
pub struct Vault {
    secret: Key,
    wrapper: Arc<dyn KeyWrapper>,
    cache: Cache,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vault({:?})", self.wrapper)
    }
}

impl Vault {
    /// A vault whose master key is derived from its own secret.
    pub fn new(secret: Key) -> Self {
        Self::with(secret, Arc::new(MasterKeys::new(derived(&secret), Vec::new())))
    }

    /// A vault whose master key is kept elsewhere.
    pub fn with(secret: Key, wrapper: Arc<dyn KeyWrapper>) -> Self {
        Self { secret, wrapper, cache: Cache::default() }
    }

    pub(crate) fn wrapper(&self) -> &dyn KeyWrapper {
        self.wrapper.as_ref()
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Forgets a tenant's opened keys: the next transaction looks again.
    pub(crate) fn forget(&self, tenant: TenantId) {
        self.cache.lock().expect("no holder panics").remove(&tenant);
    }

    /// Seals a secret of the operator's for one place, such as `hosting_clusters.kubeconfig/hosting_01…`.
    pub fn seal(&self, place: &str, text: &[u8]) -> Vec<u8> {
        seal(&self.secret, place, text)
    }

    /// Opens what was sealed for the same place.
    ///
    /// # Errors
    /// [`StoreError::Sealed`]: another key, another place, or damaged.
    pub(crate) fn open(&self, place: &str, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        open(&self.secret, place, sealed)
    }

    fn pepper(&self) -> hmac::Key {
        // A key of its own, so that a digest tells nothing about the sealing key.
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.secret), b"meshwright api key pepper");
        hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
    }

    /// What is stored of a secret that only its owner knows.
    pub fn digest(&self, secret: &[u8]) -> Vec<u8> {
        hmac::sign(&self.pepper(), secret).as_ref().to_vec()
    }

    /// Compares a secret with what is stored of it, in constant time.
    pub fn matches(&self, secret: &[u8], digest: &[u8]) -> bool {
        hmac::verify(&self.pepper(), secret, digest).is_ok()
    }
}

fn cipher(key: &Key) -> RandomizedNonceKey {
    RandomizedNonceKey::new(&AES_256_GCM, key).expect("the key has the length that the cipher wants")
}

/// Seals a text under a key for one place.
pub(crate) fn seal(key: &Key, place: &str, text: &[u8]) -> Vec<u8> {
    let mut sealed = text.to_vec();
    let nonce =
        cipher(key).seal_in_place_append_tag(Aad::from(place.as_bytes()), &mut sealed).expect("memory for a tag");
    let mut out = nonce.as_ref().to_vec();
    out.append(&mut sealed);
    out
}

/// Opens what was sealed under the same key for the same place.
pub(crate) fn open(key: &Key, place: &str, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
    let (nonce, text) = sealed.split_at_checked(NONCE_LEN).ok_or(StoreError::Sealed)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| StoreError::Sealed)?;
    let mut text = text.to_vec();
    let opened = cipher(key).open_in_place(nonce, Aad::from(place.as_bytes()), &mut text);
    let length = opened.map_err(|_| StoreError::Sealed)?.len();
    text.truncate(length);
    Ok(text)
}

/// A fresh key.
///
/// # Panics
/// When the system has no randomness.
pub fn fill() -> Key {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's randomness");
    bytes
}

/// HMAC with SHA-256.
pub fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

/// SHA-256.
///
/// # Panics
/// Never: a SHA-256 has 32 bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("a SHA-256 has 32 bytes")
}

/// SHA-256 in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(&sha256(bytes))
}

/// 32 random bytes in hexadecimal, for a sealing key.
///
/// # Panics
/// When the system has no randomness.
pub fn random_hex() -> String {
    hex::encode(&fill())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_in_its_own_place_only() {
        let vault = Vault::new([7; 32]);
        let sealed = vault.seal("hosting/a", b"secret");
        assert_eq!(vault.open("hosting/a", &sealed).expect("its own place"), b"secret");
        assert!(vault.open("hosting/b", &sealed).is_err());
        assert!(Vault::new([8; 32]).open("hosting/a", &sealed).is_err());
        assert!(vault.open("hosting/a", b"short").is_err());
    }

    #[test]
    fn a_digest_matches_its_own_secret_under_its_own_pepper() {
        let (vault, other) = (Vault::new([7; 32]), Vault::new([8; 32]));
        let digest = vault.digest(b"a secret");
        assert_eq!(digest.len(), 32);
        assert!(vault.matches(b"a secret", &digest));
        assert!(!vault.matches(b"another", &digest) && !vault.matches(b"a secret", b""));
        assert!(!other.matches(b"a secret", &digest));
        assert_ne!(other.digest(b"a secret"), digest);
    }

    /// RFC 4231, test case 2.
    #[test]
    fn messages_are_signed_as_everybody_else_does() {
        let signed = hmac_sha256(b"Jefe", b"what do ya want for nothing?");
        let known = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(model::audit::hex::decode(known).expect("a digest").as_slice(), signed);
    }

    #[test]
    fn fresh_keys_differ() {
        assert!(fill() != fill() && random_hex() != random_hex());
    }

    #[test]
    fn a_vault_shows_what_wraps_and_no_key() {
        assert_eq!(format!("{:?}", Vault::new([7; 32])), "Vault(MasterKeys(1))");
    }
}
