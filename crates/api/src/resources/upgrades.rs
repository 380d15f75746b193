//! Handles requests for upgrades: plans them, shows them, and applies verbs to them.

use axum::Json;
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use meshwright_model::access::{Action, Scope};
use meshwright_model::ids::{MeshId, UpgradeId};
use meshwright_model::problem::ProblemCode;
use meshwright_model::rollout::RolloutPolicy;
use meshwright_model::rules::{Strategy, UpgradeContext, assess_upgrade, is_allowed};
use meshwright_model::upgrade::{UpgradePolicyChoice, UpgradeState, Verb};
use meshwright_model::{ClosedSet, Version};
use meshwright_store::{MeshState, NewUpgrade, Tx};
use meshwright_wire::{CreateUpgrade, MoveNamespaces, Upgrade, UpgradeList};
use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::request::caller::{Authenticated, Caller};
use crate::request::long_poll::WaitQuery;
use crate::request::mutation::{Body, EmptyBody, Mutation, MutationOutcome};
use crate::request::pagination::{ListRequest, Unfiltered};
use crate::request::params::{
    etag, expected_generation, known_value, parse_id, parse_version, require_member_namespace,
};
use crate::resources::meshes::authorized_mesh;
use crate::resources::release_rules::{
    blocking_messages, find_release, member_kubernetes_versions,
};
use crate::resources::rollouts::policy::parse_policy;
use crate::resources::views;

/// Maximum time for which an old revision is kept after the roll-out, in seconds (30 days).
pub(crate) const MAX_HOLD_SECONDS: u32 = 30 * 24 * 3600;

/// Plan an upgrade of a mesh
///
/// Plans an upgrade and takes the mesh lock for it, so that the mesh has one change at a time. No
/// cluster is changed until the upgrade is started.
#[utoipa::path(post, path = "/v1/meshes/{mesh_id}/upgrades", operation_id = "createUpgrade", tag = "upgrades", request_body = CreateUpgrade,
    params(("mesh_id" = String, Path)),
    responses((status = 201, body = Upgrade)))]
pub(crate) async fn create_upgrade(
    Authenticated(caller, database): Authenticated,
    Path(mesh): Path<String>,
    body: Body<CreateUpgrade>,
) -> Result<Response> {
    let mut change = caller
        .begin_mutation(database, "createUpgrade", &body)
        .await?;
    let mesh = authorized_mesh(&caller, &mut change.tx, &mesh, Action::Upgrade).await?;
    let (version, choice) = parse_upgrade_request(&body.value)?;
    let sent = body.value.rollout.clone().unwrap_or_default();
    let rollout = parse_policy(&mesh, &sent, "/rollout")?;
    if mesh.state != MeshState::Ready {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::MeshNotReady,
            format!("The mesh is {}.", mesh.state.as_str()),
            "Wait until it is ready.",
        ));
    }
    let new = resolve_upgrade(&caller, &mut change.tx, &mesh, version, (choice, rollout)).await?;
    change
        .tx
        .upgrades()
        .create_upgrade(&new, caller.app.clock.now())
        .await?;
    let planned = change.tx.upgrades().get_upgrade(new.id).await?;
    let done = MutationOutcome::new(StatusCode::CREATED, new.id)
        .with_location(format!("/v1/upgrades/{}", new.id))
        .with_etag(etag(planned.transitions));
    change
        .commit_response(done, &views::upgrade(&planned))
        .await
}

/// Checks the fields of the request on their own. Invalid fields are reported before a conflict
/// with the state of the mesh.
fn parse_upgrade_request(wanted: &CreateUpgrade) -> Result<(Version, UpgradePolicyChoice)> {
    let version = parse_version(&wanted.version)?;
    let strategy: Strategy = known_value(
        "/strategy",
        &wanted.strategy,
        "a strategy is in_place or canary",
    )?;
    if wanted.hold_seconds > MAX_HOLD_SECONDS {
        return Err(ApiError::invalid_field(
            "/hold_seconds",
            format!("at most {MAX_HOLD_SECONDS}"),
        ));
    }
    let choice = UpgradePolicyChoice {
        strategy,
        auto: wanted.auto,
        hold_seconds: wanted.hold_seconds,
        accept_warnings: wanted.accept_warnings,
        labels: known_value(
            "/labels",
            &wanted.labels,
            "labels are relabel, alias or block",
        )?,
    };
    Ok((version, choice))
}

/// Checks that the mesh can be upgraded to this version in this way, and returns the upgrade to
/// plan.
async fn resolve_upgrade(
    caller: &Caller,
    tx: &mut Tx<'_>,
    mesh: &meshwright_store::Mesh,
    version: Version,
    (choice, rollout): (UpgradePolicyChoice, RolloutPolicy),
) -> Result<NewUpgrade> {
    let strategy = choice.strategy;
    let release = find_release(tx, &version).await?;
    let policy = tx.catalogue().upgrade_policy().await?;
    let members = member_kubernetes_versions(mesh);
    let today = caller
        .app
        .clock
        .now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date();
    let around = UpgradeContext {
        policy: &policy,
        edition: mesh.edition,
        members: &members,
        today,
    };
    let reasons = assess_upgrade(&mesh.current.version, &release, strategy, &around);
    if !is_allowed(&reasons) {
        let hint = "GET /v1/meshes/{mesh_id}/upgrade-options lists where this mesh can go, and by which stops.";
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::UpgradeRefused,
            format!("{}.", blocking_messages(&reasons)),
            hint,
        ));
    }
    let revision = if strategy == Strategy::Canary {
        version.revision_name()
    } else {
        mesh.current.name.clone()
    };
    if strategy == Strategy::Canary && revision == mesh.current.name {
        let hint = "Upgrade in place, or to another community version.";
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::RevisionNameTaken,
            format!("The current revision is called {revision} already."),
            hint,
        ));
    }
    Ok(NewUpgrade {
        id: UpgradeId(caller.app.clock.new_uuid()),
        mesh: mesh.id,
        from: mesh.current.version.clone(),
        to: version,
        revision,
        choice,
        rollout,
    })
}

/// List a mesh's upgrades
///
/// Returns the upgrades of the mesh, newest first.
#[utoipa::path(get, path = "/v1/meshes/{mesh_id}/upgrades", operation_id = "listUpgrades", tag = "upgrades",
    params(("mesh_id" = String, Path), ("page_size" = Option<i64>, Query, description = "Number of items on a page, from 1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = UpgradeList)))]
pub(crate) async fn list_upgrades(
    Authenticated(caller, database): Authenticated,
    Path(mesh): Path<String>,
    list: ListRequest<Unfiltered>,
) -> Result<Json<UpgradeList>> {
    let id: MeshId = parse_id(&mesh, "mesh")?;
    caller.require_permission_on(Action::Read, &[Scope::Mesh(id)], "mesh")?;
    let page = list.page(&caller)?;
    let mut tx = database.begin_read().await?;
    let found = tx.upgrades().list_upgrades(id, page).await?;
    if found.is_empty() {
        // An empty list does not tell whether the mesh exists, so read the mesh. A list with
        // upgrades proves that it does.
        authorized_mesh(&caller, &mut tx, &mesh, Action::Read).await?;
    }
    let (shown, next_page_token) = list.split_page(&caller, found, |upgrade| upgrade.id.0);
    Ok(Json(UpgradeList {
        items: shown.iter().map(views::upgrade).collect(),
        next_page_token,
    }))
}

/// Get an upgrade's state
///
/// Returns the upgrade with its state and findings. With `wait_seconds` the answer waits until the
/// upgrade has ended or a person must act. The `ETag` changes with each change of state.
#[utoipa::path(get, path = "/v1/upgrades/{upgrade_id}", operation_id = "getUpgrade", tag = "upgrades",
    params(("upgrade_id" = String, Path), ("wait_seconds" = Option<u64>, Query, description = "Seconds to wait for a change, from 0 to 60")),
    responses((status = 200, body = Upgrade)))]
pub(crate) async fn get_upgrade(
    Authenticated(caller, database): Authenticated,
    Path(upgrade): Path<String>,
    Query(wait): Query<WaitQuery>,
) -> Result<Response> {
    let upgrade: UpgradeId = parse_id(&upgrade, "upgrade")?;
    let waiting = wait.start_long_poll(&caller)?;
    let mut tx = database.begin_read().await?;
    let found = loop {
        let found = tx.upgrades().get_upgrade(upgrade).await?;
        caller.require_permission_on(Action::Read, &[Scope::Mesh(found.mesh)], "upgrade")?;
        if ended_or_awaits_person(&found.state) {
            break found;
        }
        match waiting.next_poll(tx).await? {
            Some(next) => tx = next,
            None => break found,
        }
    };
    Ok(upgrade_response(&found))
}

/// Returns true if the upgrade does not continue by itself: it has ended, or a person must act.
fn ended_or_awaits_person(state: &UpgradeState) -> bool {
    let person = matches!(
        state,
        UpgradeState::Planned
            | UpgradeState::Blocked { .. }
            | UpgradeState::Verifying { moving: false, .. }
            | UpgradeState::Holding { .. }
            | UpgradeState::Paused { .. }
    );
    person || state.is_terminal()
}

/// Answers with the upgrade and its `ETag`.
fn upgrade_response(upgrade: &meshwright_store::Upgrade) -> Response {
    (
        [(header::ETAG, etag(upgrade.transitions))],
        Json(views::upgrade(upgrade)),
    )
        .into_response()
}

/// Returns true if a client can send the verb to an upgrade. `Abandon` comes from the forced
/// deletion of the mesh only, and `Move` has an endpoint of its own that names the namespaces.
pub(crate) fn is_requestable(verb: Verb) -> bool {
    !matches!(verb, Verb::Abandon | Verb::Move)
}

/// Returns true if the verb needs `If-Match`, so that two people who act at the same time cannot
/// both apply it.
fn requires_if_match(verb: Verb) -> bool {
    matches!(verb, Verb::Promote | Verb::Rollback | Verb::Retire)
}

/// Send a verb to an upgrade
///
/// Sends `start`, `cancel`, `acknowledge`, `retry`, `promote`, `pause`, `resume`, `rollback`,
/// `retire` or `skip` to the upgrade. The verbs `promote`, `rollback` and `retire` need `If-Match` with the
/// `ETag` of the upgrade that the caller decided on.
#[utoipa::path(post, path = "/v1/upgrades/{upgrade_id}/{verb}", operation_id = "askUpgrade", tag = "upgrades",
    params(("upgrade_id" = String, Path), ("verb" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 202, body = Upgrade)))]
pub(crate) async fn upgrade_action(
    Authenticated(caller, database): Authenticated,
    Path((upgrade, verb)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body<EmptyBody>,
) -> Result<Response> {
    let verb = Verb::from_name(&verb).ok_or_else(|| ApiError::not_found("verb"))?;
    if !is_requestable(verb) {
        return Err(ApiError::not_found("verb"));
    }
    let mut change = caller.begin_mutation(database, "askUpgrade", &body).await?;
    let before = authorized_upgrade(&caller, &mut change, &upgrade).await?;
    apply_verb(&caller, change, &before, verb, &headers, Value::Null).await
}

/// Reads an upgrade, and refuses it if the caller may not upgrade its mesh.
async fn authorized_upgrade(
    caller: &Caller,
    change: &mut Mutation<'_>,
    upgrade: &str,
) -> Result<meshwright_store::Upgrade> {
    let found = change
        .tx
        .upgrades()
        .get_upgrade(parse_id(upgrade, "upgrade")?)
        .await?;
    caller.require_permission_on(Action::Upgrade, &[Scope::Mesh(found.mesh)], "upgrade")?;
    Ok(found)
}

/// Applies a verb to an upgrade, and answers with the upgrade after it.
async fn apply_verb(
    caller: &Caller,
    mut change: Mutation<'_>,
    before: &meshwright_store::Upgrade,
    verb: Verb,
    headers: &HeaderMap,
    arguments: Value,
) -> Result<Response> {
    let upgrade = before.id;
    // `If-Match: *` does not prove that the caller saw this state of the upgrade, so it does not
    // count.
    let expected = expected_generation(headers);
    if expected.is_none() && requires_if_match(verb) {
        let hint = "Read the upgrade, look at it, and send its ETag as If-Match.";
        return Err(ApiError::new(
            StatusCode::PRECONDITION_REQUIRED,
            ProblemCode::IfMatchMissing,
            "This verb needs If-Match.",
            hint,
        ));
    }
    let asked = change
        .tx
        .upgrades()
        .apply_verb(
            upgrade,
            (verb, &caller.principal),
            expected,
            arguments,
            caller.app.clock.as_ref(),
        )
        .await?;
    let done = MutationOutcome::new(StatusCode::ACCEPTED, upgrade)
        .with_location(format!("/v1/upgrades/{upgrade}"))
        .with_etag(etag(asked.transitions))
        .with_before(&views::upgrade(before));
    change.commit_response(done, &views::upgrade(&asked)).await
}

/// Move namespaces to the canary
///
/// Restarts the workloads of the given namespaces with sidecars of the canary; all other namespaces
/// stay as they are. The promotion restores the former labels of the namespaces.
#[utoipa::path(post, path = "/v1/upgrades/{upgrade_id}/moves", operation_id = "moveNamespaces", tag = "upgrades", request_body = MoveNamespaces,
    params(("upgrade_id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 202, body = Upgrade)))]
pub(crate) async fn move_namespaces(
    Authenticated(caller, database): Authenticated,
    Path(upgrade): Path<String>,
    headers: HeaderMap,
    body: Body<MoveNamespaces>,
) -> Result<Response> {
    if body.value.namespaces.is_empty() {
        return Err(ApiError::invalid_field(
            "/namespaces",
            "name at least one namespace",
        ));
    }
    let chosen: Vec<Value> = body
        .value
        .namespaces
        .iter()
        .map(|chosen| json!([chosen.cluster, chosen.namespace]))
        .collect();
    let mut change = caller
        .begin_mutation(database, "moveNamespaces", &body)
        .await?;
    let before = authorized_upgrade(&caller, &mut change, &upgrade).await?;
    let mesh = change.tx.meshes().get_mesh(before.mesh).await?;
    for (number, chosen) in body.value.namespaces.iter().enumerate() {
        require_member_namespace(
            &mesh,
            &chosen.cluster,
            &chosen.namespace,
            &format!("/namespaces/{number}"),
        )?;
    }
    apply_verb(
        &caller,
        change,
        &before,
        Verb::Move,
        &headers,
        json!({ "namespaces": chosen }),
    )
    .await
}
