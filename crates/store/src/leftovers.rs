//! Objects that stay in clusters after we have left them, and the reason of a caller who insisted on leaving.

use model::ids::{MeshId, OperationId};
use model::leftover::Leftover;
use model::operation::{OperationKind, OperationState};
use serde_json::{Value, json};

use crate::{Operation, StoreError, Tx};

/// The arguments of an operation that may, with a reason, leave a cluster behind that does not answer.
pub fn force(reason: Option<&str>) -> Value {
    reason.map_or(Value::Null, |reason| json!({ "force": true, "reason": reason }))
}

impl Operation {
    /// Whether a cluster that does not answer may be left behind.
    pub fn forced(&self) -> bool {
        self.arguments["force"] == true
    }

    /// Why it was forced, in the caller's words.
    pub fn reason(&self) -> Option<&str> {
        self.arguments["reason"].as_str()
    }
}

impl Tx<'_> {
    /// Keeps what stays in clusters once an operation is over. They are shown from then on, before it has ended.
    ///
    /// # Errors
    /// The database failed.
    pub async fn keep_leftovers(&mut self, id: OperationId, leftovers: &[Leftover]) -> Result<(), StoreError> {
        if leftovers.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "UPDATE operations SET leftovers = $3 WHERE tenant_id = $1 AND operation_id = $2",
            self.tenant.0,
            id.0,
            crate::error::json(&leftovers)
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Shows the leftovers of its deletion on a deleted mesh.
    pub(crate) async fn show_leftovers(&mut self, mesh: MeshId, deletion: OperationId) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE meshes SET leftovers = (SELECT leftovers FROM operations WHERE tenant_id = $1 AND operation_id = $3)
             WHERE tenant_id = $1 AND mesh_id = $2",
            self.tenant.0,
            mesh.0,
            deletion.0
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Lets a deletion take the place of the one that is under way on a mesh, as if that had been cancelled. Answers
    /// whether there was one.
    ///
    /// # Errors
    /// The database failed.
    pub async fn supersede_deletion(&mut self, mesh: MeshId, now: jiff::Timestamp) -> Result<bool, StoreError> {
        let Some(holder) = self.slot(mesh).await? else { return Ok(false) };
        let Ok(operation) = holder.parse::<OperationId>() else { return Ok(false) };
        if self.operation(operation).await?.kind != OperationKind::DeleteMesh {
            return Ok(false);
        }
        self.supersede(operation, &OperationState::Superseded, now).await?;
        let cancelled = OperationState::Cancelled;
        self.mesh_follows(operation, OperationKind::DeleteMesh, mesh, &cancelled, now).await?;
        Ok(true)
    }
}
