//! Deletes meshes, and brings deleted and failed meshes back.

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use meshwright_model::access::{Action, Scope};
use meshwright_model::operation::OperationKind;
use meshwright_model::problem::ProblemCode;
use meshwright_model::quota::QuotaResource;
use meshwright_store::{ClusterState, MeshState, StoreError};
use meshwright_wire::{DeleteOptions, Operation};
use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::request::caller::Authenticated;
use crate::request::mutation::{Body, EmptyBody};
use crate::request::params::{check_if_match, parse_id};
use crate::resources::leaving;
use crate::resources::meshes::{LockMode, authorized_mesh, start_operation};

/// Delete a mesh that is unused
///
/// Starts an operation that waits until no workload uses the mesh and then removes it; remove the
/// injection labels and restart the workloads first. The mesh can be restored for 30 days. With
/// `force` and a reason, a member that does not answer is left behind, and the operation and the
/// deleted mesh show what stays there. `force` also replaces a deletion that is under way. It also
/// abandons an upgrade that is paused while a member is unreachable.
#[utoipa::path(delete, path = "/v1/meshes/{mesh_id}", operation_id = "deleteMesh", tag = "meshes", request_body = DeleteOptions,
    params(("mesh_id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 202, body = Operation)))]
pub(crate) async fn delete_mesh(
    Authenticated(caller, database): Authenticated,
    Path(mesh): Path<String>,
    headers: HeaderMap,
    body: Body<DeleteOptions>,
) -> Result<Response> {
    let reason = leaving::force_reason(&body.value)?;
    let mut change = caller.begin_mutation(database, "deleteMesh", &body).await?;
    let mesh = authorized_mesh(&caller, &mut change.tx, &mesh, Action::ChangeMeshes).await?;
    check_if_match(&headers, mesh.generation)?;
    if mesh.deletion_protection {
        let hint = "Set deletion_protection to false first, if you are sure.";
        let detail = "The mesh is protected from deletion.";
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::DeletionProtected,
            detail,
            hint,
        ));
    }
    let now = caller.app.clock.now();
    if let Some(reason) = reason {
        change
            .tx
            .meshes()
            .preempt_for_deletion(mesh.id, &caller.principal, caller.app.clock.as_ref())
            .await?;
        leaving::check_no_upgrade_under_way(&mut change.tx, mesh.id).await?;
        change.record_forced(mesh.id, reason);
    }
    change
        .tx
        .meshes()
        .set_mesh_state(mesh.id, &MeshState::Deleting, now)
        .await?;
    start_operation(
        change,
        &caller,
        mesh.id,
        (OperationKind::DeleteMesh, LockMode::Exclusive),
        meshwright_store::force_arguments(reason),
    )
    .await
}

/// Restore a deleted mesh
///
/// Starts an operation that brings the mesh back with its id, its version, its certificate
/// authority and the clusters that it had. This is possible for 30 days after the deletion.
#[utoipa::path(post, path = "/v1/meshes/{mesh_id}/undelete", operation_id = "undeleteMesh", tag = "meshes",
    params(("mesh_id" = String, Path)), responses((status = 202, body = Operation)))]
pub(crate) async fn undelete_mesh(
    Authenticated(caller, database): Authenticated,
    Path(mesh): Path<String>,
    body: Body<EmptyBody>,
) -> Result<Response> {
    let mut change = caller
        .begin_mutation(database, "undeleteMesh", &body)
        .await?;
    let mesh = change
        .tx
        .meshes()
        .get_mesh(parse_id(&mesh, "mesh")?)
        .await?;
    caller.require_permission_on(Action::ChangeMeshes, &[Scope::Mesh(mesh.id)], "mesh")?;
    let conflict =
        |code, said: String, hint| Err(ApiError::new(StatusCode::CONFLICT, code, said, hint));
    if mesh.state != MeshState::Deleted {
        return conflict(
            ProblemCode::MeshNotDeleted,
            format!("{} is not deleted.", mesh.name),
            "There is nothing to bring back.",
        );
    }
    let remains = change.tx.meshes().get_deleted_mesh(mesh.id).await?;
    if !remains.has_authority {
        let hint = "Create another mesh; its workloads get certificates of another authority.";
        return conflict(
            ProblemCode::UndeleteTooLate,
            format!("{} was deleted more than 30 days ago.", mesh.name),
            hint,
        );
    }
    for member in &remains.members {
        match change.tx.clusters().get_cluster(*member).await {
            Ok(cluster) if cluster.state == ClusterState::Ready => {}
            Ok(cluster) => {
                let hint = "See what is wrong with the cluster, then try again.";
                return conflict(
                    ProblemCode::ClusterNotReady,
                    format!("{} is not ready.", cluster.name),
                    hint,
                );
            }
            Err(StoreError::NotFound { .. }) => {
                let hint = "Create another mesh from the clusters that there are.";
                return conflict(
                    ProblemCode::ClusterGone,
                    format!("{member} was a member and was forgotten since."),
                    hint,
                );
            }
            Err(error) => return Err(error.into()),
        }
    }
    change
        .tx
        .tenants()
        .check_quota(QuotaResource::Meshes)
        .await?;
    change
        .tx
        .meshes()
        .undelete_mesh(mesh.id, &remains.members)
        .await?;
    start_operation(
        change,
        &caller,
        mesh.id,
        (OperationKind::CreateMesh, LockMode::Exclusive),
        Value::Null,
    )
    .await
}

/// Build a failed mesh again
///
/// Starts an operation that creates the missing parts of the mesh and keeps the existing ones. A
/// mesh is `failed` when its creation or its deletion ended early.
#[utoipa::path(post, path = "/v1/meshes/{mesh_id}/retry", operation_id = "retryMesh", tag = "meshes",
    params(("mesh_id" = String, Path)), responses((status = 202, body = Operation)))]
pub(crate) async fn retry_mesh(
    Authenticated(caller, database): Authenticated,
    Path(mesh): Path<String>,
    body: Body<EmptyBody>,
) -> Result<Response> {
    let mut change = caller.begin_mutation(database, "retryMesh", &body).await?;
    let mesh = authorized_mesh(&caller, &mut change.tx, &mesh, Action::ChangeMeshes).await?;
    if !matches!(mesh.state, MeshState::Failed(_)) {
        let said = format!("{} is {}.", mesh.name, mesh.state.as_str());
        let hint = "Only a mesh that is failed can be built again; `meshwright operation list` shows what is under way.";
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::MeshNotFailed,
            said,
            hint,
        ));
    }
    if mesh.target.is_some() {
        let said = format!(
            "An upgrade of {} was abandoned half-way: both revisions may be there.",
            mesh.name
        );
        let hint = "Remove the mesh with `meshwright mesh delete`, then create another one.";
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::UpgradeAbandoned,
            said,
            hint,
        ));
    }
    change
        .tx
        .meshes()
        .set_mesh_state(mesh.id, &MeshState::Creating, caller.app.clock.now())
        .await?;
    start_operation(
        change,
        &caller,
        mesh.id,
        (OperationKind::CreateMesh, LockMode::Exclusive),
        Value::Null,
    )
    .await
}
