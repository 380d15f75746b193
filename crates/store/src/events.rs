//! What happened, in commit order.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use model::ids::{MeshId, OperationId, UpgradeId};

use crate::{StoreError, Tx};

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

impl Tx<'_> {
    /// The head's row lock orders committing transactions of one tenant, so a reader that has seen number n has seen all
    /// before it.
    pub(crate) async fn write_events(&mut self) -> Result<(), StoreError> {
        let events = std::mem::take(&mut self.events);
        if events.is_empty() {
            return Ok(());
        }
        let count = i64::try_from(events.len()).expect("a transaction has few events");
        let last = sqlx::query_scalar!(
            "UPDATE tenant_heads SET event_seq = event_seq + $2 WHERE tenant_id = $1 RETURNING event_seq",
            self.tenant.0,
            count
        )
        .fetch_one(&mut *self.inner)
        .await?;
        for (event, seq) in events.iter().zip(last - count + 1..) {
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
        }
        Ok(())
    }

    /// The events after a number, oldest first, at most `limit` of them.
    ///
    /// # Errors
    /// The database failed.
    pub async fn events_after(
        &mut self,
        seq: i64,
        upgrade: Option<UpgradeId>,
        limit: i64,
    ) -> Result<Vec<Event>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT seq, at, kind, mesh_id, upgrade_id, operation_id, body FROM events
               WHERE tenant_id = $1 AND seq > $2 AND ($3::uuid IS NULL OR upgrade_id = $3) ORDER BY seq LIMIT $4"#,
            self.tenant.0,
            seq,
            upgrade.map(|id| id.0),
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
