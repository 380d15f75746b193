//! Defines typed ids: a prefix and a `UUIDv7` in lower-case Crockford base32, for example
//! `mesh_01k…`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// Crockford's alphabet, which leaves out letters that look like digits (`i`, `l`, `o`) and `u`.
const CROCKFORD_ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Digits of an id: 128 bits in groups of five.
const ID_DIGITS: usize = 26;

/// Error for a text that is not an id of the expected kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an id of this kind is {prefix}_ followed by {ID_DIGITS} letters and digits")]
pub struct InvalidId {
    /// Prefix that the id must begin with.
    pub prefix: &'static str,
}

fn encode_id(prefix: &str, id: Uuid) -> String {
    let bits = id.as_u128();
    let digits = (0..ID_DIGITS).rev().map(|place| {
        let digit = usize::try_from((bits >> (place * 5)) & 31).expect("five bits fit");
        char::from(CROCKFORD_ALPHABET[digit])
    });
    format!("{prefix}_{}", digits.collect::<String>())
}

fn decode_id(prefix: &'static str, text: &str) -> Result<Uuid, InvalidId> {
    let invalid = InvalidId { prefix };
    let digits = text
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('_'))
        .ok_or(InvalidId { prefix })?;
    if digits.len() != ID_DIGITS {
        return Err(invalid);
    }
    let mut bits: u128 = 0;
    for (place, digit) in digits.bytes().enumerate() {
        let value = CROCKFORD_ALPHABET
            .iter()
            .position(|letter| *letter == digit)
            .ok_or(InvalidId { prefix })?;
        // The 26 digits carry 130 bits, so the first digit may use only three of its five.
        if place == 0 && value > 7 {
            return Err(invalid);
        }
        bits = (bits << 5) | value as u128;
    }
    Ok(Uuid::from_u128(bits))
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Prefix of the written form, without the underscore.
            pub const PREFIX: &'static str = $prefix;
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&encode_id($prefix, self.0))
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                decode_id($prefix, text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// Tenant, the boundary of isolation and quotas. It comes from the caller's credential and
    /// never from a path.
    TenantId = "tenant";
    /// API key, without its secret.
    KeyId = "key";
    /// Identity provider, an issuer of tokens that a tenant trusts.
    ProviderId = "idp";
    /// Role binding: a role that was granted to principals of an identity provider.
    BindingId = "binding";
    /// Kubernetes cluster of the provider in which control planes run.
    HostingClusterId = "hosting";
    /// Webhook, an address that events of a tenant are sent to.
    WebhookId = "webhook";
    /// Registered Kubernetes cluster of a tenant.
    ClusterId = "cluster";
    /// Managed service mesh.
    MeshId = "mesh";
    /// Operation: one machine action that ends by itself.
    OperationId = "op";
    /// Upgrade: the change of a mesh from one version to another.
    UpgradeId = "upgrade";
}

impl TenantId {
    /// Tenant of the people who run the service. It has keys, users and an audit log, and no
    /// meshes.
    pub const PLATFORM: Self = Self(Uuid::nil());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_id_reads_back_as_it_was_written(bits: u128) {
            let id = MeshId(Uuid::from_u128(bits));
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            let _ = text.parse::<MeshId>();
            let _ = format!("mesh_{text}").parse::<MeshId>();
        }

        #[test]
        fn ids_sort_as_their_uuids_do(a: u128, b: u128) {
            let text = |bits| OperationId(Uuid::from_u128(bits)).to_string();
            prop_assert_eq!(text(a).cmp(&text(b)), a.cmp(&b));
        }
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let text = ClusterId(Uuid::from_u128(7)).to_string();
        assert_eq!(text.parse::<MeshId>(), Err(InvalidId { prefix: "mesh" }));
    }
}
