//! Wraps tenant keys, with master keys from a file or with a key service.

use async_trait::async_trait;
use aws_lc_rs::hmac;
use meshwright_model::audit::hex;

use crate::sealing::aead::{SymmetricKey, open, seal, sha256};

/// Reason why a tenant key could not be wrapped or unwrapped.
#[derive(Debug, thiserror::Error)]
pub enum WrapError {
    /// Try again: the key service does not answer.
    #[error("the key service does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The key service refused: the key or the context is another one, or the permission is
    /// missing.
    #[error("the key service refused")]
    Refused,
}

/// The holder of the master key: a file, or a key service that never gives the key out.
#[async_trait]
pub trait KeyWrapper: Send + Sync + std::fmt::Debug {
    /// Returns the name that is stored with each wrapped key. It shows which keys still have to be
    /// wrapped again.
    fn name(&self) -> String;

    /// Wraps a tenant key and binds it to a context.
    async fn wrap_key(&self, key: &SymmetricKey, context: &str) -> Result<Vec<u8>, WrapError>;

    /// Unwraps a tenant key that was wrapped for the same context.
    async fn unwrap_key(&self, wrapped: &[u8], context: &str) -> Result<SymmetricKey, WrapError>;
}

/// Master keys from a file. The first key wraps and all of them unwrap, so that a new key can be
/// put in front.
#[derive(Clone)]
pub struct MasterKeys(Vec<SymmetricKey>);

impl std::fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MasterKeys({})", self.0.len())
    }
}

impl MasterKeys {
    /// Creates the set: `first` wraps, and `former` keys only unwrap.
    pub fn new(first: SymmetricKey, former: Vec<SymmetricKey>) -> Self {
        Self(std::iter::once(first).chain(former).collect())
    }
}

#[async_trait]
impl KeyWrapper for MasterKeys {
    fn name(&self) -> String {
        format!("file:{}", &hex::encode(&sha256(&self.0[0]))[..16])
    }

    async fn wrap_key(&self, key: &SymmetricKey, context: &str) -> Result<Vec<u8>, WrapError> {
        Ok(seal(&self.0[0], context, key))
    }

    async fn unwrap_key(&self, wrapped: &[u8], context: &str) -> Result<SymmetricKey, WrapError> {
        let opened = self
            .0
            .iter()
            .find_map(|master| open(master, context, wrapped).ok());
        opened
            .and_then(|key| key.try_into().ok())
            .ok_or(WrapError::Refused)
    }
}

/// Derives a master key for servers without a master key of their own. The derived key reveals
/// nothing about the secret.
pub(crate) fn derive_master_key(secret: &SymmetricKey) -> SymmetricKey {
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, secret),
        b"meshwright master key",
    );
    tag.as_ref()
        .try_into()
        .expect("an HMAC-SHA256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_key_depends_on_its_secret_and_is_not_the_secret() {
        let (one, two) = (derive_master_key(&[1; 32]), derive_master_key(&[2; 32]));
        assert_ne!(one, two);
        assert!(![[0; 32], [1; 32]].contains(&one));
    }

    #[test]
    fn a_wrapped_key_says_which_master_key_wrapped_it_and_not_what_that_is() {
        let name = |first: u8, former: &[u8]| {
            MasterKeys::new([first; 32], former.iter().map(|key| [*key; 32]).collect()).name()
        };
        assert_eq!(name(7, &[]), name(7, &[8]), "only the first one wraps");
        assert_ne!(name(7, &[8]), name(8, &[7]));
        assert!(name(7, &[]).starts_with("file:") && !name(7, &[]).contains("0707"));
    }

    #[test]
    fn master_keys_are_not_shown() {
        assert_eq!(
            format!("{:?}", MasterKeys::new([7; 32], vec![[8; 32]])),
            "MasterKeys(2)"
        );
    }
}
