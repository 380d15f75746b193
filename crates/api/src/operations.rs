//! Operations: what machines do, step by step.

use axum::Json;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use model::ids::{OperationId, UpgradeId};
use model::operation::Wish;
use serde::Deserialize;
use wire::{Operation, OperationList, Problem};

use crate::auth::Caller;
use crate::problem::{ApiError, Result};
use crate::reply::id;
use crate::upgrades::Wait;
use crate::views;

const PAGE: i64 = 50;
const LARGEST_PAGE: i64 = 500;

/// How a list is paged and filtered.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Paging {
    page_size: Option<i64>,
    page_token: Option<String>,
    upgrade_id: Option<String>,
}

/// List operations
///
/// Newest first.
#[utoipa::path(get, path = "/v1/operations", operation_id = "listOperations", tag = "operations",
    params(("page_size" = Option<i64>, Query, description = "1 to 500"), ("page_token" = Option<String>, Query), ("upgrade_id" = Option<String>, Query)),
    responses((status = 200, body = OperationList), (status = "default", body = Problem)))]
pub(crate) async fn list_operations(caller: Caller, Query(paging): Query<Paging>) -> Result<Json<OperationList>> {
    let bad = |name: &str, message: &str| ApiError::field(&format!("?{name}"), message);
    let size = paging.page_size.unwrap_or(PAGE);
    if !(1..=LARGEST_PAGE).contains(&size) {
        return Err(bad("page_size", "1 to 500"));
    }
    let before: Option<OperationId> = paging
        .page_token
        .map(|token| token.parse().map_err(|_| bad("page_token", "give back what the last page said")))
        .transpose()?;
    let upgrade: Option<UpgradeId> = paging.upgrade_id.map(|text| id(&text, "upgrade")).transpose()?;
    let mut tx = caller.begin().await?;
    let found = tx.operations(upgrade, before, size + 1).await?;
    let more = i64::try_from(found.len()).is_ok_and(|count| count > size);
    let mut items = Vec::new();
    for operation in found.iter().take(usize::try_from(size).unwrap_or(0)) {
        let steps = tx.items(operation.id).await?;
        items.push(views::operation(operation, &steps, false));
    }
    let next_page_token = items.last().filter(|_| more).map(|last| last.id.clone());
    Ok(Json(OperationList { items, next_page_token }))
}

/// Get an operation
///
/// With its plan and what became of each step. `wait_seconds` waits until it has ended or needs a person.
#[utoipa::path(get, path = "/v1/operations/{operation_id}", operation_id = "getOperation", tag = "operations",
    params(("operation_id" = String, Path), ("wait_seconds" = Option<u64>, Query, description = "0 to 60")),
    responses((status = 200, body = Operation), (status = "default", body = Problem)))]
pub(crate) async fn get_operation(
    caller: Caller,
    Path(operation): Path<String>,
    Query(wait): Query<Wait>,
) -> Result<Json<Operation>> {
    let operation: OperationId = id(&operation, "operation")?;
    let waiting = wait.begin();
    let shown = loop {
        let mut tx = caller.begin().await?;
        let found = tx.operation(operation).await?;
        let shown = views::operation(&found, &tx.items(operation).await?, true);
        drop(tx);
        if found.state.done() || found.state.needs_attention() || !waiting.again().await {
            break shown;
        }
    };
    Ok(Json(shown))
}

/// Ask something of a lone operation
///
/// `pause`, `resume`, `retry` or `cancel`. Stages of an upgrade are asked through the upgrade.
#[utoipa::path(post, path = "/v1/operations/{operation_id}/{verb}", operation_id = "askOperation", tag = "operations",
    params(("operation_id" = String, Path), ("verb" = String, Path)), responses((status = 202, body = Operation), (status = "default", body = Problem)))]
pub(crate) async fn ask_operation(
    caller: Caller,
    Path((operation, verb)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Operation>)> {
    caller.may_change()?;
    let operation: OperationId = id(&operation, "operation")?;
    let wish: Wish = serde_json::from_value(serde_json::Value::from(verb)).map_err(|_| ApiError::not_found("verb"))?;
    let mut tx = caller.begin().await?;
    let found = tx.operation(operation).await?;
    if let Some(upgrade) = found.upgrade {
        let hint = format!("POST /v1/upgrades/{upgrade}/{}", wish.as_str());
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "stage_of_an_upgrade",
            "This operation is a stage of an upgrade.",
            hint,
        ));
    }
    if found.state.done() {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "operation_ended",
            format!("It has {}.", found.state.as_str()),
            "There is nothing left to ask of it.",
        ));
    }
    tx.wish(operation, wish, caller.app.clock.now()).await?;
    let shown = views::operation(&found, &tx.items(operation).await?, true);
    tx.commit().await?;
    Ok((StatusCode::ACCEPTED, Json(shown)))
}
