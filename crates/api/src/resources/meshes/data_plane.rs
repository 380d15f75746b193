//! Shows the data plane of a mesh, and changes its injection labels and sidecars.

use axum::Json;
use axum::extract::Path;
use axum::response::Response;
use meshwright_model::access::Action;
use meshwright_model::injection::{Injection, PodLabels, injected_by};
use meshwright_model::observation::{MemberObservation, TAGS};
use meshwright_model::operation::OperationKind;
use meshwright_model::problem::ProblemCode;
use meshwright_wire::{DataPlane, Operation, SetInjection};
use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::request::caller::Authenticated;
use crate::request::mutation::{Body, EmptyBody};
use crate::request::params::require_member_namespace;
use crate::resources::meshes::{LockMode, authorized_mesh, start_operation};
use crate::resources::views;

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
        tx.meshes().last_observation(mesh.id).await?,
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
        .meshes()
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
            .with_code(ProblemCode::NoSuchRevision));
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
