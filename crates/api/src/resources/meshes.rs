//! Handles requests for meshes, their upgrade options and their data plane.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use meshwright_model::Version;
use meshwright_model::access::{Action, Scope};
use meshwright_model::edition::Edition;
use meshwright_model::ids::{ClusterId, MeshId, OperationId};
use meshwright_model::injection::{Injection, PodLabels, injected_by};
use meshwright_model::operation::OperationKind;
use meshwright_model::quota::QuotaResource;
use meshwright_model::release::Release;
use meshwright_model::rules::{
    Reason, Severity, Strategy, UpgradeContext, assess_release, assess_upgrade, find_upgrade_path,
    is_allowed,
};
use meshwright_model::survey::{MemberObservation, TAGS};
use meshwright_store::{ClusterState, MeshState, NewMesh, NewOperation, StoreError, Tx};
use meshwright_wire::{
    ChangeMesh, CreateMesh, DataPlane, DeleteOptions, MeshList, Operation, SetInjection,
    StrategyOption, UpgradeOption, UpgradeOptionList,
};
use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::request::caller::{Authenticated, Caller};
use crate::request::mutation::{Body, EmptyBody, Mutation, MutationOutcome};
use crate::request::pagination::ListRequest;
use crate::request::params::{
    ResourceFilter, check_if_match, etag, merge_metadata, parse_edition, parse_id, parse_metadata,
    parse_name, parse_version, require_member_namespace, require_referenced,
};
use crate::resources::catalogue::reason_views;
use crate::resources::leaving;
use crate::resources::views::{self, wire_name};

/// Maximum number of clusters that a mesh may have.
const MAX_MEMBERS: usize = 100;

/// How an operation holds the mesh lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LockMode {
    /// The operation needs the mesh lock for itself, because it changes the same things as an
    /// upgrade.
    Exclusive,
    /// The operation may run while an upgrade that is planned, blocked or complete holds the mesh
    /// lock. Such an upgrade changes nothing, and it waits for the end of the operation.
    WithIdleUpgrade,
}

/// Queues an operation on a mesh that is no stage of an upgrade, takes the mesh lock for it, and
/// answers with the operation.
async fn start_operation(
    mut change: Mutation<'_>,
    caller: &Caller,
    mesh: MeshId,
    (kind, beside): (OperationKind, LockMode),
    arguments: Value,
) -> Result<Response> {
    let id = OperationId(caller.app.clock.new_uuid());
    match beside {
        LockMode::WithIdleUpgrade => change.tx.acquire_data_plane_lock(mesh, id).await?,
        LockMode::Exclusive => change.tx.acquire_mesh_lock(mesh, &id.to_string()).await?,
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
        .create_operation(&new, caller.app.clock.now())
        .await?;
    let shown = views::operation(&change.tx.get_operation(id).await?, (0, 0));
    change
        .commit_response(
            MutationOutcome::new(StatusCode::ACCEPTED, mesh)
                .with_location(format!("/v1/operations/{id}")),
            &shown,
        )
        .await
}

/// Create a service mesh
///
/// Starts an operation that runs the control plane of the mesh in a hosting cluster and makes the
/// given clusters its members. The answer is this operation.
#[utoipa::path(post, path = "/v1/meshes", operation_id = "createMesh", tag = "meshes", request_body = CreateMesh,
    responses((status = 202, body = Operation)))]
pub(crate) async fn create_mesh(
    Authenticated(caller, database): Authenticated,
    body: Body<CreateMesh>,
) -> Result<Response> {
    caller.require_permission(Action::ChangeMeshes)?;
    let mut change = caller.begin_mutation(database, "createMesh", &body).await?;
    change.tx.check_quota(QuotaResource::Meshes).await?;
    let new = resolve_new_mesh(&caller, &mut change.tx, &body.value).await?;
    change.tx.create_mesh(&new, caller.app.clock.now()).await?;
    start_operation(
        change,
        &caller,
        new.id,
        (OperationKind::CreateMesh, LockMode::Exclusive),
        Value::Null,
    )
    .await
}

/// Checks the request for a new mesh against the catalogue, the edition of the tenant and the state
/// of its clusters, and creates the CA of the mesh.
async fn resolve_new_mesh(
    caller: &Caller,
    tx: &mut Tx<'_>,
    wanted: &CreateMesh,
) -> Result<NewMesh> {
    let (name, written) = (
        parse_name(&wanted.name)?,
        parse_metadata(&wanted.display_name, &wanted.labels)?,
    );
    let version = parse_version(&wanted.version)?;
    let release = find_release(tx, &version).await?;
    let edition = granted_edition(tx, wanted.edition.as_deref()).await?;
    if wanted.clusters.is_empty() || wanted.clusters.len() > MAX_MEMBERS {
        return Err(ApiError::invalid_field(
            "/clusters",
            format!("a mesh has 1 to {MAX_MEMBERS} clusters"),
        ));
    }
    let mut members: Vec<ClusterId> = Vec::new();
    let mut versions = Vec::new();
    for (index, text) in wanted.clusters.iter().enumerate() {
        let pointer = format!("/clusters/{index}");
        let absent = || ApiError::invalid_field(&pointer, "there is no such cluster");
        let cluster = require_referenced(
            tx.get_cluster(text.parse().map_err(|_| absent())?).await,
            absent,
        )?;
        if cluster.state != ClusterState::Ready {
            return Err(ApiError::invalid_field(
                &pointer,
                format!("{} is not ready", cluster.name),
            )
            .with_code("cluster_not_ready"));
        }
        if !cluster.holds_identity {
            let said = format!(
                "{} is the same cluster as an older registration's",
                cluster.name
            );
            return Err(
                ApiError::invalid_field(&pointer, said).with_code("cluster_registered_already")
            );
        }
        members.push(cluster.id);
        versions.push((
            cluster.name,
            parse_kubernetes_version(cluster.kubernetes_version.as_deref()),
        ));
    }
    if members.iter().collect::<BTreeSet<_>>().len() != members.len() {
        return Err(ApiError::invalid_field(
            "/clusters",
            "a cluster is named twice",
        ));
    }
    require_runnable_release(caller, tx, &release, edition, &versions).await?;
    let hosting = tx.list_hosting_clusters().await?;
    let nowhere = || {
        ApiError::new(
            StatusCode::CONFLICT,
            "no_hosting_cluster",
            "There is no hosting cluster.",
            "Ask the operator to add one.",
        )
    };
    let hosting = hosting.first().ok_or_else(nowhere)?.id;
    let authority =
        (caller.app.new_authority)(name.as_str(), caller.app.clock.now()).map_err(|error| {
            tracing::error!(error, "could not create the CA of a new mesh");
            ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "The mesh's authority could not be made.",
                "Try again.",
            )
        })?;
    Ok(NewMesh {
        id: MeshId(caller.app.clock.new_uuid()),
        name: name.to_string(),
        edition,
        hosting_cluster: hosting,
        authority,
        version,
        members,
        metadata: written,
        deletion_protection: wanted.deletion_protection,
    })
}

/// Returns the edition of a new mesh: the requested edition if the operator granted it to the
/// tenant, or the highest granted edition if none is requested.
async fn granted_edition(tx: &mut Tx<'_>, wanted: Option<&str>) -> Result<Edition> {
    let granted = tx.current_tenant().await?.edition;
    let wanted = wanted
        .map(|text| parse_edition("/edition", text))
        .transpose()?
        .unwrap_or(granted);
    if wanted > granted {
        let said = format!(
            "the highest edition that was granted to this tenant is {}",
            wire_name(&granted)
        );
        return Err(ApiError::invalid_field("/edition", said).with_code("edition_not_granted"));
    }
    Ok(wanted)
}

/// Reads the release with this version from the catalogue.
pub(crate) async fn find_release(tx: &mut Tx<'_>, version: &Version) -> Result<Release> {
    let releases = tx.list_releases().await?;
    let absent = || {
        ApiError::invalid_field("/version", format!("{version} is not in the catalogue"))
            .with_code("version_not_in_catalogue")
    };
    releases
        .into_iter()
        .find(|release| release.version == *version)
        .ok_or_else(absent)
}

/// Refuses a release that a mesh of this edition with these clusters may not run.
async fn require_runnable_release(
    caller: &Caller,
    tx: &mut Tx<'_>,
    release: &Release,
    edition: Edition,
    members: &[(String, (u32, u32))],
) -> Result<()> {
    let policy = tx.upgrade_policy().await?;
    let today = caller
        .app
        .clock
        .now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date();
    let reasons = assess_release(
        release,
        &UpgradeContext {
            policy: &policy,
            edition,
            members,
            today,
        },
    );
    if is_allowed(&reasons) {
        return Ok(());
    }
    Err(
        ApiError::invalid_field("/version", blocking_messages(&reasons))
            .with_code("version_refused"),
    )
}

/// List the tenant's meshes
///
/// Returns the meshes that the caller may see, from the oldest to the newest. With `show_deleted`
/// the list includes deleted meshes.
#[utoipa::path(get, path = "/v1/meshes", operation_id = "listMeshes", tag = "meshes",
    params(("name" = Option<String>, Query), ("label_selector" = Option<String>, Query, description = "For example team=payments,tier!=test,!old"),
        ("show_deleted" = Option<bool>, Query), ("page_size" = Option<i64>, Query, description = "1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = MeshList)))]
pub(crate) async fn list_meshes(
    Authenticated(caller, database): Authenticated,
    list: ListRequest<ResourceFilter>,
) -> Result<Json<MeshList>> {
    let found = database
        .begin_read()
        .await?
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
        .update_mesh_metadata(&seen, &written, protection)
        .await?;
    let changed = change.tx.get_mesh(seen.id).await?;
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
    let mesh = tx.get_mesh(parse_id(text, "mesh")?).await?;
    caller.require_permission_on(action, &[Scope::Mesh(mesh.id)], "mesh")?;
    if mesh.state == MeshState::Deleted {
        Err(ApiError::not_found("mesh"))
    } else {
        Ok(mesh)
    }
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
    let mesh = change.tx.get_mesh(parse_id(&mesh, "mesh")?).await?;
    caller.require_permission_on(Action::ChangeMeshes, &[Scope::Mesh(mesh.id)], "mesh")?;
    let conflict =
        |code, said: String, hint| Err(ApiError::new(StatusCode::CONFLICT, code, said, hint));
    if mesh.state != MeshState::Deleted {
        return conflict(
            "mesh_not_deleted",
            format!("{} is not deleted.", mesh.name),
            "There is nothing to bring back.",
        );
    }
    let remains = change.tx.get_deleted_mesh(mesh.id).await?;
    if !remains.has_authority {
        let hint = "Create another mesh; its workloads get certificates of another authority.";
        return conflict(
            "undelete_too_late",
            format!("{} was deleted more than 30 days ago.", mesh.name),
            hint,
        );
    }
    for member in &remains.members {
        match change.tx.get_cluster(*member).await {
            Ok(cluster) if cluster.state == ClusterState::Ready => {}
            Ok(cluster) => {
                let hint = "See what is wrong with the cluster, then try again.";
                return conflict(
                    "cluster_not_ready",
                    format!("{} is not ready.", cluster.name),
                    hint,
                );
            }
            Err(StoreError::NotFound { .. }) => {
                let hint = "Create another mesh from the clusters that there are.";
                return conflict(
                    "cluster_gone",
                    format!("{member} was a member and was forgotten since."),
                    hint,
                );
            }
            Err(error) => return Err(error.into()),
        }
    }
    change.tx.check_quota(QuotaResource::Meshes).await?;
    change.tx.undelete_mesh(mesh.id, &remains.members).await?;
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
            "mesh_not_failed",
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
            "upgrade_abandoned",
            said,
            hint,
        ));
    }
    change
        .tx
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
            "deletion_protected",
            detail,
            hint,
        ));
    }
    let now = caller.app.clock.now();
    if let Some(reason) = reason {
        change
            .tx
            .preempt_for_deletion(mesh.id, &caller.principal, caller.app.clock.as_ref())
            .await?;
        leaving::check_no_upgrade_under_way(&mut change.tx, mesh.id).await?;
        change.record_forced(mesh.id, reason);
    }
    change
        .tx
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

/// List a mesh's upgrade options
///
/// Returns each release of the catalogue and, for each strategy, whether the mesh can be upgraded
/// to it, with all reasons.
#[utoipa::path(get, path = "/v1/meshes/{mesh_id}/upgrade-options", operation_id = "listUpgradeOptions", tag = "upgrades",
    params(("mesh_id" = String, Path)), responses((status = 200, body = UpgradeOptionList)))]
pub(crate) async fn list_upgrade_options(
    Authenticated(caller, database): Authenticated,
    Path(mesh): Path<String>,
) -> Result<Json<UpgradeOptionList>> {
    let mut tx = database.begin_read().await?;
    let mesh = authorized_mesh(&caller, &mut tx, &mesh, Action::Read).await?;
    let (releases, policy) = (tx.list_releases().await?, tx.upgrade_policy().await?);
    drop(tx);
    let members = member_kubernetes_versions(&mesh);
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
    let current = &mesh.current.version;
    let items = releases.iter().map(|release| {
        let judged = [Strategy::InPlace, Strategy::Canary].map(|strategy| {
            (
                strategy,
                assess_upgrade(current, release, strategy, &around),
            )
        });
        let direct = judged.iter().any(|(_, reasons)| is_allowed(reasons));
        let way = if direct {
            None
        } else {
            find_upgrade_path(current, &release.version, &releases, &around)
        };
        UpgradeOption {
            version: release.version.to_string(),
            strategies: judged
                .iter()
                .map(|(strategy, judged)| StrategyOption {
                    strategy: wire_name(strategy),
                    allowed: is_allowed(judged),
                    reasons: reason_views(judged),
                })
                .collect(),
            path: way
                .unwrap_or_default()
                .iter()
                .map(|(release, _)| release.version.to_string())
                .collect(),
        }
    });
    Ok(Json(UpgradeOptionList {
        items: items.collect(),
        next_page_token: None,
    }))
}

/// Returns the name and the Kubernetes version of each member.
pub(crate) fn member_kubernetes_versions(
    mesh: &meshwright_store::Mesh,
) -> Vec<(String, (u32, u32))> {
    mesh.members
        .iter()
        .map(|member| {
            (
                member.name.clone(),
                parse_kubernetes_version(member.kubernetes_version.as_deref()),
            )
        })
        .collect()
}

/// Parses the major and minor version of Kubernetes. An unknown version counts as older than all
/// others, so that each rule about a minimum version refuses it.
fn parse_kubernetes_version(version: Option<&str>) -> (u32, u32) {
    let mut parts = version
        .unwrap_or_default()
        .trim_start_matches('v')
        .split('.')
        .map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Joins the messages of all blocking reasons into one sentence.
pub(crate) fn blocking_messages(reasons: &[Reason]) -> String {
    let blocking = reasons
        .iter()
        .filter(|reason| reason.severity == Severity::Block);
    blocking
        .map(|reason| reason.message.as_str())
        .collect::<Vec<_>>()
        .join("; ")
}

/// Get a mesh's data plane
///
/// Returns the namespaces, workloads and connected proxies as a worker last observed them at the
/// time `observed_at`.
#[utoipa::path(get, path = "/v1/meshes/{mesh_id}/data-plane", operation_id = "getDataPlane", tag = "data plane",
    params(("mesh_id" = String, Path)), responses((status = 200, body = DataPlane)))]
pub(crate) async fn get_data_plane(
    Authenticated(caller, database): Authenticated,
    Path(mesh): Path<String>,
) -> Result<Json<DataPlane>> {
    let mut tx = database.begin_read().await?;
    let mesh = authorized_mesh(&caller, &mut tx, &mesh, Action::Read).await?;
    Ok(Json(views::data_plane(
        &mesh,
        tx.last_observation(mesh.id).await?,
    )))
}

/// Set a namespace's injection label
///
/// Starts an operation that sets or removes the injection label of the namespace. A namespace never
/// has both kinds of label, `istio-injection` and `istio.io/rev`: the operation removes the other
/// kind. Pods change when they are restarted. A namespace outside the mesh can join while an
/// upgrade is planned, blocked or complete; the upgrade then waits for the end of this operation.
#[utoipa::path(post, path = "/v1/meshes/{mesh_id}/injection", operation_id = "setInjection", tag = "data plane", request_body = SetInjection,
    params(("mesh_id" = String, Path)),
    responses((status = 202, body = Operation)))]
pub(crate) async fn set_injection(
    Authenticated(caller, database): Authenticated,
    Path(mesh): Path<String>,
    body: Body<SetInjection>,
) -> Result<Response> {
    let mut change = caller
        .begin_mutation(database, "setInjection", &body)
        .await?;
    let mesh = authorized_mesh(&caller, &mut change.tx, &mesh, Action::ChangeMeshes).await?;
    let wanted = &body.value;
    require_member_namespace(&mesh, &wanted.cluster, &wanted.namespace, "")?;
    let seen = change
        .tx
        .last_observation(mesh.id)
        .await?
        .map(|(_, survey)| survey)
        .unwrap_or_default();
    let member = seen
        .members
        .iter()
        .find(|member| member.member.as_str() == wanted.cluster);
    let joins = member.is_none_or(|member| is_outside_mesh(member, &wanted.namespace));
    let beside = if joins {
        LockMode::WithIdleUpgrade
    } else {
        LockMode::Exclusive
    };
    if let Some(label) = &wanted.label {
        let known = injection_labels(&mesh, member);
        if !known.contains(label) {
            return Err(ApiError::invalid_field(
                "/label",
                format!("no webhook would match; there are {}", known.join(", ")),
            )
            .with_code("no_such_revision"));
        }
    }
    let arguments =
        json!({ "member": wanted.cluster, "namespace": wanted.namespace, "label": wanted.label });
    start_operation(
        change,
        &caller,
        mesh.id,
        (OperationKind::SetInjection, beside),
        arguments,
    )
    .await
}

/// Returns true if no revision injects the namespace and none of its pods has a sidecar, which
/// means that an upgrade has changed nothing in it.
fn is_outside_mesh(member: &MemberObservation, namespace: &str) -> bool {
    let Some(namespace) = member
        .namespaces
        .iter()
        .find(|known| known.name == namespace)
    else {
        return true;
    };
    let injected = namespace
        .workloads
        .iter()
        .any(|workload| workload.live.iter().any(Option::is_some));
    let asks = !matches!(
        injected_by(&namespace.labels, &PodLabels::default(), &member.injectors),
        Injection::NotInjected(_)
    );
    !injected && !asks && namespace.unreachable.is_empty()
}

/// Returns the labels that an injection webhook in the member answers to, with those of alias tags,
/// as the member was last observed. A member without an observation has the tags and the revision
/// of each mesh.
fn injection_labels(
    mesh: &meshwright_store::Mesh,
    member: Option<&MemberObservation>,
) -> Vec<String> {
    let mut values: Vec<String> = match member {
        Some(member) => member
            .injectors
            .iter()
            .map(|injector| injector.value.clone())
            .collect(),
        None => TAGS
            .into_iter()
            .map(str::to_owned)
            .chain([mesh.current.name.to_string()])
            .collect(),
    };
    values.sort();
    let enabled = values
        .iter()
        .any(|value| value == "default")
        .then(|| "istio-injection=enabled".to_owned());
    enabled
        .into_iter()
        .chain(
            values
                .into_iter()
                .map(|value| format!("istio.io/rev={value}")),
        )
        .collect()
}

/// Restart workloads with outdated sidecars
///
/// Starts an operation that restores the mesh's tags that were removed from a member. It then
/// restarts, in batches, each workload with a pod whose sidecar differs from what its labels ask
/// for. The operation can run while an upgrade is planned, blocked or complete; the upgrade then
/// waits for its end.
#[utoipa::path(post, path = "/v1/meshes/{mesh_id}/restarts", operation_id = "createRestart", tag = "data plane",
    params(("mesh_id" = String, Path)),
    responses((status = 202, body = Operation)))]
pub(crate) async fn create_restart(
    Authenticated(caller, database): Authenticated,
    Path(mesh): Path<String>,
    body: Body<EmptyBody>,
) -> Result<Response> {
    let mut change = caller
        .begin_mutation(database, "createRestart", &body)
        .await?;
    let mesh = authorized_mesh(&caller, &mut change.tx, &mesh, Action::ChangeMeshes).await?;
    start_operation(
        change,
        &caller,
        mesh.id,
        (OperationKind::Restart, LockMode::WithIdleUpgrade),
        Value::Null,
    )
    .await
}
