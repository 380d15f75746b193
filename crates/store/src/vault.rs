//! Sealing secrets: AES-256-GCM, with what a value belongs to as associated data, so that a sealed value copied to
//! another row does not open there.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;

use crate::StoreError;

/// The key that seals secrets and peppers API keys. 32 bytes.
#[derive(Clone)]
pub struct Vault {
    key: [u8; 32],
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault(…)")
    }
}

impl Vault {
    /// A vault with this key.
    pub fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    fn cipher(&self) -> RandomizedNonceKey {
        RandomizedNonceKey::new(&AES_256_GCM, &self.key).expect("the key has the length that the cipher wants")
    }

    /// Seals a text for one place, such as `clusters.kubeconfig/cluster_01…`.
    pub fn seal(&self, place: &str, text: &[u8]) -> Vec<u8> {
        let mut sealed = text.to_vec();
        let aad = Aad::from(place.as_bytes());
        let nonce = self.cipher().seal_in_place_append_tag(aad, &mut sealed).expect("memory for a tag");
        let mut out = nonce.as_ref().to_vec();
        out.append(&mut sealed);
        out
    }

    /// Opens what was sealed for the same place.
    ///
    /// # Errors
    /// [`StoreError::Sealed`]: another key, another place, or damaged.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN).ok_or(StoreError::Sealed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| StoreError::Sealed)?;
        let mut text = text.to_vec();
        let opened = self.cipher().open_in_place(nonce, Aad::from(place.as_bytes()), &mut text);
        let length = opened.map_err(|_| StoreError::Sealed)?.len();
        text.truncate(length);
        Ok(text)
    }

    fn pepper(&self) -> hmac::Key {
        // A key of its own, so that a digest tells nothing about the sealing key.
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.key), b"meshwright api key pepper");
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
    hex(&sha256(bytes))
}

/// 32 random bytes in hexadecimal, for a sealing key.
///
/// # Panics
/// When the system has no randomness.
pub fn random_hex() -> String {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's randomness");
    hex(&bytes)
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_in_its_own_place_only() {
        let vault = Vault::new([7; 32]);
        let sealed = vault.seal("clusters/a", b"secret");
        assert_eq!(vault.open("clusters/a", &sealed).expect("its own place"), b"secret");
        assert!(vault.open("clusters/b", &sealed).is_err());
        assert!(Vault::new([8; 32]).open("clusters/a", &sealed).is_err());
        assert!(vault.open("clusters/a", b"short").is_err());
    }
}
