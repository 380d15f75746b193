//! Defines the text form of an API key.

use meshwright_model::ids::{KeyId, TenantId};

use crate::Sealer;
use crate::sealing::aead::{random_hex, sha256_hex};

/// The text form of an API key: `mwk_<tenant>_<key>_<secret><checksum>`. The checksum lets secret
/// scanners tell a real key from random text without asking the service.
#[derive(Clone)]
pub struct ApiKeyToken {
    /// Tenant that the key belongs to.
    pub tenant: TenantId,
    /// Identifier of the API key.
    pub key: KeyId,
    secret: String,
}

impl std::fmt::Debug for ApiKeyToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKeyToken({})", self.key)
    }
}

/// Number of hexadecimal digits of a secret: 64, which are 256 bits.
const SECRET_HEX_LEN: usize = 64;
/// Number of hexadecimal digits of the checksum.
const CHECKSUM_HEX_LEN: usize = 8;

fn checksum(text: &str) -> String {
    sha256_hex(text.as_bytes())[..CHECKSUM_HEX_LEN].to_owned()
}

impl ApiKeyToken {
    /// Creates a token with a random secret.
    ///
    /// # Panics
    /// Panics when the system has no randomness.
    pub fn generate(tenant: TenantId, key: KeyId) -> Self {
        Self {
            tenant,
            key,
            secret: random_hex(),
        }
    }

    fn without_checksum(&self) -> String {
        let bare = |id: String| {
            id.split_once('_')
                .map(|(_, digits)| digits.to_owned())
                .unwrap_or_default()
        };
        format!(
            "mwk_{}_{}_{}",
            bare(self.tenant.to_string()),
            bare(self.key.to_string()),
            self.secret
        )
    }

    /// Returns the text that the owner of the key keeps. It is a secret.
    pub fn reveal(&self) -> String {
        let body = self.without_checksum();
        format!("{body}{}", checksum(&body))
    }

    /// Parses an API key; returns `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("mwk_")?.split('_');
        let (tenant, key, rest) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some()
            || rest.len() != SECRET_HEX_LEN + CHECKSUM_HEX_LEN
            || !rest.is_ascii()
        {
            return None;
        }
        let (secret, sum) = rest.split_at(SECRET_HEX_LEN);
        let tenant = format!("{}_{tenant}", TenantId::PREFIX).parse().ok()?;
        let key = format!("{}_{key}", KeyId::PREFIX).parse().ok()?;
        let read = Self {
            tenant,
            key,
            secret: secret.to_owned(),
        };
        (checksum(&read.without_checksum()) == sum).then_some(read)
    }

    /// Computes the digest that is stored instead of the secret.
    pub fn secret_digest(&self, sealer: &Sealer) -> Vec<u8> {
        sealer.digest_secret(self.secret.as_bytes())
    }

    /// Returns true when a stored digest was computed from this token's secret.
    pub fn matches_digest(&self, sealer: &Sealer, digest: &[u8]) -> bool {
        sealer.verify_secret(self.secret.as_bytes(), digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_a_damaged_one_does_not() {
        let id = uuid::Uuid::from_u128;
        let key = ApiKeyToken::generate(TenantId(id(1)), KeyId(id(2)));
        let text = key.reveal();
        assert_eq!(
            ApiKeyToken::parse(&text).expect("its own text").secret,
            key.secret
        );
        for damaged in [
            text.replace("mwk", "mwx"),
            text[..text.len() - 1].to_owned(),
            format!("{text}0"),
            text.replacen("_0", "_1", 1),
            String::new(),
            "mwk_é_é_é".into(),
        ] {
            assert!(ApiKeyToken::parse(&damaged).is_none(), "{damaged}");
        }
    }
}
