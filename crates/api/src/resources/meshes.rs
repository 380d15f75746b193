//! Handles requests for meshes: lists, shows and changes them, and queues their operations.

use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use meshwright_model::access::{Action, Scope};
use meshwright_model::ids::{MeshId, OperationId};
use meshwright_model::operation::OperationKind;
use meshwright_store::{MeshState, NewOperation, Tx};
use meshwright_wire::{ChangeMesh, MeshList};
use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::request::caller::{Authenticated, Caller};
use crate::request::mutation::{Body, Mutation, MutationOutcome};
use crate::request::pagination::ListRequest;
use crate::request::params::{ResourceFilter, check_if_match, etag, merge_metadata, parse_id};
use crate::resources::views;

pub(crate) mod creation;
pub(crate) mod data_plane;
pub(crate) mod deletion;
pub(crate) mod upgrade_options;

/// How an operation holds the mesh lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockMode {
    /// The operation needs the mesh lock for itself, because it changes the same things as an
    /// upgrade.
    Exclusive,
    /// The operation may run while an upgrade that is planned, blocked or complete holds the mesh
    /// lock. Such an upgrade changes nothing, and it waits for the end of the operation.
    WithIdleUpgrade,
}

/// Queues an operation on a mesh that is no stage of an upgrade, and takes the mesh lock for it.
pub(crate) async fn queue_operation(
    change: &mut Mutation<'_>,
    caller: &Caller,
    mesh: MeshId,
    (kind, beside): (OperationKind, LockMode),
    arguments: Value,
) -> Result<OperationId> {
    let id = OperationId(caller.app.clock.new_uuid());
    match beside {
        LockMode::WithIdleUpgrade => change.tx.meshes().acquire_data_plane_lock(mesh, id).await?,
        LockMode::Exclusive => {
            change
                .tx
                .meshes()
                .acquire_mesh_lock(mesh, &id.to_string())
                .await?;
        }
    }
    let due_in = std::time::Duration::ZERO;
    let new = NewOperation {
        id,
        kind,
        mesh: Some(mesh),
        cluster: None,
        upgrade: None,
        arguments,
        due_in,
    };
    change
        .tx
        .operations()
        .create_operation(&new, caller.app.clock.now())
        .await?;
    Ok(id)
}

/// Queues an operation on a mesh as [`queue_operation`] does, and answers with the operation.
async fn start_operation(
    mut change: Mutation<'_>,
    caller: &Caller,
    mesh: MeshId,
    kind: (OperationKind, LockMode),
    arguments: Value,
) -> Result<Response> {
    let id = queue_operation(&mut change, caller, mesh, kind, arguments).await?;
    let shown = views::operation(&change.tx.operations().get_operation(id).await?, (0, 0));
    change
        .commit_response(
            MutationOutcome::new(StatusCode::ACCEPTED, mesh)
                .with_location(format!("/v1/operations/{id}")),
            &shown,
        )
        .await
}

/// List the tenant's meshes
///
/// Returns the meshes that the caller may see, from the oldest to the newest. With `show_deleted`
/// the list includes deleted meshes.
#[utoipa::path(get, path = "/v1/meshes", operation_id = "listMeshes", tag = "meshes",
    params(("name" = Option<String>, Query), ("label_selector" = Option<String>, Query, description = "Labels that the items must have, for example team=payments,tier!=test,!old"),
        ("show_deleted" = Option<bool>, Query), ("page_size" = Option<i64>, Query, description = "Number of items on a page, from 1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = MeshList)))]
pub(crate) async fn list_meshes(
    Authenticated(caller, database): Authenticated,
    list: ListRequest<ResourceFilter>,
) -> Result<Json<MeshList>> {
    let found = database
        .begin_read()
        .await?
        .meshes()
        .list_meshes(
            &caller.access_filter(),
            &list.filter.to_list_filter()?,
            list.page(&caller)?,
        )
        .await?;
    let (shown, next_page_token) = list.split_page(&caller, found, |mesh| mesh.id.0);
    Ok(Json(MeshList {
        items: shown.iter().map(views::mesh).collect(),
        next_page_token,
    }))
}

/// Get a mesh's state
///
/// Returns the mesh with its state, revisions and members. The `ETag` changes with each change by
/// `changeMesh`.
#[utoipa::path(get, path = "/v1/meshes/{mesh_id}", operation_id = "getMesh", tag = "meshes",
    params(("mesh_id" = String, Path)), responses((status = 200, body = meshwright_wire::Mesh)))]
pub(crate) async fn get_mesh(
    Authenticated(caller, database): Authenticated,
    Path(mesh): Path<String>,
) -> Result<Response> {
    let mesh = authorized_mesh(
        &caller,
        &mut database.begin_read().await?,
        &mesh,
        Action::Read,
    )
    .await?;
    Ok((
        [(header::ETAG, etag(mesh.generation))],
        Json(views::mesh(&mesh)),
    )
        .into_response())
}

/// Change a mesh's metadata
///
/// Changes the display name, the labels and the protection from deletion. A field that is left out
/// keeps its value. With `If-Match` and an `ETag` from an earlier answer the request is refused if
/// the mesh has changed since.
#[utoipa::path(patch, path = "/v1/meshes/{mesh_id}", operation_id = "changeMesh", tag = "meshes", request_body = ChangeMesh,
    params(("mesh_id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = meshwright_wire::Mesh)))]
pub(crate) async fn change_mesh(
    Authenticated(caller, database): Authenticated,
    Path(mesh): Path<String>,
    headers: HeaderMap,
    body: Body<ChangeMesh>,
) -> Result<Response> {
    let mut change = caller.begin_mutation(database, "changeMesh", &body).await?;
    let seen = authorized_mesh(&caller, &mut change.tx, &mesh, Action::ChangeMeshes).await?;
    check_if_match(&headers, seen.generation)?;
    let wanted = &body.value;
    let written = merge_metadata(
        &seen.metadata,
        wanted.display_name.as_ref(),
        wanted.labels.as_ref(),
    )?;
    let protection = wanted
        .deletion_protection
        .unwrap_or(seen.deletion_protection);
    change
        .tx
        .meshes()
        .update_mesh_metadata(&seen, &written, protection)
        .await?;
    let changed = change.tx.meshes().get_mesh(seen.id).await?;
    let done = MutationOutcome::new(StatusCode::OK, seen.id)
        .with_etag(etag(changed.generation))
        .with_before(&views::mesh(&seen));
    change.commit_response(done, &views::mesh(&changed)).await
}

/// Reads a mesh that is not deleted, and refuses it if the caller may not perform the action on it.
pub(crate) async fn authorized_mesh(
    caller: &Caller,
    tx: &mut Tx<'_>,
    text: &str,
    action: Action,
) -> Result<meshwright_store::Mesh> {
    let mesh = tx.meshes().get_mesh(parse_id(text, "mesh")?).await?;
    caller.require_permission_on(action, &[Scope::Mesh(mesh.id)], "mesh")?;
    if mesh.state == MeshState::Deleted {
        Err(ApiError::not_found("mesh"))
    } else {
        Ok(mesh)
    }
}
