//! Renewals of credentials that stand in the way of something else.

use model::ids::{ClusterId, OperationId};
use model::operation::OperationKind;

use crate::{StoreError, Tx};

/// A renewal of a cluster's credential that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenRenewal {
    /// The operation that renews.
    pub operation: OperationId,
    /// True when the renewal goes on only after a person asks for it.
    pub paused: bool,
    /// True while a worker holds the renewal and may call the cluster.
    pub lease_held: bool,
}

impl Tx<'_> {
    /// The renewal of a cluster's credential that has not ended. No worker takes it up until the transaction ends.
    ///
    /// # Errors
    /// The database failed.
    pub async fn lock_open_renewal(&mut self, id: ClusterId) -> Result<Option<OpenRenewal>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT o.operation_id, o.state = 'paused' AS "paused!", coalesce(q.lease_until > now(), false) AS "held!"
               FROM operations o JOIN work_queue q ON q.tenant_id = o.tenant_id AND q.operation_id = o.operation_id
               WHERE o.tenant_id = $1 AND o.cluster_id = $2 AND o.kind = $3 AND o.ended_at IS NULL
               ORDER BY o.operation_id DESC LIMIT 1 FOR UPDATE OF q"#,
            self.tenant.0,
            id.0,
            OperationKind::RenewCredential.as_str()
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        Ok(row.map(|row| OpenRenewal { operation: OperationId(row.operation_id), paused: row.paused, lease_held: row.held }))
    }
}
