//! Chains the entries of the audit log: each entry holds a digest over the one before it and over
//! all of its own fields.
//!
//! A person who can write the database can also compute a new chain. An [`Anchor`] is out of that
//! person's reach, because it is kept outside the database. Everything up to the last anchor is
//! proved; only the entries after it are not.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::TenantId;

/// SHA-256 digest of 32 bytes.
pub type Digest = [u8; 32];

/// Function that computes a SHA-256. The caller passes it, because this crate has no cryptography
/// of its own.
pub type Sha256 = fn(&[u8]) -> Digest;

/// Head of an empty chain. The first entry of every tenant is appended to it.
pub const GENESIS: ChainHead = ChainHead {
    seq: 0,
    hash: [0; 32],
};

/// Last entry of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainHead {
    /// Number of the last entry; 0 before the first.
    pub seq: i64,
    /// Digest of the last entry; all zeros before the first.
    pub hash: Digest,
}

/// One change that was made, before it is part of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Time of the change, in microseconds: the database keeps no finer time.
    pub at: Timestamp,
    /// Principal or worker that made the change, for example `key_01k…` or `worker-7`.
    pub actor: String,
    /// Action that was done, for example `createMesh` or `cluster.write`.
    pub action: String,
    /// Object that was changed, for example `mesh_01k…`.
    pub target: String,
    /// Id of the request that the change belongs to; `None` for a change that no request asked for.
    pub request_id: Option<String>,
    /// Digest of the object before the change; `None` if it did not exist.
    pub before: Option<Digest>,
    /// Digest of the object after the change; `None` if it no longer exists.
    pub after: Option<Digest>,
}

/// Entry with its number and digest in the chain of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainedEntry {
    /// Number of the entry. Numbers start at 1 and have no gaps.
    pub seq: i64,
    /// Change that the entry records.
    pub entry: Entry,
    /// Digest over the entry before this one and this entry.
    pub hash: Digest,
}

/// Head of a chain, written to a file that the database's administrator cannot reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Tenant that the chain belongs to.
    pub tenant: TenantId,
    /// Number of the last entry at that time.
    pub seq: i64,
    /// Digest of the last entry at that time.
    #[serde(with = "hex")]
    pub hash: Digest,
    /// Time at which the anchor was written.
    pub at: Timestamp,
}

/// Writes digests as text: 64 hexadecimal digits.
pub mod hex {
    use super::Digest;
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes a digest as 64 lower-case digits.
    pub fn encode(digest: &Digest) -> String {
        digest.iter().fold(String::with_capacity(64), |text, byte| {
            text + &format!("{byte:02x}")
        })
    }

    /// Reads a digest in lower or upper case. Returns `None` for any other text.
    pub fn decode(text: &str) -> Option<Digest> {
        // `from_str_radix` accepts a leading sign, which must not stand for a digit.
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut digest = [0; 32];
        for (place, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[place * 2..place * 2 + 2], 16).ok()?;
        }
        Some(digest)
    }

    pub(super) fn serialize<S: Serializer>(
        digest: &Digest,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&encode(digest))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        decode(&text).ok_or_else(|| de::Error::custom("64 hexadecimal digits were expected"))
    }
}

/// Fault of a chain, and the entry that shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// An entry is missing, or stands in the chain twice.
    #[error("entry {expected} is missing: entry {found} follows the one before it")]
    Gap {
        /// Number that the chain should continue with.
        expected: i64,
        /// Number that was found instead.
        found: i64,
    },
    /// The entry or its predecessor differs from the entry that was written.
    #[error("entry {seq} was changed, or the one before it was")]
    Changed {
        /// Number of the entry whose digest is wrong.
        seq: i64,
    },
    /// The end of the chain was cut off.
    #[error("the log ends at {seq}, but went on to {anchored} when it was anchored")]
    Truncated {
        /// Number of the last entry that is left.
        seq: i64,
        /// Number of the last entry at the time of the newest anchor.
        anchored: i64,
    },
    /// The chain is consistent in itself, but differs from the chain that was anchored.
    #[error("entry {seq} is not the one that was anchored: the log was rewritten")]
    Rewritten {
        /// Number of the entry that the anchor contradicts.
        seq: i64,
    },
}

impl Entry {
    /// Computes the digest of this entry behind a head. Each field is preceded by its length, so
    /// that no two different entries give the same bytes.
    pub fn chain_hash(&self, tenant: TenantId, head: &ChainHead, sha256: Sha256) -> Digest {
        let mut bytes = Vec::with_capacity(256);
        // A field is written as 1, its length and its bytes; a missing field is written as 0.
        let mut field = |part: Option<&[u8]>| match part {
            Some(part) => {
                bytes.push(1);
                bytes.extend((part.len() as u64).to_be_bytes());
                bytes.extend(part);
            }
            None => bytes.push(0),
        };
        field(Some(&head.hash));
        field(Some(tenant.0.as_bytes()));
        field(Some(&(head.seq + 1).to_be_bytes()));
        field(Some(&self.at.as_microsecond().to_be_bytes()));
        field(Some(self.actor.as_bytes()));
        field(Some(self.action.as_bytes()));
        field(Some(self.target.as_bytes()));
        field(self.request_id.as_deref().map(str::as_bytes));
        field(self.before.as_ref().map(Digest::as_slice));
        field(self.after.as_ref().map(Digest::as_slice));
        sha256(&bytes)
    }

    /// Appends the entry to a chain, and returns the numbered entry with the new head.
    pub fn append_to_chain(
        self,
        tenant: TenantId,
        head: &ChainHead,
        sha256: Sha256,
    ) -> (ChainedEntry, ChainHead) {
        let hash = self.chain_hash(tenant, head, sha256);
        let seq = head.seq + 1;
        (
            ChainedEntry {
                seq,
                entry: self,
                hash,
            },
            ChainHead { seq, hash },
        )
    }
}

/// Verifier that reads a chain from its first entry to its last one.
#[derive(Debug, Clone)]
pub struct ChainVerifier<'a> {
    tenant: TenantId,
    head: ChainHead,
    anchors: &'a [Anchor],
    sha256: Sha256,
}

impl<'a> ChainVerifier<'a> {
    /// Creates a verifier at the start of a chain. Anchors of other tenants are ignored.
    pub fn new(tenant: TenantId, anchors: &'a [Anchor], sha256: Sha256) -> Self {
        Self {
            tenant,
            head: GENESIS,
            anchors,
            sha256,
        }
    }

    /// Verifies the next entry against the one before it and against the anchors.
    ///
    /// # Errors
    /// Returns [`ChainError::Gap`] if the number is not the expected one, [`ChainError::Changed`]
    /// if the digest does not match, and [`ChainError::Rewritten`] if an anchor holds another
    /// digest for this number.
    pub fn verify_next(&mut self, next: &ChainedEntry) -> Result<(), ChainError> {
        let expected = self.head.seq + 1;
        if next.seq != expected {
            return Err(ChainError::Gap {
                expected,
                found: next.seq,
            });
        }
        if next.entry.chain_hash(self.tenant, &self.head, self.sha256) != next.hash {
            return Err(ChainError::Changed { seq: next.seq });
        }
        self.head = ChainHead {
            seq: next.seq,
            hash: next.hash,
        };
        if self
            .tenant_anchors()
            .any(|anchor| anchor.seq == next.seq && anchor.hash != next.hash)
        {
            return Err(ChainError::Rewritten { seq: next.seq });
        }
        Ok(())
    }

    /// Verifies that no anchored entry is missing at the end, once all entries were read.
    ///
    /// # Errors
    /// Returns [`ChainError::Truncated`] if an anchor has a higher number than the last entry.
    pub fn verify_end(self) -> Result<ChainHead, ChainError> {
        let anchored = self
            .tenant_anchors()
            .map(|anchor| anchor.seq)
            .max()
            .unwrap_or(0);
        if anchored > self.head.seq {
            return Err(ChainError::Truncated {
                seq: self.head.seq,
                anchored,
            });
        }
        Ok(self.head)
    }

    fn tenant_anchors(&self) -> impl Iterator<Item = &'a Anchor> + use<'a> {
        let tenant = self.tenant;
        self.anchors
            .iter()
            .filter(move |anchor| anchor.tenant == tenant)
    }
}

#[cfg(test)]
mod tests;
