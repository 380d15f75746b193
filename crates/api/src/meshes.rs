//! Meshes, where they can go, and their data plane.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::Version;
use model::access::{Action, Scope};
use model::ids::{ClusterId, MeshId, OperationId};
use model::injection::{Injection, PodLabels, decide};
use model::operation::OperationKind;
use model::quota::Counted;
use model::release::Release;
use model::rules::{Circumstances, Edition, Reason, Severity, Strategy, allowed, assess, path, runs};
use model::survey::{MemberSurvey, TAGS};
use serde_json::{Value, json};
use store::{ClusterState, MeshState, NewMesh, NewOperation, StoreError, Tx};
use wire::{
    ChangeMesh, CreateMesh, DataPlane, Leave, MeshList, Operation, SetInjection, StrategyOption, UpgradeOption,
    UpgradeOptionList,
};

use crate::auth::{Asked, Caller};
use crate::catalogue::reasons;
use crate::change::{Body, Change, Done, Nothing};
use crate::fields::{
    Filter, edition, id, name_field, named, namespace_of, rewritten, tag, unmoved, version_field, written,
};
use crate::leave;
use crate::paging::List;
use crate::problem::{ApiError, Result};
use crate::views::{self, name};

/// The most members that a mesh may have.
const MOST_MEMBERS: usize = 100;

/// What an operation may run beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// It changes what an upgrade changes.
    Nothing,
    /// An upgrade that is planned or complete touches nothing, and waits for the operation's end.
    AnIdleUpgrade,
}

/// Queues a lone operation that changes a mesh, takes the mesh's slot for it, and answers with it.
async fn begin(
    mut change: Change<'_>,
    caller: &Caller,
    mesh: MeshId,
    (kind, beside): (OperationKind, Beside),
    arguments: Value,
) -> Result<Response> {
    let id = OperationId(caller.app.clock.uuid());
    match beside {
        Beside::AnIdleUpgrade => change.tx.take_data_plane(mesh, id).await?,
        Beside::Nothing => change.tx.take_slot(mesh, &id.to_string()).await?,
    }
    let due_in = std::time::Duration::ZERO;
    let new = NewOperation { id, kind, mesh: Some(mesh), cluster: None, upgrade: None, arguments, due_in };
    change.tx.create_operation(&new, caller.app.clock.now()).await?;
    let shown = views::operation(&change.tx.operation(id).await?, (0, 0));
    change.done(Done::new(StatusCode::ACCEPTED, mesh).at(format!("/v1/operations/{id}")), &shown).await
}

/// Create a mesh
///
/// Its control plane runs in a hosting cluster; the clusters become its members. Answers with the operation that does it.
#[utoipa::path(post, path = "/v1/meshes", operation_id = "createMesh", tag = "meshes", request_body = CreateMesh,
    responses((status = 202, body = Operation)))]
pub(crate) async fn create_mesh(Asked(caller, database): Asked, body: Body<CreateMesh>) -> Result<Response> {
    caller.may(Action::ChangeMeshes)?;
    let mut change = caller.change(database, "createMesh", &body).await?;
    change.tx.room_for(Counted::Meshes).await?;
    let new = read(&caller, &mut change.tx, &body.value).await?;
    change.tx.create_mesh(&new, caller.app.clock.now()).await?;
    begin(change, &caller, new.id, (OperationKind::CreateMesh, Beside::Nothing), Value::Null).await
}

async fn read(caller: &Caller, tx: &mut Tx<'_>, wanted: &CreateMesh) -> Result<NewMesh> {
    let (name, written) = (name_field(&wanted.name)?, written(&wanted.display_name, &wanted.labels)?);
    let version = version_field(&wanted.version)?;
    let release = release(tx, &version).await?;
    let edition = granted_edition(tx, wanted.edition.as_deref()).await?;
    if wanted.clusters.is_empty() || wanted.clusters.len() > MOST_MEMBERS {
        return Err(ApiError::field("/clusters", format!("a mesh has 1 to {MOST_MEMBERS} clusters")));
    }
    let mut members: Vec<ClusterId> = Vec::new();
    let mut versions = Vec::new();
    for (index, text) in wanted.clusters.iter().enumerate() {
        let pointer = format!("/clusters/{index}");
        let absent = || ApiError::field(&pointer, "there is no such cluster");
        let cluster = named(tx.cluster(text.parse().map_err(|_| absent())?).await, absent)?;
        if cluster.state != ClusterState::Ready {
            return Err(ApiError::field(&pointer, format!("{} is not ready", cluster.name)).coded("cluster_not_ready"));
        }
        if !cluster.held {
            let said = format!("{} is the same cluster as an older registration's", cluster.name);
            return Err(ApiError::field(&pointer, said).coded("cluster_registered_already"));
        }
        members.push(cluster.id);
        versions.push((cluster.name, kubernetes(cluster.kubernetes_version.as_deref())));
    }
    if members.iter().collect::<BTreeSet<_>>().len() != members.len() {
        return Err(ApiError::field("/clusters", "a cluster is named twice"));
    }
    may_run(caller, tx, &release, edition, &versions).await?;
    let hosting = tx.hosting_clusters().await?;
    let nowhere = || {
        ApiError::new(
            StatusCode::CONFLICT,
            "no_hosting_cluster",
            "There is no hosting cluster.",
            "Ask the operator to add one.",
        )
    };
    let hosting = hosting.first().ok_or_else(nowhere)?.id;
    let authority = (caller.app.new_authority)(name.as_str(), caller.app.clock.now()).map_err(|error| {
        tracing::error!(error, "no authority was made");
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The mesh's authority could not be made.",
            "Try again.",
        )
    })?;
    Ok(NewMesh {
        id: MeshId(caller.app.clock.uuid()),
        name: name.to_string(),
        edition,
        hosting,
        authority,
        version,
        members,
        written,
        deletion_protection: wanted.deletion_protection,
    })
}

/// The edition of a new mesh: the one that is asked for, if the operator granted it, or the highest one.
async fn granted_edition(tx: &mut Tx<'_>, wanted: Option<&str>) -> Result<Edition> {
    let granted = tx.own_tenant().await?.edition;
    let wanted = wanted.map(|text| edition("/edition", text)).transpose()?.unwrap_or(granted);
    if wanted > granted {
        let said = format!("the highest edition that was granted to this tenant is {}", name(&granted));
        return Err(ApiError::field("/edition", said).coded("edition_not_granted"));
    }
    Ok(wanted)
}

/// A version's entry in the catalogue.
pub(crate) async fn release(tx: &mut Tx<'_>, version: &Version) -> Result<Release> {
    let releases = tx.releases().await?;
    let absent =
        || ApiError::field("/version", format!("{version} is not in the catalogue")).coded("version_not_in_catalogue");
    releases.into_iter().find(|release| release.version == *version).ok_or_else(absent)
}

/// Refuses a release that no mesh of this edition with these clusters may run.
async fn may_run(
    caller: &Caller,
    tx: &mut Tx<'_>,
    release: &Release,
    edition: Edition,
    members: &[(String, (u32, u32))],
) -> Result<()> {
    let policy = tx.upgrade_policy().await?;
    let today = caller.app.clock.now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let reasons = runs(release, &Circumstances { policy: &policy, edition, members, today });
    if allowed(&reasons) {
        return Ok(());
    }
    Err(ApiError::field("/version", blocking(&reasons)).coded("version_refused"))
}

/// List meshes
///
/// Oldest first.
#[utoipa::path(get, path = "/v1/meshes", operation_id = "listMeshes", tag = "meshes",
    params(("name" = Option<String>, Query), ("label_selector" = Option<String>, Query, description = "For example team=payments,tier!=test,!old"),
        ("show_deleted" = Option<bool>, Query), ("page_size" = Option<i64>, Query, description = "1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = MeshList)))]
pub(crate) async fn list_meshes(Asked(caller, database): Asked, list: List<Filter>) -> Result<Json<MeshList>> {
    let found = database.begin().await?.meshes(&caller.reach(), &list.filter.read()?, list.page(&caller)?).await?;
    let (shown, next_page_token) = list.cut(&caller, found, |mesh| mesh.id.0);
    Ok(Json(MeshList { items: shown.iter().map(views::mesh).collect(), next_page_token }))
}

/// Get a mesh
#[utoipa::path(get, path = "/v1/meshes/{mesh_id}", operation_id = "getMesh", tag = "meshes",
    params(("mesh_id" = String, Path)), responses((status = 200, body = wire::Mesh)))]
pub(crate) async fn get_mesh(Asked(caller, database): Asked, Path(mesh): Path<String>) -> Result<Response> {
    let mesh = permitted(&caller, &mut database.begin().await?, &mesh, Action::Read).await?;
    Ok(([(header::ETAG, tag(mesh.generation))], Json(views::mesh(&mesh))).into_response())
}

/// Change a mesh
///
/// What its users write on it, and whether it can be deleted. `If-Match` with the `ETag` that you looked at is honoured.
#[utoipa::path(patch, path = "/v1/meshes/{mesh_id}", operation_id = "changeMesh", tag = "meshes", request_body = ChangeMesh,
    params(("mesh_id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = wire::Mesh)))]
pub(crate) async fn change_mesh(
    Asked(caller, database): Asked,
    Path(mesh): Path<String>,
    headers: HeaderMap,
    body: Body<ChangeMesh>,
) -> Result<Response> {
    let mut change = caller.change(database, "changeMesh", &body).await?;
    let seen = permitted(&caller, &mut change.tx, &mesh, Action::ChangeMeshes).await?;
    unmoved(&headers, seen.generation)?;
    let wanted = &body.value;
    let written = rewritten(&seen.written, wanted.display_name.as_ref(), wanted.labels.as_ref())?;
    let protection = wanted.deletion_protection.unwrap_or(seen.deletion_protection);
    change.tx.write_mesh(&seen, &written, protection).await?;
    let changed = change.tx.mesh(seen.id).await?;
    let done = Done::new(StatusCode::OK, seen.id).tagged(tag(changed.generation)).replacing(&views::mesh(&seen));
    change.done(done, &views::mesh(&changed)).await
}

/// A mesh that is not deleted and that the caller may do this with.
pub(crate) async fn permitted(caller: &Caller, tx: &mut Tx<'_>, text: &str, action: Action) -> Result<store::Mesh> {
    let mesh = tx.mesh(id(text, "mesh")?).await?;
    caller.may_with(action, &[Scope::Mesh(mesh.id)], "mesh")?;
    if mesh.state == MeshState::Deleted { Err(ApiError::not_found("mesh")) } else { Ok(mesh) }
}

/// Bring a mesh back
///
/// Within 30 days of its deletion: with its id, its version, its authority and the clusters that it had.
#[utoipa::path(post, path = "/v1/meshes/{mesh_id}/undelete", operation_id = "undeleteMesh", tag = "meshes",
    params(("mesh_id" = String, Path)), responses((status = 202, body = Operation)))]
pub(crate) async fn undelete_mesh(
    Asked(caller, database): Asked,
    Path(mesh): Path<String>,
    body: Body<Nothing>,
) -> Result<Response> {
    let mut change = caller.change(database, "undeleteMesh", &body).await?;
    let mesh = change.tx.mesh(id(&mesh, "mesh")?).await?;
    caller.may_with(Action::ChangeMeshes, &[Scope::Mesh(mesh.id)], "mesh")?;
    let conflict = |code, said: String, hint| Err(ApiError::new(StatusCode::CONFLICT, code, said, hint));
    if mesh.state != MeshState::Deleted {
        return conflict(
            "mesh_not_deleted",
            format!("{} is not deleted.", mesh.name),
            "There is nothing to bring back.",
        );
    }
    let remains = change.tx.remains(mesh.id).await?;
    if !remains.authority {
        let hint = "Create another mesh; its workloads get certificates of another authority.";
        return conflict("undelete_too_late", format!("{} was deleted more than 30 days ago.", mesh.name), hint);
    }
    for member in &remains.members {
        match change.tx.cluster(*member).await {
            Ok(cluster) if cluster.state == ClusterState::Ready => {}
            Ok(cluster) => {
                let hint = "See what is wrong with the cluster, then try again.";
                return conflict("cluster_not_ready", format!("{} is not ready.", cluster.name), hint);
            }
            Err(StoreError::NotFound { .. }) => {
                let hint = "Create another mesh from the clusters that there are.";
                return conflict("cluster_gone", format!("{member} was a member and was forgotten since."), hint);
            }
            Err(error) => return Err(error.into()),
        }
    }
    change.tx.room_for(Counted::Meshes).await?;
    change.tx.undelete_mesh(mesh.id, &remains.members).await?;
    begin(change, &caller, mesh.id, (OperationKind::CreateMesh, Beside::Nothing), Value::Null).await
}

/// Build a failed mesh again
///
/// A mesh is `failed` when its creation or its deletion ended early. What is missing of it is made; what is there stays.
#[utoipa::path(post, path = "/v1/meshes/{mesh_id}/retry", operation_id = "retryMesh", tag = "meshes",
    params(("mesh_id" = String, Path)), responses((status = 202, body = Operation)))]
pub(crate) async fn retry_mesh(
    Asked(caller, database): Asked,
    Path(mesh): Path<String>,
    body: Body<Nothing>,
) -> Result<Response> {
    let mut change = caller.change(database, "retryMesh", &body).await?;
    let mesh = permitted(&caller, &mut change.tx, &mesh, Action::ChangeMeshes).await?;
    if !matches!(mesh.state, MeshState::Failed(_)) {
        let said = format!("{} is {}.", mesh.name, mesh.state.as_str());
        let hint =
            "Only a mesh that is failed can be built again; `meshwright operation list` shows what is under way.";
        return Err(ApiError::new(StatusCode::CONFLICT, "mesh_not_failed", said, hint));
    }
    if mesh.target.is_some() {
        let said = format!("An upgrade of {} was abandoned half-way: both revisions may be there.", mesh.name);
        let hint = "Remove the mesh with `meshwright mesh delete`, then create another one.";
        return Err(ApiError::new(StatusCode::CONFLICT, "upgrade_abandoned", said, hint));
    }
    change.tx.set_mesh_state(mesh.id, &MeshState::Creating, caller.app.clock.now()).await?;
    begin(change, &caller, mesh.id, (OperationKind::CreateMesh, Beside::Nothing), Value::Null).await
}

/// Delete a mesh
///
/// Waits until nothing uses it: take the injection labels off and restart the workloads first. It can be brought back for 30
/// days. With `force` and a reason a member that does not answer is left behind; the operation and the deleted mesh show what
/// stays there. `force` also takes the place of a deletion that is under way, and of an upgrade that is paused while a member is unreachable, which
/// is abandoned.
#[utoipa::path(delete, path = "/v1/meshes/{mesh_id}", operation_id = "deleteMesh", tag = "meshes", request_body = Leave,
    params(("mesh_id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 202, body = Operation)))]
pub(crate) async fn delete_mesh(
    Asked(caller, database): Asked,
    Path(mesh): Path<String>,
    headers: HeaderMap,
    body: Body<Leave>,
) -> Result<Response> {
    let reason = leave::reason(&body.value)?;
    let mut change = caller.change(database, "deleteMesh", &body).await?;
    let mesh = permitted(&caller, &mut change.tx, &mesh, Action::ChangeMeshes).await?;
    unmoved(&headers, mesh.generation)?;
    if mesh.deletion_protection {
        let hint = "Set deletion_protection to false first, if you are sure.";
        let detail = "The mesh is protected from deletion.";
        return Err(ApiError::new(StatusCode::CONFLICT, "deletion_protected", detail, hint));
    }
    let now = caller.app.clock.now();
    if let Some(reason) = reason {
        change.tx.make_way(mesh.id, &caller.principal, caller.app.clock.as_ref()).await?;
        change.forced(mesh.id, reason);
    }
    change.tx.set_mesh_state(mesh.id, &MeshState::Deleting, now).await?;
    begin(change, &caller, mesh.id, (OperationKind::DeleteMesh, Beside::Nothing), store::force(reason)).await
}

/// Where a mesh can go
///
/// Every release, allowed or refused, by each strategy, with every reason.
#[utoipa::path(get, path = "/v1/meshes/{mesh_id}/upgrade-options", operation_id = "listUpgradeOptions", tag = "upgrades",
    params(("mesh_id" = String, Path)), responses((status = 200, body = UpgradeOptionList)))]
pub(crate) async fn list_upgrade_options(
    Asked(caller, database): Asked,
    Path(mesh): Path<String>,
) -> Result<Json<UpgradeOptionList>> {
    let mut tx = database.begin().await?;
    let mesh = permitted(&caller, &mut tx, &mesh, Action::Read).await?;
    let (releases, policy) = (tx.releases().await?, tx.upgrade_policy().await?);
    drop(tx);
    let members = member_versions(&mesh);
    let today = caller.app.clock.now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let around = Circumstances { policy: &policy, edition: mesh.edition, members: &members, today };
    let current = &mesh.current.version;
    let items = releases.iter().map(|release| {
        let judged = [Strategy::InPlace, Strategy::Canary]
            .map(|strategy| (strategy, assess(current, release, strategy, &around)));
        let direct = judged.iter().any(|(_, reasons)| allowed(reasons));
        let way = if direct { None } else { path(current, &release.version, &releases, &around) };
        UpgradeOption {
            version: release.version.to_string(),
            strategies: judged
                .iter()
                .map(|(strategy, judged)| StrategyOption {
                    strategy: name(strategy),
                    allowed: allowed(judged),
                    reasons: reasons(judged),
                })
                .collect(),
            path: way.unwrap_or_default().iter().map(|(release, _)| release.version.to_string()).collect(),
        }
    });
    Ok(Json(UpgradeOptionList { items: items.collect(), next_page_token: None }))
}

/// Each member's name and Kubernetes version.
pub(crate) fn member_versions(mesh: &store::Mesh) -> Vec<(String, (u32, u32))> {
    mesh.members.iter().map(|member| (member.name.clone(), kubernetes(member.kubernetes_version.as_deref()))).collect()
}

/// A cluster whose version nobody knows is older than everything.
fn kubernetes(version: Option<&str>) -> (u32, u32) {
    let mut parts =
        version.unwrap_or_default().trim_start_matches('v').split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// What stands in the way, in one sentence.
pub(crate) fn blocking(reasons: &[Reason]) -> String {
    let blocking = reasons.iter().filter(|reason| reason.severity == Severity::Block);
    blocking.map(|reason| reason.message.as_str()).collect::<Vec<_>>().join("; ")
}

/// The data plane
///
/// Namespaces, workloads and connected proxies as a worker last saw them; `observed_at` says when.
#[utoipa::path(get, path = "/v1/meshes/{mesh_id}/data-plane", operation_id = "getDataPlane", tag = "data plane",
    params(("mesh_id" = String, Path)), responses((status = 200, body = DataPlane)))]
pub(crate) async fn get_data_plane(
    Asked(caller, database): Asked,
    Path(mesh): Path<String>,
) -> Result<Json<DataPlane>> {
    let mut tx = database.begin().await?;
    let mesh = permitted(&caller, &mut tx, &mesh, Action::Read).await?;
    Ok(Json(views::data_plane(&mesh, tx.survey(mesh.id).await?)))
}

/// Set a namespace's injection
///
/// Never both labels: the other one is removed. Pods change when they are restarted. A namespace that is outside the mesh can
/// join while an upgrade is planned or complete; the upgrade waits for the end of this operation.
#[utoipa::path(post, path = "/v1/meshes/{mesh_id}/injection", operation_id = "setInjection", tag = "data plane", request_body = SetInjection,
    params(("mesh_id" = String, Path)),
    responses((status = 202, body = Operation)))]
pub(crate) async fn set_injection(
    Asked(caller, database): Asked,
    Path(mesh): Path<String>,
    body: Body<SetInjection>,
) -> Result<Response> {
    let mut change = caller.change(database, "setInjection", &body).await?;
    let mesh = permitted(&caller, &mut change.tx, &mesh, Action::ChangeMeshes).await?;
    let wanted = &body.value;
    namespace_of(&mesh, &wanted.cluster, &wanted.namespace, "")?;
    let seen = change.tx.survey(mesh.id).await?.map(|(_, survey)| survey).unwrap_or_default();
    let member = seen.members.iter().find(|member| member.member.as_str() == wanted.cluster);
    let joins = member.is_none_or(|member| is_outside(member, &wanted.namespace));
    let beside = if joins { Beside::AnIdleUpgrade } else { Beside::Nothing };
    if let Some(label) = &wanted.label {
        let known = labels_that_inject(&mesh, member);
        if !known.contains(label) {
            return Err(ApiError::field("/label", format!("no webhook would match; there are {}", known.join(", ")))
                .coded("no_such_revision"));
        }
    }
    let arguments = json!({ "member": wanted.cluster, "namespace": wanted.namespace, "label": wanted.label });
    begin(change, &caller, mesh.id, (OperationKind::SetInjection, beside), arguments).await
}

/// True for a namespace that no revision injects and none of whose pods has a sidecar: an upgrade has not touched it.
fn is_outside(member: &MemberSurvey, namespace: &str) -> bool {
    let Some(namespace) = member.namespaces.iter().find(|known| known.name == namespace) else { return true };
    let injected = namespace.workloads.iter().any(|workload| workload.live.iter().any(Option::is_some));
    let asks = !matches!(decide(&namespace.labels, &PodLabels::default(), &member.injectors), Injection::None(_));
    !injected && !asks && namespace.unreachable.is_empty()
}

/// The labels that some webhook answers to in a member, alias tags included, as the member was last seen. A member that
/// was not seen yet has the tags and the revision that every mesh has.
fn labels_that_inject(mesh: &store::Mesh, member: Option<&MemberSurvey>) -> Vec<String> {
    let mut values: Vec<String> = match member {
        Some(member) => member.injectors.iter().map(|injector| injector.value.clone()).collect(),
        None => TAGS.into_iter().map(str::to_owned).chain([mesh.current.name.to_string()]).collect(),
    };
    values.sort();
    let enabled = values.iter().any(|value| value == "default").then(|| "istio-injection=enabled".to_owned());
    enabled.into_iter().chain(values.into_iter().map(|value| format!("istio.io/rev={value}"))).collect()
}

/// Restart what is behind
///
/// Puts back tags of the mesh that were removed from a member, then restarts every workload with a pod that does not carry
/// what its labels ask for, in batches. It goes on while an upgrade is planned or complete; the upgrade waits for its end.
#[utoipa::path(post, path = "/v1/meshes/{mesh_id}/restarts", operation_id = "createRestart", tag = "data plane",
    params(("mesh_id" = String, Path)),
    responses((status = 202, body = Operation)))]
pub(crate) async fn create_restart(
    Asked(caller, database): Asked,
    Path(mesh): Path<String>,
    body: Body<Nothing>,
) -> Result<Response> {
    let mut change = caller.change(database, "createRestart", &body).await?;
    let mesh = permitted(&caller, &mut change.tx, &mesh, Action::ChangeMeshes).await?;
    begin(change, &caller, mesh.id, (OperationKind::Restart, Beside::AnIdleUpgrade), Value::Null).await
}
