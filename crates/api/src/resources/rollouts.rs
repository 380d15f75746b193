//! Handles requests for roll-outs, the operations that replace pods: starts and shows them.

use axum::Json;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::Response;
use meshwright_model::ClosedSet;
use meshwright_model::access::{Action, Scope};
use meshwright_model::ids::{MeshId, OperationId};
use meshwright_model::operation::{OperationKind, StepState};
use meshwright_model::rollout::ReplacedKind;
use meshwright_store::{RolloutItemFilter, Tx};
use meshwright_wire::{CreateRollout, Rollout, RolloutItemList, RolloutList};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use crate::error::{ApiError, Result};
use crate::request::caller::{Authenticated, Caller};
use crate::request::long_poll::WaitQuery;
use crate::request::mutation::{Body, MutationOutcome};
use crate::request::pagination::{ListRequest, Unfiltered};
use crate::request::params::{parse_id, require_referenced};
use crate::resources::meshes::{LockMode, authorized_mesh, queue_operation};
use crate::resources::operations::ended_or_awaits_person;

mod forecast;
pub(crate) mod policy;
pub(crate) mod verbs;
mod view;

use view::{item_view, rollout_view};

/// Start a roll-out
///
/// Starts an operation that restarts, in waves, each workload with a pod whose sidecar differs
/// from what its labels ask for, like `createRestart`. The answer has a forecast of the restarts
/// from the last observation of the mesh; with `validate_only` it is the plan before anything
/// moves. The roll-out can run while an upgrade is planned, blocked or complete; the upgrade then
/// waits for its end.
#[utoipa::path(post, path = "/v1/meshes/{mesh_id}/rollouts", operation_id = "createRollout", tag = "rollouts", request_body = CreateRollout,
    params(("mesh_id" = String, Path)),
    responses((status = 202, body = Rollout)))]
pub(crate) async fn create_rollout(
    Authenticated(caller, database): Authenticated,
    Path(mesh): Path<String>,
    body: Body<CreateRollout>,
) -> Result<Response> {
    let mut change = caller
        .begin_mutation(database, "createRollout", &body)
        .await?;
    let mesh = authorized_mesh(&caller, &mut change.tx, &mesh, Action::ChangeMeshes).await?;
    let wanted = policy::parse_policy(&mesh, &body.value, "")?;
    let kind = (OperationKind::Restart, LockMode::WithIdleUpgrade);
    let arguments = json!({ "policy": wanted });
    let id = queue_operation(&mut change, &caller, mesh.id, kind, arguments).await?;
    let observed = change.tx.meshes().last_observation(mesh.id).await?;
    let started = change.tx.operations().get_rollout(mesh.id, id).await?;
    let shown = Rollout {
        forecast: Some(forecast::forecast(&wanted, observed.as_ref())),
        ..rollout_view(&started)
    };
    change
        .commit_response(
            MutationOutcome::new(StatusCode::ACCEPTED, mesh.id)
                .with_location(format!("/v1/meshes/{}/rollouts/{id}", mesh.id)),
            &shown,
        )
        .await
}

/// List the roll-outs of a mesh
///
/// Returns the restarts of the mesh and the stages of its upgrades that replace pods, newest first.
#[utoipa::path(get, path = "/v1/meshes/{mesh_id}/rollouts", operation_id = "listRollouts", tag = "rollouts",
    params(("mesh_id" = String, Path), ("page_size" = Option<i64>, Query, description = "Number of items on a page, from 1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = RolloutList)))]
pub(crate) async fn list_rollouts(
    Authenticated(caller, database): Authenticated,
    Path(mesh): Path<String>,
    list: ListRequest<Unfiltered>,
) -> Result<Json<RolloutList>> {
    let id: MeshId = parse_id(&mesh, "mesh")?;
    caller.require_permission_on(Action::Read, &[Scope::Mesh(id)], "mesh")?;
    let page = list.page(&caller)?;
    let mut tx = database.begin_read().await?;
    let found = tx.operations().list_rollouts(id, page).await?;
    if found.is_empty() {
        // An empty list does not tell whether the mesh exists, so read the mesh. A list with
        // roll-outs proves that it does.
        authorized_mesh(&caller, &mut tx, &mesh, Action::Read).await?;
    }
    let (found, next_page_token) = list.split_page(&caller, found, |found| found.operation.id.0);
    Ok(Json(RolloutList {
        items: found.iter().map(rollout_view).collect(),
        next_page_token,
    }))
}

/// Get a roll-out's progress
///
/// Returns the roll-out with its policy, its waves and the numbers of workloads in each state. With
/// `wait_seconds` the answer waits until the roll-out has ended or needs a person.
#[utoipa::path(get, path = "/v1/meshes/{mesh_id}/rollouts/{rollout_id}", operation_id = "getRollout", tag = "rollouts",
    params(("mesh_id" = String, Path), ("rollout_id" = String, Path), ("wait_seconds" = Option<u64>, Query, description = "Seconds to wait for a change, from 0 to 60")),
    responses((status = 200, body = Rollout)))]
pub(crate) async fn get_rollout(
    Authenticated(caller, database): Authenticated,
    Path((mesh, rollout)): Path<(String, String)>,
    Query(wait): Query<WaitQuery>,
) -> Result<Json<Rollout>> {
    let waiting = wait.start_long_poll(&caller)?;
    let mut tx = database.begin_read().await?;
    loop {
        let found = authorized_rollout(&caller, &mut tx, &mesh, &rollout).await?;
        let shown = rollout_view(&found);
        if ended_or_awaits_person(&found.operation) {
            return Ok(Json(shown));
        }
        match waiting.next_poll(tx).await? {
            Some(next) => tx = next,
            None => return Ok(Json(shown)),
        }
    }
}

/// Returns the problem for a roll-out that the mesh does not have, or that the caller cannot see.
fn no_such_rollout() -> ApiError {
    ApiError::not_found("roll-out")
}

/// Reads the ids of a path to a roll-out, and refuses a mesh that the caller may not see.
fn authorized_path(caller: &Caller, mesh: &str, rollout: &str) -> Result<(MeshId, OperationId)> {
    let mesh: MeshId = mesh.parse().map_err(|_| no_such_rollout())?;
    let rollout: OperationId = rollout.parse().map_err(|_| no_such_rollout())?;
    caller.require_permission_on(Action::Read, &[Scope::Mesh(mesh)], "roll-out")?;
    Ok((mesh, rollout))
}

/// Reads a roll-out of a mesh that the caller may see.
async fn authorized_rollout(
    caller: &Caller,
    tx: &mut Tx<'_>,
    mesh: &str,
    rollout: &str,
) -> Result<meshwright_store::Rollout> {
    let (mesh, rollout) = authorized_path(caller, mesh, rollout)?;
    let found = tx.operations().get_rollout(mesh, rollout).await;
    require_referenced(found, no_such_rollout)
}

/// Filter of the list of a roll-out's workloads. A workload must meet each condition.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ItemFilter {
    state: Option<String>,
    cluster: Option<String>,
    namespace: Option<String>,
    kind: Option<String>,
    name: Option<String>,
}

impl ItemFilter {
    fn to_store_filter(&self) -> Result<RolloutItemFilter> {
        Ok(RolloutItemFilter {
            state: known_parameter::<StepState>("?state", self.state.as_deref())?,
            cluster: self.cluster.clone(),
            namespace: self.namespace.clone(),
            kind: known_parameter::<ReplacedKind>("?kind", self.kind.as_deref())?,
            name: self.name.clone(),
        })
    }
}

/// Reads a parameter whose value is of a closed set.
fn known_parameter<T: ClosedSet>(pointer: &str, sent: Option<&str>) -> Result<Option<T>> {
    let read = |text: &str| {
        let names: Vec<&str> = T::VALUES.iter().map(|value| value.name()).collect();
        T::from_name(text).ok_or_else(|| {
            ApiError::invalid_field(pointer, format!("it is one of {}", names.join(", ")))
        })
    };
    sent.map(read).transpose()
}

/// List the workloads of a roll-out
///
/// Returns the workloads that the roll-out has found so far, in the order of their numbers, with
/// the state and the times of each one.
#[utoipa::path(get, path = "/v1/meshes/{mesh_id}/rollouts/{rollout_id}/items", operation_id = "listRolloutItems", tag = "rollouts",
    params(("mesh_id" = String, Path), ("rollout_id" = String, Path),
        ("state" = Option<String>, Query, description = "State of the items: pending, started, done, failed, excluded or skipped"),
        ("cluster" = Option<String>, Query, description = "Name of the member cluster that holds the items"),
        ("namespace" = Option<String>, Query, description = "Namespace of the items"),
        ("kind" = Option<String>, Query, description = "Kind of the items: deployment, stateful_set, daemon_set or pod"),
        ("name" = Option<String>, Query, description = "Name of the workload"),
        ("page_size" = Option<i64>, Query, description = "Number of items on a page, from 1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = RolloutItemList)))]
pub(crate) async fn list_rollout_items(
    Authenticated(caller, database): Authenticated,
    Path((mesh, rollout)): Path<(String, String)>,
    list: ListRequest<ItemFilter>,
) -> Result<Json<RolloutItemList>> {
    let page = list.page(&caller)?;
    let filter = list.filter.to_store_filter()?;
    let place = authorized_path(&caller, &mesh, &rollout)?;
    let mut tx = database.begin_read().await?;
    let after = page.after.and_then(|key| i32::try_from(key.as_u128()).ok());
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let found = tx
        .operations()
        .list_rollout_items(place, &filter, after, limit)
        .await;
    let found = require_referenced(found, no_such_rollout)?;
    let (items, next_page_token) = list.split_page(&caller, found.items, |item| {
        Uuid::from_u128(item.number.unsigned_abs().into())
    });
    Ok(Json(RolloutItemList {
        items: items
            .iter()
            .filter_map(|item| item_view(item, &found.waves))
            .collect(),
        next_page_token,
    }))
}
