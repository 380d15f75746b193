//! Writes and reads the audit log. Entries are buffered like events, and the last statements of the
//! transaction append them to the tenant's hash chain.

use jiff_sqlx::ToSqlx;
use meshwright_model::audit::{ChainHead, ChainedEntry, Digest, Entry};
use meshwright_model::ids::TenantId;

use crate::db::query_areas::AuditQueries;
use crate::error::decode_column;
use crate::sealing::aead::sha256;
use crate::{Store, StoreError};

impl Store {
    /// Reads the chain head of every tenant. This needs the database role of workers; the API's
    /// role sees only the tenant of its transaction.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when a stored digest has the wrong length.
    pub async fn audit_heads(&self) -> Result<Vec<(TenantId, ChainHead)>, StoreError> {
        let rows = sqlx::query!(
            "SELECT tenant_id, audit_seq, audit_hash FROM tenant_heads ORDER BY tenant_id"
        )
        .fetch_all(&self.pool)
        .await?;
        let read = rows.into_iter().map(|row| {
            let tenant = TenantId(row.tenant_id);
            let hash = decode_column(
                Digest::try_from(row.audit_hash),
                "tenant_heads",
                "audit_hash",
                tenant,
            )?;
            Ok((
                tenant,
                ChainHead {
                    seq: row.audit_seq,
                    hash,
                },
            ))
        });
        read.collect()
    }
}

/// Audit entries by column, as the arrays that one INSERT statement takes.
#[derive(Default)]
struct AuditColumns {
    seq: Vec<i64>,
    at: Vec<jiff_sqlx::Timestamp>,
    actor: Vec<String>,
    action: Vec<String>,
    target: Vec<String>,
    request_id: Vec<Option<String>>,
    before: Vec<Option<Vec<u8>>>,
    after: Vec<Option<Vec<u8>>>,
    hash: Vec<Vec<u8>>,
}

impl AuditColumns {
    fn push_entry(&mut self, ChainedEntry { seq, entry, hash }: ChainedEntry) {
        self.seq.push(seq);
        self.at.push(entry.at.to_sqlx());
        self.actor.push(entry.actor);
        self.action.push(entry.action);
        self.target.push(entry.target);
        self.request_id.push(entry.request_id);
        self.before.push(entry.before.map(|digest| digest.to_vec()));
        self.after.push(entry.after.map(|digest| digest.to_vec()));
        self.hash.push(hash.to_vec());
    }
}

impl AuditQueries<'_, '_> {
    /// Buffers an audit entry. It gets its number in the chain when the transaction commits.
    pub fn record_audit(&mut self, entry: Entry) {
        self.tx.audit_entries.push(entry);
    }

    /// Appends the buffered entries to the chain and returns the digest of the new head. The caller
    /// has locked the row of `head`.
    pub(crate) async fn append_to_chain(
        &mut self,
        entries: Vec<Entry>,
        mut head: ChainHead,
    ) -> Result<Digest, StoreError> {
        let mut columns = AuditColumns::default();
        for entry in entries {
            let (linked, next) = entry.append_to_chain(self.tx.tenant, &head, sha256);
            head = next;
            columns.push_entry(linked);
        }
        // All entries go into one statement, because the head's row stays locked until the commit.
        sqlx::query!(
            "INSERT INTO audit_entries (tenant_id, seq, at, actor, action, target, request_id, before_hash, after_hash, hash)
             SELECT $1, entry.* FROM unnest($2::bigint[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[],
                 $8::bytea[], $9::bytea[], $10::bytea[]) AS entry",
            self.tx.tenant.0,
            &columns.seq,
            &columns.at as _,
            &columns.actor,
            &columns.action,
            &columns.target,
            &columns.request_id as _,
            &columns.before as _,
            &columns.after as _,
            &columns.hash
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(head.hash)
    }

    /// Lists the audit entries of this tenant with a number above `after`, oldest first, at most
    /// `limit`.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when a stored digest has the wrong length.
    pub async fn list_audit_entries(
        &mut self,
        after: i64,
        limit: i64,
    ) -> Result<Vec<ChainedEntry>, StoreError> {
        let rows = sqlx::query!(
            "SELECT seq, at, actor, action, target, request_id, before_hash, after_hash, hash
             FROM audit_entries WHERE tenant_id = $1 AND seq > $2 ORDER BY seq LIMIT $3",
            self.tx.tenant.0,
            after,
            limit
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        let read = rows.into_iter().map(|row| {
            let seq = row.seq;
            let digest = |bytes: Vec<u8>, column| {
                decode_column(Digest::try_from(bytes), "audit_entries", column, seq)
            };
            let entry = Entry {
                at: row.at.to_jiff(),
                actor: row.actor,
                action: row.action,
                target: row.target,
                request_id: row.request_id,
                before: row
                    .before_hash
                    .map(|bytes| digest(bytes, "before_hash"))
                    .transpose()?,
                after: row
                    .after_hash
                    .map(|bytes| digest(bytes, "after_hash"))
                    .transpose()?,
            };
            Ok(ChainedEntry {
                seq,
                entry,
                hash: digest(row.hash, "hash")?,
            })
        });
        read.collect()
    }

    /// Reads the chain head of this tenant.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer, and
    /// [`StoreError::Corrupt`] when the stored digest has the wrong length.
    pub async fn audit_head(&mut self) -> Result<ChainHead, StoreError> {
        let row = sqlx::query!(
            "SELECT audit_seq, audit_hash FROM tenant_heads WHERE tenant_id = $1",
            self.tx.tenant.0
        )
        .fetch_one(&mut *self.tx.inner)
        .await?;
        let hash = decode_column(
            Digest::try_from(row.audit_hash),
            "tenant_heads",
            "audit_hash",
            self.tx.tenant,
        )?;
        Ok(ChainHead {
            seq: row.audit_seq,
            hash,
        })
    }
}
