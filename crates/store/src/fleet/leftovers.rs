//! Records objects that stay in clusters after a deletion or deregistration, and the reason of a
//! caller who forced it.

use meshwright_model::Clock;
use meshwright_model::ids::{MeshId, OperationId};
use meshwright_model::leftover::Leftover;
use meshwright_model::operation::{OperationKind, OperationState, Problem};
use meshwright_model::problem::ProblemCode;
use meshwright_model::upgrade::Verb;
use serde_json::{Value, json};

use crate::db::query_areas::MeshQueries;
use crate::{ClusterState, MeshState, Operation, StoreError};

/// Builds the arguments of an operation. With a reason, the operation is forced: it may leave
/// behind a cluster that does not answer.
pub fn force_arguments(reason: Option<&str>) -> Value {
    reason.map_or(
        Value::Null,
        |reason| json!({ "force": true, "reason": reason }),
    )
}

impl Operation {
    /// Returns true when the operation may leave behind a cluster that does not answer.
    pub fn is_forced(&self) -> bool {
        self.arguments["force"] == true
    }

    /// Returns the reason for forcing the operation, in the caller's words.
    pub fn force_reason(&self) -> Option<&str> {
        self.arguments["reason"].as_str()
    }
}

impl MeshQueries<'_, '_> {
    /// Records the objects that stay in clusters after an operation. They are shown at once, before
    /// the operation has ended.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn record_leftovers(
        &mut self,
        id: OperationId,
        leftovers: &[Leftover],
    ) -> Result<(), StoreError> {
        if leftovers.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "UPDATE operations SET leftovers = $3 WHERE tenant_id = $1 AND operation_id = $2",
            self.tx.tenant.0,
            id.0,
            crate::error::to_json(&leftovers)
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }

    /// Copies the leftovers of a deletion to the deleted mesh.
    pub(crate) async fn copy_leftovers_to_mesh(
        &mut self,
        mesh: MeshId,
        deletion: OperationId,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE meshes SET leftovers = (SELECT leftovers FROM operations WHERE tenant_id = $1 AND operation_id = $3)
             WHERE tenant_id = $1 AND mesh_id = $2",
            self.tx.tenant.0,
            mesh.0,
            deletion.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }

    /// Forgets the leftovers of a mesh whose creation has succeeded: they are parts of the mesh
    /// again.
    pub(crate) async fn clear_mesh_leftovers(&mut self, mesh: MeshId) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE meshes SET leftovers = '[]' WHERE tenant_id = $1 AND mesh_id = $2",
            self.tx.tenant.0,
            mesh.0
        )
        .execute(&mut *self.tx.inner)
        .await?;
        Ok(())
    }

    /// Lets a forced deletion preempt the current holder of the mesh lock. Another deletion is
    /// superseded as if it had been cancelled. An upgrade that is paused while a member does not
    /// answer is abandoned. Any other holder keeps the lock, and the deletion is refused when it
    /// tries to take it.
    ///
    /// # Errors
    /// Returns [`StoreError::Database`] when the database does not answer.
    pub async fn preempt_for_deletion(
        &mut self,
        mesh: MeshId,
        actor: &str,
        clock: &dyn Clock,
    ) -> Result<(), StoreError> {
        let Some(holder) = self.mesh_lock_holder(mesh).await? else {
            return Ok(());
        };
        if let Ok(operation) = holder.parse() {
            return self.supersede_deletion(operation, mesh, clock.now()).await;
        }
        let Ok(upgrade) = holder.parse() else {
            return Ok(());
        };
        if !self.has_unreachable_member(mesh).await? {
            return Ok(());
        }
        match self
            .tx
            .upgrades()
            .apply_verb(upgrade, (Verb::Abandon, actor), None, Value::Null, clock)
            .await
        {
            Ok(_) => {
                self.set_mesh_state(
                    mesh,
                    &MeshState::Failed(upgrade_abandoned_problem()),
                    clock.now(),
                )
                .await
            }
            // The upgrade is not paused: it continues by itself, or can end in another way.
            Err(StoreError::Transition(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn has_unreachable_member(&mut self, mesh: MeshId) -> Result<bool, StoreError> {
        for member in self.get_mesh(mesh).await?.members {
            if matches!(
                self.tx.clusters().get_cluster(member.cluster).await?.state,
                ClusterState::Unreachable(_)
            ) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn supersede_deletion(
        &mut self,
        operation: OperationId,
        mesh: MeshId,
        now: jiff::Timestamp,
    ) -> Result<(), StoreError> {
        if self.tx.operations().get_operation(operation).await?.kind != OperationKind::DeleteMesh {
            return Ok(());
        }
        self.tx
            .operations()
            .supersede_operation(operation, &OperationState::Superseded, now)
            .await?;
        let cancelled = OperationState::Cancelled;
        self.tx
            .operations()
            .apply_end_to_mesh(operation, OperationKind::DeleteMesh, mesh, &cancelled, now)
            .await
    }
}

/// Builds the problem of a mesh whose upgrade was abandoned for its deletion, shown while that
/// deletion has not succeeded.
fn upgrade_abandoned_problem() -> Problem {
    let message = "An upgrade was abandoned half-way, so that the mesh could be deleted: both revisions may be there.";
    Problem::new(
        ProblemCode::UpgradeAbandoned,
        message,
        "Remove what is there with `meshwright mesh delete`.",
    )
}
