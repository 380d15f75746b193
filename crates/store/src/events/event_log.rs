//! Stores events in commit order.

use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx;
use meshwright_model::audit::{ChainHead, Digest};
use meshwright_model::ids::{MeshId, OperationId, UpgradeId};
use meshwright_model::webhook::EventKind;

use crate::db::query_areas::EventQueries;
use crate::error::decode_column;
use crate::{AccessFilter, StoreError};

/// Time that events are kept at least: 30 days. The audit log holds what has to last longer.
pub const EVENT_RETENTION: SignedDuration = SignedDuration::from_hours(30 * 24);
/// One in this many events starts a purge of expired events. A purge is limited, so that no
/// transaction takes long.
const EVENTS_PER_PURGE: i64 = 100;
/// Number of events that one purge deletes at most.
const MAX_EVENTS_PER_PURGE: i64 = 1000;

/// An event that has no number yet.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Time of the event.
    pub at: Timestamp,
    /// Kind of the event.
    pub kind: EventKind,
    /// Mesh that the event is about, if any.
    pub mesh: Option<MeshId>,
    /// Upgrade that the event is about, if any.
    pub upgrade: Option<UpgradeId>,
    /// Operation that the event is about, if any.
    pub operation: Option<OperationId>,
    /// Further fields of the event, which depend on its kind.
    pub body: serde_json::Value,
}

/// An event as readers see it.
#[derive(Debug, Clone)]
pub struct Event {
    /// Number of the event within the tenant, without gaps.
    pub seq: i64,
    /// Time of the event.
    pub at: Timestamp,
    /// Kind of the event, for example `upgrade.state`.
    pub kind: String,
    /// Mesh that the event is about, if any.
    pub mesh: Option<MeshId>,
    /// Upgrade that the event is about, if any.
    pub upgrade: Option<UpgradeId>,
    /// Operation that the event is about, if any.
    pub operation: Option<OperationId>,
    /// Further fields of the event, which depend on its kind.
    pub body: serde_json::Value,
}

/// Relation of a reader's cursor to the event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorStatus {
    /// All events after the cursor are stored or are still to come.
    Retained,
    /// Some events after the cursor have been purged, because the cursor is older than the oldest
    /// stored event.
    Expired,
    /// No event has the cursor's number yet: the reader has seen a log that was lost when a backup
    /// was restored.
    Ahead {
        /// Number of the last stored event.
        last: i64,
    },
}

impl EventQueries<'_, '_> {
    /// Numbers and writes the buffered events and audit entries. The row lock on the tenant's head
    /// puts the committing transactions of one tenant in order, so a reader that has seen event n
    /// has seen all events before it.
    pub(crate) async fn flush_events_and_audit(&mut self) -> Result<(), StoreError> {
        let (events, entries) = (
            std::mem::take(&mut self.tx.events),
            std::mem::take(&mut self.tx.audit_entries),
        );
        if events.is_empty() && entries.is_empty() {
            return Ok(());
        }
        let count = |length: usize| i64::try_from(length).expect("a transaction has few events");
        let (told, noted) = (count(events.len()), count(entries.len()));
        let head = sqlx::query!(
            "UPDATE tenant_heads SET event_seq = event_seq + $2, audit_seq = audit_seq + $3 WHERE tenant_id = $1
             RETURNING event_seq, audit_seq, audit_hash, webhooks",
            self.tx.tenant.0,
            told,
            noted
        )
        .fetch_one(&mut *self.tx.inner)
        .await?;
        for (event, seq) in events.iter().zip(head.event_seq - told + 1..) {
            self.write_event(event, seq).await?;
            if seq % EVENTS_PER_PURGE == 0 {
                self.purge_expired_events(event.at - EVENT_RETENTION)
                    .await?;
            }
        }
        if head.webhooks > 0 && told > 0 {
            self.tx
                .deliveries()
                .enqueue_deliveries(&events, head.event_seq - told + 1)
                .await?;
        }
        if noted > 0 {
            let hash = decode_column(
                Digest::try_from(head.audit_hash),
                "tenant_heads",
                "audit_hash",
                self.tx.tenant,
            )?;
            let last = self
                .tx
                .audit()
                .append_to_chain(
                    entries,
                    ChainHead {
                        seq: head.audit_seq - noted,
                        hash,
                    },
                )
                .await?;
            sqlx::query!(
                "UPDATE tenant_heads SET audit_hash = $2 WHERE tenant_id = $1",
                self.tx.tenant.0,
                last.as_slice()
            )
            .execute(&mut *self.tx.inner)
            .await?;
        }
        Ok(())
    }

    async fn write_event(&mut self, event: &NewEvent, seq: i64) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO events (tenant_id, seq, at, kind, mesh_id, upgrade_id, operation_id, body) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            self.tx.tenant.0,
            seq,
            event.at.to_sqlx() as _,
            event.kind.as_str(),
            event.mesh.map(|id| id.0),
            event.upgrade.map(|id| id.0),
            event.operation.map(|id| id.0),
            event.body
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }

    /// Deletes the oldest events from before a time, with their deliveries and the authorities of
    /// meshes that were deleted before it.
    async fn purge_expired_events(&mut self, before: Timestamp) -> Result<(), StoreError> {
        sqlx::query!(
            "DELETE FROM events WHERE tenant_id = $1 AND at < $2
                 AND seq < (SELECT min(seq) FROM events WHERE tenant_id = $1) + $3",
            self.tx.tenant.0,
            before.to_sqlx() as _,
            MAX_EVENTS_PER_PURGE
        )
        .execute(&mut *self.tx.inner)
        .await?;
        sqlx::query!(
            "DELETE FROM deliveries WHERE tenant_id = $1 AND seq < (SELECT min(seq) FROM events WHERE tenant_id = $1)",
            self.tx.tenant.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        self.tx
            .meshes()
            .purge_deleted_mesh_authorities(before)
            .await
    }

    /// Checks how a reader's cursor relates to the event log. Reading after 0 starts with the
    /// oldest stored event.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn check_cursor(&mut self, seq: i64) -> Result<CursorStatus, StoreError> {
        if seq <= 0 {
            return Ok(CursorStatus::Retained);
        }
        let log = sqlx::query!(
            r#"SELECT coalesce((SELECT min(seq) FROM events WHERE tenant_id = $1), event_seq + 1) AS "oldest!", event_seq
               FROM tenant_heads WHERE tenant_id = $1"#,
            self.tx.tenant.0
        )
        .fetch_one(&mut *self.tx.inner)
        .await?;
        Ok(match seq {
            _ if seq > log.event_seq => CursorStatus::Ahead {
                last: log.event_seq,
            },
            _ if seq < log.oldest - 1 => CursorStatus::Expired,
            _ => CursorStatus::Retained,
        })
    }

    /// Lists the events after a number that the caller may see, oldest first, at most `limit`.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
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
            self.tx.tenant.0,
            seq,
            upgrade.map(|id| id.0),
            access.meshes.as_deref(),
            limit
        )
        .fetch_all(&mut *self.tx.inner)
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
