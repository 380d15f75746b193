//! Handles verbs for a roll-out, and for one workload of it.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use meshwright_model::ClosedSet;
use meshwright_model::access::{Action, Scope};
use meshwright_model::ids::UpgradeId;
use meshwright_model::operation::{OperationState, RequestedSignal, Signal, StepState};
use meshwright_model::problem::ProblemCode;
use meshwright_model::upgrade::{UpgradeState, Verb};
use meshwright_store::{Operation, RolloutItemFilter, Tx};
use meshwright_wire::{AskRollout, Rollout};
use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::request::caller::{Authenticated, Caller};
use crate::request::mutation::{Body, Mutation, MutationOutcome};
use crate::resources::operations::{check_signal, ended_error};
use crate::resources::rollouts::authorized_rollout;
use crate::resources::rollouts::view::rollout_view;

/// Send a verb to a roll-out
///
/// Sends `pause`, `resume`, `cancel`, `retry` or `skip` to a roll-out. For a stage of an upgrade
/// the verb is sent to the upgrade, and needs the same role. With `item`, `retry` and `skip` are
/// about one workload: `retry` restarts it once more after a failure, or looks again whether a
/// restart reaches it now, and `skip` goes on without it.
#[utoipa::path(post, path = "/v1/meshes/{mesh_id}/rollouts/{rollout_id}/{verb}", operation_id = "askRollout", tag = "rollouts", request_body = AskRollout,
    params(("mesh_id" = String, Path), ("rollout_id" = String, Path), ("verb" = String, Path)),
    responses((status = 202, body = Rollout)))]
pub(crate) async fn rollout_action(
    Authenticated(caller, database): Authenticated,
    Path((mesh, rollout, verb)): Path<(String, String, String)>,
    body: Body<AskRollout>,
) -> Result<Response> {
    let signal = Signal::from_name(&verb).ok_or_else(|| ApiError::not_found("verb"))?;
    let item = body.value.item;
    if item.is_some() && !matches!(signal, Signal::Retry | Signal::Skip) {
        return Err(ApiError::invalid_field(
            "/item",
            "only retry and skip are about one workload",
        ));
    }
    let mut change = caller.begin_mutation(database, "askRollout", &body).await?;
    let found = authorized_rollout(&caller, &mut change.tx, &mesh, &rollout)
        .await?
        .operation;
    let action = match found.upgrade {
        Some(_) => Action::Upgrade,
        None => Action::ChangeMeshes,
    };
    let scopes: Vec<Scope> = found.mesh.map(Scope::Mesh).into_iter().collect();
    caller.require_permission_on(action, &scopes, "roll-out")?;
    let asked = match (item, found.upgrade) {
        (Some(item), _) => ask_item(&caller, &mut change, &found, signal, item).await,
        (None, Some(upgrade)) => ask_stage(&caller, &mut change, &found, (upgrade, signal)).await,
        (None, None) => ask_restart(&caller, &mut change, &found, signal).await,
    };
    asked?;
    let id = found.id;
    let shown = authorized_rollout(&caller, &mut change.tx, &mesh, &rollout).await?;
    change
        .commit_response(
            MutationOutcome::new(StatusCode::ACCEPTED, id)
                .with_location(format!("/v1/meshes/{mesh}/rollouts/{id}")),
            &rollout_view(&shown),
        )
        .await
}

/// Sends a signal to a restart, which is no stage of an upgrade.
async fn ask_restart(
    caller: &Caller,
    change: &mut Mutation<'_>,
    found: &Operation,
    signal: Signal,
) -> Result<()> {
    check_signal(found, signal)?;
    let now = caller.app.clock.now();
    let mut operations = change.tx.operations();
    Ok(operations.signal_operation(found.id, signal, now).await?)
}

/// Sends a verb to the upgrade that the roll-out is a stage of.
async fn ask_stage(
    caller: &Caller,
    change: &mut Mutation<'_>,
    found: &Operation,
    (upgrade, signal): (UpgradeId, Signal),
) -> Result<()> {
    let before = change.tx.upgrades().lock_upgrade(upgrade).await?;
    if before.operation != Some(found.id) {
        return Err(ended_error(&found.state));
    }
    let verb = Verb::from_name(signal.as_str()).ok_or_else(|| ApiError::not_found("verb"))?;
    let clock = caller.app.clock.as_ref();
    let actor = (verb, caller.principal.as_str());
    let mut upgrades = change.tx.upgrades();
    upgrades
        .apply_verb(upgrade, actor, None, Value::Null, clock)
        .await?;
    Ok(())
}

/// Sends a signal to one workload of a roll-out.
async fn ask_item(
    caller: &Caller,
    change: &mut Mutation<'_>,
    found: &Operation,
    signal: Signal,
    item: u32,
) -> Result<()> {
    // A worker that pauses the stage locks the upgrade, so the state that is read after this lock
    // stays until the signal is added.
    let upgrade = match found.upgrade {
        Some(upgrade) => Some(change.tx.upgrades().lock_upgrade(upgrade).await?),
        None => None,
    };
    let found = change.tx.operations().get_operation(found.id).await?;
    let number = check_item(&mut change.tx, &found, signal, item).await?;
    let clock = caller.app.clock.as_ref();
    let paused = upgrade.filter(|upgrade| matches!(upgrade.state, UpgradeState::Paused { .. }));
    if let Some(upgrade) = paused {
        let verb = Verb::from_name(signal.as_str()).ok_or_else(|| ApiError::not_found("verb"))?;
        let actor = (verb, caller.principal.as_str());
        let mut upgrades = change.tx.upgrades();
        upgrades
            .apply_verb_to_item(upgrade.id, actor, number, clock)
            .await?;
        return Ok(());
    }
    let wish = RequestedSignal {
        signal,
        item: Some(number),
    };
    let mut operations = change.tx.operations();
    Ok(operations
        .signal_operation(found.id, wish, clock.now())
        .await?)
}

/// Checks that a signal to one workload would have an effect, and returns its number.
async fn check_item(tx: &mut Tx<'_>, found: &Operation, signal: Signal, item: u32) -> Result<i32> {
    let absent = || ApiError::not_found("item");
    let number = i32::try_from(item).map_err(|_| absent())?;
    let after = number.checked_sub(1);
    let everything = RolloutItemFilter::default();
    let mesh = found.mesh.ok_or_else(absent)?;
    let mut items = tx
        .operations()
        .list_rollout_items((mesh, found.id), &everything, after, 1)
        .await?
        .items;
    let item = items.pop().filter(|item| item.number == number);
    let item = item.ok_or_else(absent)?;
    if found.state.is_terminal() {
        return Err(ended_error(&found.state));
    }
    let refuse = |detail: &str, hint: &str| {
        let code = ProblemCode::InvalidTransition;
        Err(ApiError::new(StatusCode::CONFLICT, code, detail, hint))
    };
    if let OperationState::Paused { problem } = &found.state {
        if problem.code.known() == Some(ProblemCode::PausedByUser) {
            return refuse(
                "The roll-out was paused by a person.",
                "Resume it first with `meshwright rollout resume ID`.",
            );
        }
        if !found.state.is_partial_rollout() {
            return refuse(
                "The roll-out is paused by a problem that is not about one workload.",
                "Solve it, then retry the whole roll-out with `meshwright rollout retry ID`.",
            );
        }
    }
    let list = "See the items with `meshwright rollout items ID`.";
    let state = item.progress.state();
    match (signal, state) {
        (_, StepState::Done) => refuse("The pods of this workload are as they should be.", list),
        (_, StepState::Skipped) => refuse("The roll-out goes on without this workload.", list),
        (Signal::Retry, StepState::Excluded) if item.progress.is_held_back() => refuse(
            "The restart was not begun, because too many others have failed.",
            "Retry or skip the failed ones first.",
        ),
        (Signal::Retry, StepState::Failed | StepState::Excluded) => Ok(number),
        (Signal::Retry, _) => refuse("The restart of this workload has not failed.", list),
        _ if !found.kind.can_skip_workloads() => refuse(
            "A rollback cannot leave a workload, because its revision is removed at the end.",
            "Solve the problem of the workload, then retry it.",
        ),
        _ => Ok(number),
    }
}
