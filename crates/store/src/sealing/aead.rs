//! Seals single texts with AES-256-GCM, and computes digests and random keys. The rest of the
//! sealing stands on these functions.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use meshwright_model::audit::hex;

use crate::StoreError;

/// A tenant key or a master key: 256 bits.
pub type SymmetricKey = [u8; 32];

fn aead_key(key: &SymmetricKey) -> RandomizedNonceKey {
    RandomizedNonceKey::new(&AES_256_GCM, key)
        .expect("the key has the length that the cipher wants")
}

/// Seals a text with a key, bound to its associated data.
pub(crate) fn seal(key: &SymmetricKey, associated_data: &str, text: &[u8]) -> Vec<u8> {
    let mut sealed = text.to_vec();
    let nonce = aead_key(key)
        .seal_in_place_append_tag(Aad::from(associated_data.as_bytes()), &mut sealed)
        .expect("memory for a tag");
    let mut out = nonce.as_ref().to_vec();
    out.append(&mut sealed);
    out
}

/// Opens a text that was sealed with the same key and the same associated data.
pub(crate) fn open(
    key: &SymmetricKey,
    associated_data: &str,
    sealed: &[u8],
) -> Result<Vec<u8>, StoreError> {
    let (nonce, text) = sealed
        .split_at_checked(NONCE_LEN)
        .ok_or(StoreError::UnsealFailed)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| StoreError::UnsealFailed)?;
    let mut text = text.to_vec();
    let opened =
        aead_key(key).open_in_place(nonce, Aad::from(associated_data.as_bytes()), &mut text);
    let length = opened.map_err(|_| StoreError::UnsealFailed)?.len();
    text.truncate(length);
    Ok(text)
}

/// Generates a random key of 256 bits.
///
/// # Panics
/// Panics when the system has no randomness.
pub fn random_key() -> SymmetricKey {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's randomness");
    bytes
}

/// Generates 32 random bytes in hexadecimal, for a sealing key or a secret.
///
/// # Panics
/// Panics when the system has no randomness.
pub fn random_hex() -> String {
    hex::encode(&random_key())
}

/// Computes the HMAC-SHA256 of a text.
pub fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
        .as_ref()
        .to_vec()
}

/// Computes the SHA-256 digest of bytes.
///
/// # Panics
/// Never panics, because a SHA-256 digest has 32 bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("a SHA-256 has 32 bytes")
}

/// Computes the SHA-256 digest of bytes, in hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(&sha256(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected value is from RFC 4231, test case 2.
    #[test]
    fn hmac_sha256_matches_rfc_4231() {
        let signed = hmac_sha256(b"Jefe", b"what do ya want for nothing?");
        let known = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(
            meshwright_model::audit::hex::decode(known)
                .expect("a digest")
                .as_slice(),
            signed
        );
    }

    #[test]
    fn fresh_keys_differ() {
        assert!(random_key() != random_key() && random_hex() != random_hex());
    }
}
