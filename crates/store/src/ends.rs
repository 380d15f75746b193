//! What the end of a lone operation means for its mesh.
//!
//! The mesh follows in the statement's own transaction, for every way in which an operation can end, so that no mesh stays
//! `creating` or `deleting` and no slot stays taken after the operation that it belonged to.

use jiff::Timestamp;
use model::ids::{MeshId, OperationId};
use model::operation::{OperationKind, OperationState, Problem};

use crate::meshes::MeshState;
use crate::{StoreError, Tx};

/// What helps a mesh that is not whole.
const HINT: &str = "Build it with `meshwright mesh retry`, or remove what is there with `meshwright mesh delete`.";

impl Tx<'_> {
    /// Moves the mesh of a lone operation to the state that the operation's end leads to, and frees the slot that the
    /// operation held.
    pub(crate) async fn mesh_follows(
        &mut self,
        operation: OperationId,
        kind: OperationKind,
        mesh: MeshId,
        end: &OperationState,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if let Some(state) = self.state_after(operation, kind, mesh, end).await? {
            self.set_mesh_state(mesh, &state, now).await?;
            if state == MeshState::Deleted {
                self.show_leftovers(mesh, operation).await?;
            }
        }
        self.free_slot(mesh, &operation.to_string()).await
    }

    async fn state_after(
        &mut self,
        operation: OperationId,
        kind: OperationKind,
        mesh: MeshId,
        end: &OperationState,
    ) -> Result<Option<MeshState>, StoreError> {
        let problem = match (kind, end) {
            (OperationKind::CreateMesh, OperationState::Succeeded) => return Ok(Some(MeshState::Ready)),
            (OperationKind::DeleteMesh, OperationState::Succeeded) => return Ok(Some(MeshState::Deleted)),
            (OperationKind::CreateMesh | OperationKind::DeleteMesh, OperationState::Failed { problem }) => {
                problem.clone()
            }
            (OperationKind::CreateMesh, OperationState::Cancelled) => {
                Problem::new("creation_cancelled", "The creation was cancelled before the mesh was ready.", HINT)
            }
            (OperationKind::DeleteMesh, OperationState::Cancelled) => Problem::new(
                "deletion_cancelled",
                "The deletion was cancelled after parts of the mesh were removed.",
                HINT,
            ),
            _ => return Ok(None),
        };
        if kind == OperationKind::DeleteMesh && !self.touched_anything(operation).await? {
            return self.state_before_deletion(mesh).await.map(Some);
        }
        Ok(Some(MeshState::Failed(problem)))
    }

    /// Whether any step of an operation was committed to: from then on a cluster may hold its effect.
    async fn touched_anything(&mut self, operation: OperationId) -> Result<bool, StoreError> {
        let found = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM item_facts WHERE tenant_id = $1 AND operation_id = $2 AND fact ->> 'fact' = 'started') AS "any!""#,
            self.tenant.0,
            operation.0
        );
        Ok(found.fetch_one(&mut *self.inner).await?)
    }

    async fn state_before_deletion(&mut self, mesh: MeshId) -> Result<MeshState, StoreError> {
        let problem = sqlx::query_scalar!(
            "SELECT problem FROM meshes WHERE tenant_id = $1 AND mesh_id = $2",
            self.tenant.0,
            mesh.0
        )
        .fetch_one(&mut *self.inner)
        .await?;
        let problem = problem.map(serde_json::from_value).transpose();
        let problem: Option<Problem> = crate::error::fits(problem, "meshes", "problem", mesh)?;
        Ok(problem.map_or(MeshState::Ready, MeshState::Failed))
    }
}
