//! The audit log's chain: each entry holds a digest over the one before it and all of its own fields.
//!
//! Whoever can write the database can also compute a new chain. What they cannot change is an [`Anchor`], which was
//! taken outside the database: everything up to it is proved, and only a tail that is younger than the last anchor is not.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::TenantId;

/// A SHA-256.
pub type Digest = [u8; 32];

/// Computes a SHA-256; this crate has no cryptography of its own.
pub type Sha256 = fn(&[u8]) -> Digest;

/// What the chain of a tenant begins with.
pub const GENESIS: ChainHead = ChainHead { seq: 0, hash: [0; 32] };

/// Where a chain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainHead {
    /// Number of the last entry; 0 before the first.
    pub seq: i64,
    /// Its digest.
    pub hash: Digest,
}

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When, to the microsecond: what the database keeps.
    pub at: Timestamp,
    /// Who, for example `key_01k…` or `worker-7`.
    pub actor: String,
    /// What, for example `createMesh` or `cluster.write`.
    pub action: String,
    /// To what, for example `mesh_01k…`.
    pub target: String,
    /// As part of which request.
    pub request_id: Option<String>,
    /// What was there before; none where there was nothing.
    pub before: Option<Digest>,
    /// What was there afterwards; none where nothing was left.
    pub after: Option<Digest>,
}

/// An entry in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainedEntry {
    /// Its number, without gaps.
    pub seq: i64,
    /// The entry.
    pub entry: Entry,
    /// The digest over the one before it and this one.
    pub hash: Digest,
}

/// A head that was written down where the database's administrator cannot reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Whose chain.
    pub tenant: TenantId,
    /// The number of the last entry at that time.
    pub seq: i64,
    /// Its digest.
    #[serde(with = "hex")]
    pub hash: Digest,
    /// When it was written down.
    pub at: Timestamp,
}

/// Digests as text: 64 hexadecimal digits.
pub mod hex {
    use super::Digest;
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes a digest.
    pub fn encode(digest: &Digest) -> String {
        digest.iter().fold(String::with_capacity(64), |text, byte| text + &format!("{byte:02x}"))
    }

    /// Reads a digest; `None` for anything else.
    pub fn decode(text: &str) -> Option<Digest> {
        // A sign would be read as part of a number.
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut digest = [0; 32];
        for (place, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[place * 2..place * 2 + 2], 16).ok()?;
        }
        Some(digest)
    }

    pub(super) fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&encode(digest))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        decode(&text).ok_or_else(|| de::Error::custom("64 hexadecimal digits were expected"))
    }
}

/// What is wrong with a chain, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// An entry is missing, or stands twice.
    #[error("entry {expected} is missing: entry {found} follows the one before it")]
    Gap {
        /// The number that should come.
        expected: i64,
        /// The number that comes.
        found: i64,
    },
    /// An entry, or the one before it, is not what was written.
    #[error("entry {seq} was changed, or the one before it was")]
    Changed {
        /// Its number.
        seq: i64,
    },
    /// The end was cut off.
    #[error("the log ends at {seq}, but went on to {anchored} when it was anchored")]
    Truncated {
        /// Where it ends.
        seq: i64,
        /// Where it once ended.
        anchored: i64,
    },
    /// The chain holds together, but it is not the one that was anchored.
    #[error("entry {seq} is not the one that was anchored: the log was rewritten")]
    Rewritten {
        /// The anchor's number.
        seq: i64,
    },
}

impl Entry {
    /// The digest of this entry behind a head. Every field is preceded by its length, so that no two entries read alike.
    pub fn chain_hash(&self, tenant: TenantId, head: &ChainHead, sha256: Sha256) -> Digest {
        let mut bytes = Vec::with_capacity(256);
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

    /// Puts the entry behind a head, and says where the chain ends then.
    pub fn append_to_chain(self, tenant: TenantId, head: &ChainHead, sha256: Sha256) -> (ChainedEntry, ChainHead) {
        let hash = self.chain_hash(tenant, head, sha256);
        let seq = head.seq + 1;
        (ChainedEntry { seq, entry: self, hash }, ChainHead { seq, hash })
    }
}

/// A chain that is being read from its beginning.
#[derive(Debug, Clone)]
pub struct ChainVerifier<'a> {
    tenant: TenantId,
    head: ChainHead,
    anchors: &'a [Anchor],
    sha256: Sha256,
}

impl<'a> ChainVerifier<'a> {
    /// Begins at the beginning. Anchors of other tenants are left aside.
    pub fn new(tenant: TenantId, anchors: &'a [Anchor], sha256: Sha256) -> Self {
        Self { tenant, head: GENESIS, anchors, sha256 }
    }

    /// Reads the next entry.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify_next(&mut self, next: &ChainedEntry) -> Result<(), ChainError> {
        let expected = self.head.seq + 1;
        if next.seq != expected {
            return Err(ChainError::Gap { expected, found: next.seq });
        }
        if next.entry.chain_hash(self.tenant, &self.head, self.sha256) != next.hash {
            return Err(ChainError::Changed { seq: next.seq });
        }
        self.head = ChainHead { seq: next.seq, hash: next.hash };
        if self.tenant_anchors().any(|anchor| anchor.seq == next.seq && anchor.hash != next.hash) {
            return Err(ChainError::Rewritten { seq: next.seq });
        }
        Ok(())
    }

    /// Everything was read: nothing that was anchored may be missing.
    ///
    /// # Errors
    /// The end was cut off.
    pub fn verify_end(self) -> Result<ChainHead, ChainError> {
        let anchored = self.tenant_anchors().map(|anchor| anchor.seq).max().unwrap_or(0);
        if anchored > self.head.seq {
            return Err(ChainError::Truncated { seq: self.head.seq, anchored });
        }
        Ok(self.head)
    }

    fn tenant_anchors(&self) -> impl Iterator<Item = &'a Anchor> + use<'a> {
        let tenant = self.tenant;
        self.anchors.iter().filter(move |anchor| anchor.tenant == tenant)
    }
}

#[cfg(test)]
mod tests;
