//! Applies the end of an operation without an upgrade to its mesh or its cluster.
//!
//! This happens in the transaction that ends the operation, for every way in which it can end. So
//! no mesh stays `creating` or `deleting`, no cluster stays `registering`, no mesh lock stays
//! taken, and no submitted kubeconfig stays stored after its operation.

use jiff::Timestamp;
use meshwright_model::ids::{ClusterId, MeshId, OperationId};
use meshwright_model::operation::{OperationKind, OperationState, Problem};
use meshwright_model::problem::ProblemCode;

use crate::StoreError;
use crate::db::query_areas::OperationQueries;
use crate::fleet::mesh::MeshState;

/// Hint of the problem of a mesh that may lack parts, because its creation or deletion was
/// cancelled.
const INCOMPLETE_MESH_HINT: &str =
    "Build it with `meshwright mesh retry`, or remove what is there with `meshwright mesh delete`.";

/// Hint of the problem of a registration that was cancelled.
const CANCELLED_REGISTRATION_HINT: &str =
    "Forget the cluster with `meshwright cluster delete`, then register it again if you want it.";

impl OperationQueries<'_, '_> {
    /// Moves the mesh of an operation without an upgrade to the state that the operation's end
    /// leads to, and frees the mesh lock that the operation held.
    pub(crate) async fn apply_end_to_mesh(
        &mut self,
        operation: OperationId,
        kind: OperationKind,
        mesh: MeshId,
        end: &OperationState,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if let Some(state) = self.mesh_state_after(operation, kind, mesh, end).await? {
            self.tx.meshes().set_mesh_state(mesh, &state, now).await?;
            match (kind, &state) {
                (_, MeshState::Deleted) => {
                    self.tx
                        .meshes()
                        .copy_leftovers_to_mesh(mesh, operation)
                        .await?;
                }
                (OperationKind::CreateMesh, MeshState::Ready) => {
                    self.tx.meshes().clear_mesh_leftovers(mesh).await?;
                }
                _ => {}
            }
        }
        self.tx
            .meshes()
            .free_mesh_lock(mesh, &operation.to_string())
            .await
    }

    /// Applies the end of an operation to its cluster. A deregistration gives the cluster back. A
    /// registration or renewal that did not succeed deletes the submitted kubeconfig, and a cluster
    /// that was never ready gives up its identity.
    pub(crate) async fn apply_end_to_cluster(
        &mut self,
        operation: OperationId,
        kind: OperationKind,
        cluster: ClusterId,
        end: &OperationState,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if !matches!(
            kind,
            OperationKind::RegisterCluster | OperationKind::RenewCredential
        ) {
            return self.tx.clusters().revert_deregistration(operation).await;
        }
        let problem = match end {
            OperationState::Failed { problem } => problem.clone(),
            OperationState::Cancelled | OperationState::Superseded => Problem::new(
                ProblemCode::RegistrationCancelled,
                "The registration was cancelled.",
                CANCELLED_REGISTRATION_HINT,
            ),
            _ => return Ok(()),
        };
        match self
            .tx
            .clusters()
            .record_credential_failure(cluster, &problem, now)
            .await
        {
            // The cluster was deleted meanwhile, or a deregistration has removed it.
            Err(StoreError::NotFound { .. }) => Ok(()),
            refused => refused,
        }
    }

    async fn mesh_state_after(
        &mut self,
        operation: OperationId,
        kind: OperationKind,
        mesh: MeshId,
        end: &OperationState,
    ) -> Result<Option<MeshState>, StoreError> {
        let problem = match (kind, end) {
            (OperationKind::CreateMesh, OperationState::Succeeded) => {
                return Ok(Some(MeshState::Ready));
            }
            (OperationKind::DeleteMesh, OperationState::Succeeded) => {
                return Ok(Some(MeshState::Deleted));
            }
            (
                OperationKind::CreateMesh | OperationKind::DeleteMesh,
                OperationState::Failed { problem },
            ) => problem.clone(),
            (OperationKind::CreateMesh, OperationState::Cancelled) => Problem::new(
                ProblemCode::CreationCancelled,
                "The creation was cancelled before the mesh was ready.",
                INCOMPLETE_MESH_HINT,
            ),
            (OperationKind::DeleteMesh, OperationState::Cancelled) => Problem::new(
                ProblemCode::DeletionCancelled,
                "The deletion was cancelled after parts of the mesh were removed.",
                INCOMPLETE_MESH_HINT,
            ),
            _ => return Ok(None),
        };
        if kind == OperationKind::DeleteMesh && !self.any_step_started(operation).await? {
            return self.mesh_state_before_deletion(mesh).await.map(Some);
        }
        Ok(Some(MeshState::Failed(problem)))
    }

    /// Returns true when a step of the operation has recorded its start. From then on a cluster may
    /// hold the step's effect.
    async fn any_step_started(&mut self, operation: OperationId) -> Result<bool, StoreError> {
        let found = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM item_facts WHERE tenant_id = $1 AND operation_id = $2 AND fact ->> 'fact' = 'started') AS "any!""#,
            self.tx.tenant.0,
            operation.0
        );
        Ok(found.fetch_one(&mut *self.tx.inner).await?)
    }

    async fn mesh_state_before_deletion(&mut self, mesh: MeshId) -> Result<MeshState, StoreError> {
        let problem = sqlx::query_scalar!(
            "SELECT problem FROM meshes WHERE tenant_id = $1 AND mesh_id = $2",
            self.tx.tenant.0,
            mesh.0
        )
        .fetch_one(&mut *self.tx.inner)
        .await?;
        let problem = problem.map(serde_json::from_value).transpose();
        let problem: Option<Problem> =
            crate::error::decode_column(problem, "meshes", "problem", mesh)?;
        Ok(problem.map_or(MeshState::Ready, MeshState::Failed))
    }
}
