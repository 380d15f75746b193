//! Tracks operations that ended before their goal and whose last writes may still reach a cluster.

use meshwright_model::ids::{MeshId, OperationId};

use crate::db::query_areas::OperationQueries;
use crate::db::statements::retry_on_conflict;
use crate::{Claim, PlannedStep, Store, StoreError};

/// An ended operation that no later operation has fenced yet.
#[derive(Debug, Clone)]
pub struct UnfencedOperation {
    /// Identifier of the operation.
    pub operation: OperationId,
    /// Steps of the operation that were started and not done.
    pub open_steps: Vec<PlannedStep>,
    /// True while the lease of its last worker lasts. Until then that worker may still write single
    /// fields of a target and create absent objects; no object version fences such writes.
    pub writer_alive: bool,
}

impl OperationQueries<'_, '_> {
    /// Lists the operations of a mesh, except one, that no later operation has fenced yet, oldest
    /// first.
    ///
    /// # Errors
    /// Returns the errors of [`OperationQueries::list_steps`], except [`StoreError::Corrupt`].
    pub async fn list_unfenced_operations(
        &mut self,
        mesh: MeshId,
        except: OperationId,
    ) -> Result<Vec<UnfencedOperation>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT operation_id, coalesce(writer_until > now(), false) AS "writing!" FROM operations
               WHERE tenant_id = $1 AND mesh_id = $2 AND unfenced AND operation_id <> $3 ORDER BY operation_id"#,
            self.tx.tenant.0,
            mesh.0,
            except.0
        )
        .fetch_all(&mut *self.tx.inner)
        .await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let operation = OperationId(row.operation_id);
            let mut open = match self.list_steps(operation).await {
                // Steps that cannot be read cannot be fenced. They must not block every later
                // operation of the mesh.
                Err(StoreError::Corrupt { .. }) => Vec::new(),
                items => items?,
            };
            open.retain(|item| item.progress.is_started() && !item.progress.done);
            found.push(UnfencedOperation {
                operation,
                open_steps: open,
                writer_alive: row.writing,
            });
        }
        Ok(found)
    }

    /// Records that no cluster accepts a write of these operations any more.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn mark_fenced(&mut self, operations: &[OperationId]) -> Result<(), StoreError> {
        let ids: Vec<uuid::Uuid> = operations.iter().map(|id| id.0).collect();
        sqlx::query!(
            "UPDATE operations SET unfenced = false, writer_epoch = NULL, writer_until = NULL
             WHERE tenant_id = $1 AND operation_id = ANY($2)",
            self.tx.tenant.0,
            &ids
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }
}

impl Store {
    /// Records that a worker whose operation was ended from outside has stopped: its last call was
    /// answered or has timed out.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn record_worker_stopped(&self, claim: &Claim) -> Result<(), StoreError> {
        let note = || async {
            let mut tx = self.begin(claim.tenant).await?;
            sqlx::query!(
                "UPDATE operations SET writer_epoch = NULL, writer_until = NULL
                 WHERE tenant_id = $1 AND operation_id = $2 AND writer_epoch = $3",
                claim.tenant.0,
                claim.operation.0,
                claim.epoch
            )
            .execute(&mut *tx.inner)
            .await?;
            tx.commit().await
        };
        retry_on_conflict(note).await
    }
}
