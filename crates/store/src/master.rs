//! What wraps data keys: master keys from a file, or whatever else keeps one.

use async_trait::async_trait;
use aws_lc_rs::hmac;
use model::audit::hex;

use crate::vault::{open, seal, sha256};

/// A data key, or a master key.
pub type SymmetricKey = [u8; 32];

/// Why a data key could not be wrapped or unwrapped.
#[derive(Debug, thiserror::Error)]
pub enum WrapError {
    /// Try again: the key service does not answer.
    #[error("the key service does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It answered that it will not: another key, another context, or no permission.
    #[error("the key service refused")]
    Refused,
}

/// What keeps the master key: a file, or a service that never gives it away.
#[async_trait]
pub trait KeyWrapper: Send + Sync + std::fmt::Debug {
    /// What is stored beside a wrapped key, so that one sees what still has to be wrapped anew.
    fn name(&self) -> String;

    /// Wraps a data key for a context.
    async fn wrap_key(&self, key: &SymmetricKey, context: &str) -> Result<Vec<u8>, WrapError>;

    /// Unwraps what was wrapped for the same context.
    async fn unwrap_key(&self, wrapped: &[u8], context: &str) -> Result<SymmetricKey, WrapError>;
}

/// Master keys from a file. The first one wraps; all of them unwrap, so that a new one can be put in front.
#[derive(Clone)]
pub struct MasterKeys(Vec<SymmetricKey>);

impl std::fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MasterKeys({})", self.0.len())
    }
}

impl MasterKeys {
    /// The first key wraps.
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
        let opened = self.0.iter().find_map(|master| open(master, context, wrapped).ok());
        opened.and_then(|key| key.try_into().ok()).ok_or(WrapError::Refused)
    }
}

/// A master key for those who have none of their own: derived, so that it says nothing about what it comes from.
pub(crate) fn derive_master_key(secret: &SymmetricKey) -> SymmetricKey {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"meshwright master key");
    tag.as_ref().try_into().expect("an HMAC-SHA256 has 32 bytes")
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
        assert_eq!(format!("{:?}", MasterKeys::new([7; 32], vec![[8; 32]])), "MasterKeys(2)");
    }
}
