//! What happened, in commit order.

use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx;
use model::audit::{Digest, ChainHead};
use model::ids::{MeshId, OperationId, UpgradeId};

use crate::error::decode_column;
use crate::{AccessFilter, StoreError, Tx};

/// How long events are kept at least; what lasts is in the audit log.
pub const EVENT_RETENTION: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Old events go with every so many new ones, this many at most, so that no transaction has much to do.
const EVENTS_PER_PURGE: i64 = 100;
const MAX_EVENTS_PER_PURGE: i64 = 1000;

/// An event before it has its number.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// When.
    pub at: Timestamp,
    /// What kind, for example `upgrade.state`.
    pub kind: &'static str,
    /// About which mesh.
    pub mesh: Option<MeshId>,
    /// About which upgrade.
    pub upgrade: Option<UpgradeId>,
    /// About which operation.
    pub operation: Option<OperationId>,
    /// The rest.
    pub body: serde_json::Value,
}

/// An event as readers see it.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its place in the tenant's order, without gaps.
    pub seq: i64,
    /// When.
    pub at: Timestamp,
    /// What kind.
    pub kind: String,
    /// About which mesh.
    pub mesh: Option<MeshId>,
    /// About which upgrade.
    pub upgrade: Option<UpgradeId>,
    /// About which operation.
    pub operation: Option<OperationId>,
    /// The rest.
    pub body: serde_json::Value,
}

/// How a reader's last number stands to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorStatus {
    /// Every event after it is there, or will be.
    Retained,
    /// Events after it are gone: it is older than the oldest that is kept.
    Expired,
    /// No event has had this number: the reader has seen a log that a restore has taken away.
    Ahead {
        /// Number of the last event that there is.
        last: i64,
    },
}

impl Tx<'_> {
    /// Numbers and writes what was buffered. The head's row lock orders committing transactions of one tenant, so a reader
    /// that has seen number n has seen all before it.
    pub(crate) async fn flush_events_and_audit(&mut self) -> Result<(), StoreError> {
        let (events, entries) = (std::mem::take(&mut self.events), std::mem::take(&mut self.audit_entries));
        if events.is_empty() && entries.is_empty() {
            return Ok(());
        }
        let count = |length: usize| i64::try_from(length).expect("a transaction has few events");
        let (told, noted) = (count(events.len()), count(entries.len()));
        let head = sqlx::query!(
            "UPDATE tenant_heads SET event_seq = event_seq + $2, audit_seq = audit_seq + $3 WHERE tenant_id = $1
             RETURNING event_seq, audit_seq, audit_hash, webhooks",
            self.tenant.0,
            told,
            noted
        )
        .fetch_one(&mut *self.inner)
        .await?;
        for (event, seq) in events.iter().zip(head.event_seq - told + 1..) {
            self.write_event(event, seq).await?;
            if seq % EVENTS_PER_PURGE == 0 {
                self.purge_expired_events(event.at - EVENT_RETENTION).await?;
            }
        }
        if head.webhooks > 0 && told > 0 {
            self.enqueue_deliveries(&events, head.event_seq - told + 1).await?;
        }
        if noted > 0 {
            let hash = decode_column(Digest::try_from(head.audit_hash), "tenant_heads", "audit_hash", self.tenant)?;
            let last = self.append_to_chain(entries, ChainHead { seq: head.audit_seq - noted, hash }).await?;
            sqlx::query!(
                "UPDATE tenant_heads SET audit_hash = $2 WHERE tenant_id = $1",
                self.tenant.0,
                last.as_slice()
            )
            .execute(&mut *self.inner)
            .await?;
        }
        Ok(())
    }

    async fn write_event(&mut self, event: &NewEvent, seq: i64) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO events (tenant_id, seq, at, kind, mesh_id, upgrade_id, operation_id, body) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            self.tenant.0,
            seq,
            event.at.to_sqlx() as _,
            event.kind,
            event.mesh.map(|id| id.0),
            event.upgrade.map(|id| id.0),
            event.operation.map(|id| id.0),
            event.body
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Takes away the oldest events, those from before a time, and what is kept as long as they are.
    async fn purge_expired_events(&mut self, before: Timestamp) -> Result<(), StoreError> {
        sqlx::query!(
            "DELETE FROM events WHERE tenant_id = $1 AND at < $2
                 AND seq < (SELECT min(seq) FROM events WHERE tenant_id = $1) + $3",
            self.tenant.0,
            before.to_sqlx() as _,
            MAX_EVENTS_PER_PURGE
        )
        .execute(&mut *self.inner)
        .await?;
        sqlx::query!(
            "DELETE FROM deliveries WHERE tenant_id = $1 AND seq < (SELECT min(seq) FROM events WHERE tenant_id = $1)",
            self.tenant.0
        )
        .execute(&mut *self.inner)
        .await?;
        self.purge_deleted_mesh_authorities(before).await
    }

    /// How a reader's last number stands to the log. After 0 comes the oldest event that is kept.
    ///
    /// # Errors
    /// The database failed.
    pub async fn check_cursor(&mut self, seq: i64) -> Result<CursorStatus, StoreError> {
        if seq <= 0 {
            return Ok(CursorStatus::Retained);
        }
        let log = sqlx::query!(
            r#"SELECT coalesce((SELECT min(seq) FROM events WHERE tenant_id = $1), event_seq + 1) AS "oldest!", event_seq
               FROM tenant_heads WHERE tenant_id = $1"#,
            self.tenant.0
        )
        .fetch_one(&mut *self.inner)
        .await?;
        Ok(match seq {
            _ if seq > log.event_seq => CursorStatus::Ahead { last: log.event_seq },
            _ if seq < log.oldest - 1 => CursorStatus::Expired,
            _ => CursorStatus::Retained,
        })
    }

    /// The events within reach after a number, oldest first, at most `limit` of them.
    ///
    /// # Errors
    /// The database failed.
    pub async fn list_events_after(
        &mut self,
        access: &AccessFilter,
        seq: i64,
        upgrade: Option<UpgradeId>,
        limit: i64,
    ) -> Result<Vec<Event>, StoreError> {
        let rows = sqlx::query!(
            "SELECT seq, at, kind, mesh_id, upgrade_id, operation_id, body FROM events
             WHERE tenant_id = $1 AND seq > $2 AND ($3::uuid IS NULL OR upgrade_id = $3) AND ($4::uuid[] IS NULL OR mesh_id = ANY($4))
             ORDER BY seq LIMIT $5",
            self.tenant.0,
            seq,
            upgrade.map(|id| id.0),
            access.meshes.as_deref(),
            limit
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let read = rows.into_iter().map(|row| Event {
            seq: row.seq,
            at: row.at.to_jiff(),
            kind: row.kind,
            mesh: row.mesh_id.map(MeshId),
            upgrade: row.upgrade_id.map(UpgradeId),
            operation: row.operation_id.map(OperationId),
            body: row.body,
        });
        Ok(read.collect())
    }
}
