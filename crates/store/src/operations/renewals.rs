//! Finds the renewal of a credential that blocks another operation on the cluster.

use meshwright_model::ids::{ClusterId, OperationId};
use meshwright_model::operation::OperationKind;

use crate::StoreError;
use crate::db::query_areas::ClusterQueries;

/// A renewal of a cluster's credential that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenRenewal {
    /// Operation that renews the credential.
    pub operation: OperationId,
    /// True when the renewal continues only after a person asks for it.
    pub paused: bool,
    /// True while a worker holds the lease of the renewal and may call the cluster.
    pub lease_held: bool,
}

impl ClusterQueries<'_, '_> {
    /// Finds the renewal of a cluster's credential that has not ended, and locks it: no worker
    /// claims it until the transaction ends.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn lock_open_renewal(
        &mut self,
        id: ClusterId,
    ) -> Result<Option<OpenRenewal>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT o.operation_id, o.state = 'paused' AS "paused!", coalesce(q.lease_until > now(), false) AS "held!"
               FROM operations o JOIN work_queue q ON q.tenant_id = o.tenant_id AND q.operation_id = o.operation_id
               WHERE o.tenant_id = $1 AND o.cluster_id = $2 AND o.kind = $3 AND o.ended_at IS NULL
               ORDER BY o.operation_id DESC LIMIT 1 FOR UPDATE OF q"#,
            self.tx.tenant.0,
            id.0,
            OperationKind::RenewCredential.as_str()
        )
        .fetch_optional(&mut *self.tx.inner)
        .await?;
        Ok(row.map(|row| OpenRenewal {
            operation: OperationId(row.operation_id),
            paused: row.paused,
            lease_held: row.held,
        }))
    }
}
