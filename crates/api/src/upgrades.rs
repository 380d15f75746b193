//! Upgrades and their verbs.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::Version;
use model::access::{Action, Scope};
use model::ids::{MeshId, UpgradeId};
use model::rules::{Circumstances, Strategy, allowed, assess};
use model::upgrade::{UpgradePolicyChoice, UpgradeState, Verb};
use serde::Deserialize;
use serde_json::{Value, json};
use store::{MeshState, NewUpgrade, Tx};
use tokio::sync::OwnedSemaphorePermit;
use wire::{CreateUpgrade, MoveNamespaces, Upgrade, UpgradeList};

use crate::auth::{Asked, Caller};
use crate::change::{Body, Change, Done, Nothing};
use crate::fields::{expected, id, namespace_of, one_of, tag, version_field};
use crate::meshes::{blocking, member_versions, permitted, release};
use crate::paging::{List, Unfiltered};
use crate::problem::{ApiError, Result};
use crate::views;

/// The longest that a request waits for a change.
pub(crate) const LONGEST_WAIT: u64 = 60;
/// How often a waiting request looks.
const LOOK: Duration = Duration::from_millis(500);
/// The longest that an old revision may be kept: 30 days.
pub(crate) const LONGEST_HOLD: u32 = 30 * 24 * 3600;

/// Plan an upgrade
///
/// Nothing is touched until it is started. The mesh's slot is taken: one change at a time.
#[utoipa::path(post, path = "/v1/meshes/{mesh_id}/upgrades", operation_id = "createUpgrade", tag = "upgrades", request_body = CreateUpgrade,
    params(("mesh_id" = String, Path)),
    responses((status = 201, body = Upgrade)))]
pub(crate) async fn create_upgrade(
    Asked(caller, database): Asked,
    Path(mesh): Path<String>,
    body: Body<CreateUpgrade>,
) -> Result<Response> {
    let mut change = caller.change(database, "createUpgrade", &body).await?;
    let mesh = permitted(&caller, &mut change.tx, &mesh, Action::Upgrade).await?;
    let (version, choice) = read(&body.value)?;
    if mesh.state != MeshState::Ready {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "mesh_not_ready",
            format!("The mesh is {}.", mesh.state.as_str()),
            "Wait until it is ready.",
        ));
    }
    let new = fitting(&caller, &mut change.tx, &mesh, version, choice).await?;
    change.tx.create_upgrade(&new, caller.app.clock.now()).await?;
    let planned = change.tx.upgrade(new.id).await?;
    let done =
        Done::new(StatusCode::CREATED, new.id).at(format!("/v1/upgrades/{}", new.id)).tagged(tag(planned.transitions));
    change.done(done, &views::upgrade(&planned)).await
}

/// What is wrong in itself comes before what stands in the way.
fn read(wanted: &CreateUpgrade) -> Result<(Version, UpgradePolicyChoice)> {
    let version = version_field(&wanted.version)?;
    let strategy: Strategy = one_of("/strategy", &wanted.strategy, "a strategy is in_place or canary")?;
    if wanted.hold_seconds > LONGEST_HOLD {
        return Err(ApiError::field("/hold_seconds", format!("at most {LONGEST_HOLD}")));
    }
    let choice = UpgradePolicyChoice {
        strategy,
        auto: wanted.auto,
        hold_seconds: wanted.hold_seconds,
        accept_warnings: wanted.accept_warnings,
        labels: one_of("/labels", &wanted.labels, "labels are relabel, alias or block")?,
    };
    Ok((version, choice))
}

/// The upgrade as it will be planned, where the mesh can go there.
async fn fitting(
    caller: &Caller,
    tx: &mut Tx<'_>,
    mesh: &store::Mesh,
    version: Version,
    choice: UpgradePolicyChoice,
) -> Result<NewUpgrade> {
    let strategy = choice.strategy;
    let release = release(tx, &version).await?;
    let policy = tx.upgrade_policy().await?;
    let members = member_versions(mesh);
    let today = caller.app.clock.now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let around = Circumstances { policy: &policy, edition: mesh.edition, members: &members, today };
    let reasons = assess(&mesh.current.version, &release, strategy, &around);
    if !allowed(&reasons) {
        let hint = "GET /v1/meshes/{mesh_id}/upgrade-options lists where this mesh can go, and by which stops.";
        return Err(ApiError::new(StatusCode::CONFLICT, "upgrade_refused", format!("{}.", blocking(&reasons)), hint));
    }
    let revision = if strategy == Strategy::Canary { version.revision_name() } else { mesh.current.name.clone() };
    if strategy == Strategy::Canary && revision == mesh.current.name {
        let hint = "Upgrade in place, or to another community version.";
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "revision_name_taken",
            format!("The current revision is called {revision} already."),
            hint,
        ));
    }
    Ok(NewUpgrade {
        id: UpgradeId(caller.app.clock.uuid()),
        mesh: mesh.id,
        from: mesh.current.version.clone(),
        to: version,
        revision,
        choice,
    })
}

/// List a mesh's upgrades
///
/// Newest first.
#[utoipa::path(get, path = "/v1/meshes/{mesh_id}/upgrades", operation_id = "listUpgrades", tag = "upgrades",
    params(("mesh_id" = String, Path), ("page_size" = Option<i64>, Query, description = "1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = UpgradeList)))]
pub(crate) async fn list_upgrades(
    Asked(caller, database): Asked,
    Path(mesh): Path<String>,
    list: List<Unfiltered>,
) -> Result<Json<UpgradeList>> {
    let id: MeshId = id(&mesh, "mesh")?;
    caller.may_with(Action::Read, &[Scope::Mesh(id)], "mesh")?;
    let page = list.page(&caller)?;
    let mut tx = database.begin().await?;
    let found = tx.upgrades(id, page).await?;
    if found.is_empty() {
        // Only an empty list leaves the question open whether there is such a mesh.
        permitted(&caller, &mut tx, &mesh, Action::Read).await?;
    }
    let (shown, next_page_token) = list.cut(&caller, found, |upgrade| upgrade.id.0);
    Ok(Json(UpgradeList { items: shown.iter().map(views::upgrade).collect(), next_page_token }))
}

/// How long to wait for a change.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wait {
    #[serde(default)]
    wait_seconds: u64,
}

/// A wait under way.
#[derive(Debug)]
pub(crate) struct Waiting {
    until: tokio::time::Instant,
    /// Given back when the wait ends; a request that does not wait needs none.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Wait {
    pub(crate) fn begin(&self, caller: &Caller) -> Result<Waiting> {
        if self.wait_seconds > LONGEST_WAIT {
            return Err(ApiError::field("?wait_seconds", format!("0 to {LONGEST_WAIT}")));
        }
        let permit = match self.wait_seconds {
            0 => None,
            _ => Some(caller.app.limits.wait(caller.tenant).ok_or_else(ApiError::too_many_waits)?),
        };
        Ok(Waiting { until: tokio::time::Instant::now() + Duration::from_secs(self.wait_seconds), _permit: permit })
    }
}

impl Waiting {
    /// Ends a look and rests before another one, without a connection; none when the time is over.
    pub(crate) async fn again(&self, tx: Tx<'static>) -> Result<Option<Tx<'static>>> {
        if tokio::time::Instant::now() >= self.until {
            return Ok(None);
        }
        let session = tx.rest();
        tokio::time::sleep(LOOK).await;
        Ok(Some(session.into_reading_tx().await?))
    }
}

/// Get an upgrade
///
/// `wait_seconds` waits until a person is needed or it has ended. The `ETag` changes with every change of state.
#[utoipa::path(get, path = "/v1/upgrades/{upgrade_id}", operation_id = "getUpgrade", tag = "upgrades",
    params(("upgrade_id" = String, Path), ("wait_seconds" = Option<u64>, Query, description = "0 to 60")),
    responses((status = 200, body = Upgrade)))]
pub(crate) async fn get_upgrade(
    Asked(caller, database): Asked,
    Path(upgrade): Path<String>,
    Query(wait): Query<Wait>,
) -> Result<Response> {
    let upgrade: UpgradeId = id(&upgrade, "upgrade")?;
    let waiting = wait.begin(&caller)?;
    let mut tx = database.begin().await?;
    let found = loop {
        let found = tx.upgrade(upgrade).await?;
        caller.may_with(Action::Read, &[Scope::Mesh(found.mesh)], "upgrade")?;
        if rests(&found.state) {
            break found;
        }
        match waiting.again(tx).await? {
            Some(next) => tx = next,
            None => break found,
        }
    };
    Ok(tagged(&found))
}

/// Nothing moves by itself: it has ended, or a person is next.
fn rests(state: &UpgradeState) -> bool {
    let person = matches!(
        state,
        UpgradeState::Planned
            | UpgradeState::Blocked { .. }
            | UpgradeState::Verifying { moving: false, .. }
            | UpgradeState::Holding { .. }
            | UpgradeState::Paused { .. }
    );
    person || state.done()
}

fn tagged(upgrade: &store::Upgrade) -> Response {
    ([(header::ETAG, tag(upgrade.transitions))], Json(views::upgrade(upgrade))).into_response()
}

/// Only the forced deletion of its mesh abandons an upgrade, and a move says what is to be moved.
pub(crate) fn is_asked(verb: Verb) -> bool {
    !matches!(verb, Verb::Abandon | Verb::Move)
}

/// Verbs that two people must not press at the same moment.
fn needs_match(verb: Verb) -> bool {
    matches!(verb, Verb::Promote | Verb::Rollback | Verb::Retire)
}

/// Ask something of an upgrade
///
/// `start`, `cancel`, `acknowledge`, `retry`, `promote`, `pause`, `resume`, `rollback` or `retire`. Promote, rollback and retire
/// need `If-Match` with the `ETag` that you looked at.
#[utoipa::path(post, path = "/v1/upgrades/{upgrade_id}/{verb}", operation_id = "askUpgrade", tag = "upgrades",
    params(("upgrade_id" = String, Path), ("verb" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 202, body = Upgrade)))]
pub(crate) async fn ask_upgrade(
    Asked(caller, database): Asked,
    Path((upgrade, verb)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body<Nothing>,
) -> Result<Response> {
    let verb: Verb = serde_json::from_value(Value::from(verb)).map_err(|_| ApiError::not_found("verb"))?;
    if !is_asked(verb) {
        return Err(ApiError::not_found("verb"));
    }
    let mut change = caller.change(database, "askUpgrade", &body).await?;
    let before = to_upgrade(&caller, &mut change, &upgrade).await?;
    press(&caller, change, &before, verb, &headers, Value::Null).await
}

/// The upgrade, for a caller who may upgrade its mesh.
async fn to_upgrade(caller: &Caller, change: &mut Change<'_>, upgrade: &str) -> Result<store::Upgrade> {
    let found = change.tx.upgrade(id(upgrade, "upgrade")?).await?;
    caller.may_with(Action::Upgrade, &[Scope::Mesh(found.mesh)], "upgrade")?;
    Ok(found)
}

async fn press(
    caller: &Caller,
    mut change: Change<'_>,
    before: &store::Upgrade,
    verb: Verb,
    headers: &HeaderMap,
    arguments: Value,
) -> Result<Response> {
    let upgrade = before.id;
    // Anything, as `*` says, is not what somebody has looked at.
    let expected = expected(headers);
    if expected.is_none() && needs_match(verb) {
        let hint = "Read the upgrade, look at it, and send its ETag as If-Match.";
        return Err(ApiError::new(
            StatusCode::PRECONDITION_REQUIRED,
            "if_match_missing",
            "This verb needs If-Match.",
            hint,
        ));
    }
    let asked = change
        .tx
        .upgrade_verb(upgrade, (verb, &caller.principal), expected, arguments, caller.app.clock.as_ref())
        .await?;
    let done = Done::new(StatusCode::ACCEPTED, upgrade)
        .at(format!("/v1/upgrades/{upgrade}"))
        .tagged(tag(asked.transitions))
        .replacing(&views::upgrade(before));
    change.done(done, &views::upgrade(&asked)).await
}

/// Move namespaces to the canary
///
/// Their workloads are restarted there; the rest stays. The promotion gives the namespaces their labels back.
#[utoipa::path(post, path = "/v1/upgrades/{upgrade_id}/moves", operation_id = "moveNamespaces", tag = "upgrades", request_body = MoveNamespaces,
    params(("upgrade_id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 202, body = Upgrade)))]
pub(crate) async fn move_namespaces(
    Asked(caller, database): Asked,
    Path(upgrade): Path<String>,
    headers: HeaderMap,
    body: Body<MoveNamespaces>,
) -> Result<Response> {
    if body.value.namespaces.is_empty() {
        return Err(ApiError::field("/namespaces", "name at least one namespace"));
    }
    let chosen: Vec<Value> =
        body.value.namespaces.iter().map(|chosen| json!([chosen.cluster, chosen.namespace])).collect();
    let mut change = caller.change(database, "moveNamespaces", &body).await?;
    let before = to_upgrade(&caller, &mut change, &upgrade).await?;
    let mesh = change.tx.mesh(before.mesh).await?;
    for (number, chosen) in body.value.namespaces.iter().enumerate() {
        namespace_of(&mesh, &chosen.cluster, &chosen.namespace, &format!("/namespaces/{number}"))?;
    }
    press(&caller, change, &before, Verb::Move, &headers, json!({ "namespaces": chosen })).await
}
