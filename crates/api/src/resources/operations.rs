//! Handles requests for operations, the machine actions that run step by step.

use axum::Json;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::Response;
use meshwright_model::ClosedSet;
use meshwright_model::access::{Action, Scope};
use meshwright_model::ids::{OperationId, UpgradeId};
use meshwright_model::operation::{OperationKind, OperationState, Signal};
use meshwright_model::problem::ProblemCode;
use meshwright_model::upgrade::Verb;
use meshwright_store::Tx;
use meshwright_wire::{Operation, OperationList};
use serde::Deserialize;

use crate::error::{ApiError, Result};
use crate::request::caller::{Authenticated, Caller};
use crate::request::long_poll::WaitQuery;
use crate::request::mutation::{Body, EmptyBody, MutationOutcome};
use crate::request::pagination::ListRequest;
use crate::request::params::parse_id;
use crate::resources::upgrades::is_requestable;
use crate::resources::views;

/// Filter of the list of operations: those of one upgrade, or all.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OperationFilter {
    upgrade_id: Option<String>,
}

/// List the tenant's operations
///
/// Returns the operations that the caller may see, newest first. With `upgrade_id` the list has the
/// stages of this upgrade only.
#[utoipa::path(get, path = "/v1/operations", operation_id = "listOperations", tag = "operations",
    params(("upgrade_id" = Option<String>, Query), ("page_size" = Option<i64>, Query, description = "Number of items on a page, from 1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = OperationList)))]
pub(crate) async fn list_operations(
    Authenticated(caller, database): Authenticated,
    list: ListRequest<OperationFilter>,
) -> Result<Json<OperationList>> {
    let upgrade: Option<UpgradeId> = list
        .filter
        .upgrade_id
        .as_ref()
        .map(|text| parse_id(text, "upgrade"))
        .transpose()?;
    let page = list.page(&caller)?;
    let found = database
        .begin_read()
        .await?
        .operations()
        .list_operations_with_counts(&caller.access_filter(), upgrade, page)
        .await?;
    let (found, next_page_token) = list.split_page(&caller, found, |(operation, _)| operation.id.0);
    let shown = found
        .iter()
        .map(|(operation, counts)| views::operation(operation, *counts));
    Ok(Json(OperationList {
        items: shown.collect(),
        next_page_token,
    }))
}

/// Reads an operation, and refuses it if the caller may not perform the action on it.
async fn authorized_operation(
    caller: &Caller,
    tx: &mut Tx<'_>,
    id: OperationId,
    action: Action,
) -> Result<meshwright_store::Operation> {
    let found = tx.operations().get_operation(id).await?;
    caller.require_permission_on(action, &operation_scopes(&found), "operation")?;
    Ok(found)
}

/// Returns the scopes that an operation belongs to: its mesh and its cluster.
fn operation_scopes(operation: &meshwright_store::Operation) -> Vec<Scope> {
    [
        operation.mesh.map(Scope::Mesh),
        operation.cluster.map(Scope::Cluster),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Returns the action that a caller must be allowed to perform in order to send a verb to an
/// operation.
fn required_action(kind: OperationKind) -> Action {
    match kind {
        OperationKind::RegisterCluster
        | OperationKind::RenewCredential
        | OperationKind::DeregisterCluster => Action::ChangeClusters,
        _ => Action::ChangeMeshes,
    }
}

/// Get an operation's progress
///
/// Returns the operation with its plan and the result of each step. With `wait_seconds` the answer
/// waits until the operation has ended or needs a person. An operation that is paused, and that was
/// asked to continue since then, is waited for.
#[utoipa::path(get, path = "/v1/operations/{operation_id}", operation_id = "getOperation", tag = "operations",
    params(("operation_id" = String, Path), ("wait_seconds" = Option<u64>, Query, description = "Seconds to wait for a change, from 0 to 60")),
    responses((status = 200, body = Operation)))]
pub(crate) async fn get_operation(
    Authenticated(caller, database): Authenticated,
    Path(operation): Path<String>,
    Query(wait): Query<WaitQuery>,
) -> Result<Json<Operation>> {
    let operation: OperationId = parse_id(&operation, "operation")?;
    let waiting = wait.start_long_poll(&caller)?;
    let mut tx = database.begin_read().await?;
    let shown = loop {
        let found = authorized_operation(&caller, &mut tx, operation, Action::Read).await?;
        let shown =
            views::operation_with_steps(&found, &tx.operations().list_steps(operation).await?);
        if ended_or_awaits_person(&found) {
            break shown;
        }
        match waiting.next_poll(tx).await? {
            Some(next) => tx = next,
            None => break shown,
        }
    };
    Ok(Json(shown))
}

/// Returns true if the operation does not continue by itself: it has ended, or it needs a person
/// and no verb was sent to it since.
pub(crate) fn ended_or_awaits_person(operation: &meshwright_store::Operation) -> bool {
    operation.state.is_terminal()
        || (operation.state.needs_attention() && operation.pending_signals.is_empty())
}

/// Send a verb to an operation
///
/// Sends `pause`, `resume`, `retry`, `cancel` or `skip` to an operation that is no stage of an
/// upgrade. With `skip` a restart goes on without the workloads that it could not restart. The answer shows the verb in `pending_verbs` until a worker takes it up. Verbs for a stage of an
/// upgrade are sent to the upgrade.
#[utoipa::path(post, path = "/v1/operations/{operation_id}/{verb}", operation_id = "askOperation", tag = "operations",
    params(("operation_id" = String, Path), ("verb" = String, Path)),
    responses((status = 202, body = Operation)))]
pub(crate) async fn operation_action(
    Authenticated(caller, database): Authenticated,
    Path((operation, verb)): Path<(String, String)>,
    body: Body<EmptyBody>,
) -> Result<Response> {
    let operation: OperationId = parse_id(&operation, "operation")?;
    let wish = Signal::from_name(&verb).ok_or_else(|| ApiError::not_found("verb"))?;
    let mut change = caller
        .begin_mutation(database, "askOperation", &body)
        .await?;
    let found = authorized_operation(&caller, &mut change.tx, operation, Action::Read).await?;
    caller.require_permission_on(
        required_action(found.kind),
        &operation_scopes(&found),
        "operation",
    )?;
    if let Some(upgrade) = found.upgrade {
        return Err(stage_of_upgrade_error(
            &change.tx.upgrades().get_upgrade(upgrade).await?,
            wish,
        ));
    }
    check_signal(&found, wish)?;
    change
        .tx
        .operations()
        .signal_operation(operation, wish, caller.app.clock.now())
        .await?;
    let asked = change.tx.operations().get_operation(operation).await?;
    let shown =
        views::operation_with_steps(&asked, &change.tx.operations().list_steps(operation).await?);
    change
        .commit_response(
            MutationOutcome::new(StatusCode::ACCEPTED, operation)
                .with_location(format!("/v1/operations/{operation}")),
            &shown,
        )
        .await
}

/// Checks that the state of an operation, which is no stage of an upgrade, takes a signal.
pub(crate) fn check_signal(found: &meshwright_store::Operation, wish: Signal) -> Result<()> {
    if found.state.is_terminal() {
        return Err(ended_error(&found.state));
    }
    if wish == Signal::Skip && !found.state.is_partial_rollout() {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::InvalidTransition,
            "Only a restart that is paused with workloads left can go on without them.",
            "See what it waits for with `meshwright operation get ID`.",
        ));
    }
    Ok(())
}

/// Builds the problem for a verb that was sent to an operation in its last state.
pub(crate) fn ended_error(state: &OperationState) -> ApiError {
    ApiError::new(
        StatusCode::CONFLICT,
        ProblemCode::OperationEnded,
        format!("It has {}.", state.as_str()),
        "There is nothing left to ask of it.",
    )
}

/// Builds the problem for a verb that was sent to a stage of an upgrade. The hint names the
/// commands that the upgrade takes now.
fn stage_of_upgrade_error(upgrade: &meshwright_store::Upgrade, wish: Signal) -> ApiError {
    let allowed: Vec<&str> = upgrade
        .state
        .allowed_verbs()
        .into_iter()
        .filter(|verb| is_requestable(*verb))
        .map(Verb::as_str)
        .collect();
    let command = |verb: &str| format!("`meshwright upgrade {verb} {}`", upgrade.id);
    let hint = if allowed.contains(&wish.as_str()) {
        format!("Use {}.", command(wish.as_str()))
    } else if allowed.is_empty() {
        format!(
            "The upgrade is {}: there is nothing left to ask of it.",
            upgrade.state.as_str()
        )
    } else {
        let commands: Vec<String> = allowed.iter().map(|verb| command(verb)).collect();
        format!(
            "The upgrade is {} and takes now: {}.",
            upgrade.state.as_str(),
            commands.join(", ")
        )
    };
    ApiError::new(
        StatusCode::CONFLICT,
        ProblemCode::StageOfAnUpgrade,
        "This operation is a stage of an upgrade.",
        hint,
    )
}
