//! Handles requests for the clusters of a tenant: registration, credentials, and deregistration.

use std::time::Duration;

use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use meshwright_model::access::{Action, Scope};
use meshwright_model::credential::MAX_CREDENTIAL_OVERLAP;
use meshwright_model::ids::{ClusterId, OperationId};
use meshwright_model::operation::{OperationKind, OperationState};
use meshwright_model::quota::QuotaResource;
use meshwright_store::{Cluster, ClusterState, NewCluster, NewOperation, OpenRenewal, Tx};
use meshwright_wire::{
    ChangeCluster, ClusterList, DeleteOptions, Operation, RegisterCluster, RenewCredential,
};

use crate::error::{ApiError, Result};
use crate::request::caller::{Authenticated, Caller};
use crate::request::mutation::{Body, Mutation, MutationOutcome};
use crate::request::pagination::ListRequest;
use crate::request::params::{
    ResourceFilter, check_if_match, etag, merge_metadata, parse_id, parse_metadata, parse_name,
};
use crate::resources::leaving;
use crate::resources::views;

/// Register a Kubernetes cluster
///
/// Starts an operation that connects to the cluster with the submitted kubeconfig, checks the
/// cluster and creates a service account for Meshwright in it. The answer is this operation.
#[utoipa::path(post, path = "/v1/clusters", operation_id = "registerCluster", tag = "clusters", request_body = RegisterCluster,
    responses((status = 202, body = Operation)))]
pub(crate) async fn register_cluster(
    Authenticated(caller, database): Authenticated,
    body: Body<RegisterCluster>,
) -> Result<Response> {
    caller.require_permission(Action::ChangeClusters)?;
    let mut change = caller
        .begin_mutation(database, "registerCluster", &body)
        .await?;
    change.tx.check_quota(QuotaResource::Clusters).await?;
    let name = parse_name(&body.value.name)?;
    let (server, kubeconfig) = parse_kubeconfig(&caller, &body.value.kubeconfig)?;
    let (clock, now) = (&caller.app.clock, caller.app.clock.now());
    let cluster = ClusterId(clock.new_uuid());
    let written = parse_metadata(&body.value.display_name, &body.value.labels)?;
    let new = NewCluster {
        id: cluster,
        name: name.to_string(),
        server,
        kubeconfig,
        metadata: written,
    };
    change.tx.create_cluster(&new, now).await?;
    start_operation(
        &caller,
        change,
        OperationKind::RegisterCluster,
        cluster,
        serde_json::Value::Null,
    )
    .await
}

/// Queues an operation on a cluster under a new id, and answers with the operation.
async fn start_operation(
    caller: &Caller,
    change: Mutation<'_>,
    kind: OperationKind,
    cluster: ClusterId,
    arguments: serde_json::Value,
) -> Result<Response> {
    start_operation_as(
        OperationId(caller.app.clock.new_uuid()),
        caller,
        change,
        kind,
        (cluster, arguments),
    )
    .await
}

/// Queues an operation on a cluster under the given id, and answers with the operation.
async fn start_operation_as(
    id: OperationId,
    caller: &Caller,
    mut change: Mutation<'_>,
    kind: OperationKind,
    (cluster, arguments): (ClusterId, serde_json::Value),
) -> Result<Response> {
    let due_in = Duration::ZERO;
    let operation = NewOperation {
        id,
        kind,
        mesh: None,
        cluster: Some(cluster),
        upgrade: None,
        arguments,
        due_in,
    };
    change
        .tx
        .create_operation(&operation, caller.app.clock.now())
        .await?;
    let shown = views::operation(&change.tx.get_operation(id).await?, (0, 0));
    change
        .commit_response(
            MutationOutcome::new(StatusCode::ACCEPTED, cluster)
                .with_location(format!("/v1/operations/{id}")),
            &shown,
        )
        .await
}

/// Renew a cluster's credential
///
/// Issues the next credential of our service account in the cluster, with the present credential or
/// with a submitted kubeconfig, and gives it to the control planes that read the cluster, without a
/// restart. The credential before it stays valid for the overlap. A submitted kubeconfig may name
/// another address or certificate authority of the same cluster. Control planes that read either of
/// them only when they start are then restarted, one replica after the other.
#[utoipa::path(post, path = "/v1/clusters/{cluster_id}/credentials", operation_id = "renewCredential", tag = "clusters", request_body = RenewCredential,
    params(("cluster_id" = String, Path), ("If-Match" = Option<String>, Header)), responses((status = 202, body = Operation)))]
pub(crate) async fn renew_credential(
    Authenticated(caller, database): Authenticated,
    Path(cluster): Path<String>,
    headers: HeaderMap,
    body: Body<RenewCredential>,
) -> Result<Response> {
    let mut change = caller
        .begin_mutation(database, "renewCredential", &body)
        .await?;
    let found =
        authorized_cluster(&caller, &mut change.tx, &cluster, Action::ChangeClusters).await?;
    check_if_match(&headers, found.generation)?;
    let overlap = Duration::from_secs(body.value.overlap_seconds.into());
    if overlap > MAX_CREDENTIAL_OVERLAP {
        return Err(ApiError::invalid_field(
            "/overlap_seconds",
            format!("at most {}", MAX_CREDENTIAL_OVERLAP.as_secs()),
        ));
    }
    let submitted = body
        .value
        .kubeconfig
        .as_ref()
        .map(|text| parse_kubeconfig(&caller, text))
        .transpose()?;
    if !matches!(
        found.state,
        ClusterState::Ready | ClusterState::Unreachable(_)
    ) {
        return Err(cluster_not_ready(&found));
    }
    if let Some(renewal) = change.tx.lock_open_renewal(found.id).await? {
        return Err(renewal_conflict(&found, &renewal));
    }
    change
        .tx
        .submit_kubeconfig(
            found.id,
            submitted
                .as_ref()
                .map(|(_, kubeconfig)| kubeconfig.as_slice()),
        )
        .await?;
    start_operation(
        &caller,
        change,
        OperationKind::RenewCredential,
        found.id,
        found.renewal_arguments(overlap),
    )
    .await
}

/// Builds the problem for a cluster of which we hold no credential, so that none can be renewed.
/// The hint depends on the state: a cluster whose name is in use cannot be registered a second
/// time.
fn cluster_not_ready(cluster: &Cluster) -> ApiError {
    let hint = match cluster.state {
        ClusterState::Registering => {
            "Wait until its registration has ended; `meshwright operation list` shows it."
        }
        ClusterState::Deregistering => {
            "Wait until its deregistration has ended; `meshwright cluster register` registers it again then."
        }
        _ => {
            "Remove it with `meshwright cluster delete`, then register it with `meshwright cluster register`."
        }
    };
    let said = format!(
        "{} is not ready, so we hold no credential of it.",
        cluster.name
    );
    ApiError::new(StatusCode::CONFLICT, "cluster_not_ready", said, hint)
}

/// Builds the problem for a request that must wait until a renewal ends. The hint names the command
/// that ends the renewal.
fn renewal_conflict(cluster: &Cluster, renewal: &OpenRenewal) -> ApiError {
    let (state, first) = if renewal.paused {
        (
            "paused",
            format!(
                "Go on with `meshwright operation retry {}`",
                renewal.operation
            ),
        )
    } else {
        ("under way", "Wait until it has ended".to_owned())
    };
    let said = format!("A renewal of {}'s credential is {state}.", cluster.name);
    let hint = format!(
        "{first}, or end it with `meshwright operation cancel {}`.",
        renewal.operation
    );
    ApiError::new(StatusCode::CONFLICT, "renewal_under_way", said, hint)
}

/// Reads a submitted kubeconfig. Returns the address of its API server, and the kubeconfig in the
/// strict form that is stored.
fn parse_kubeconfig(caller: &Caller, text: &str) -> Result<(String, Vec<u8>)> {
    let read = (caller.app.read_kubeconfig)(text);
    read.map_err(|(code, refused)| ApiError::invalid_field("/kubeconfig", refused).with_code(code))
}

/// List the tenant's clusters
///
/// Returns the clusters that the caller may see, from the oldest registration to the newest.
#[utoipa::path(get, path = "/v1/clusters", operation_id = "listClusters", tag = "clusters",
    params(("name" = Option<String>, Query), ("label_selector" = Option<String>, Query, description = "For example team=payments,tier!=test,!old"), ("page_size" = Option<i64>, Query, description = "1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = ClusterList)))]
pub(crate) async fn list_clusters(
    Authenticated(caller, database): Authenticated,
    list: ListRequest<ResourceFilter>,
) -> Result<Json<ClusterList>> {
    let found = database
        .begin_read()
        .await?
        .list_clusters(
            &caller.access_filter(),
            &list.filter.to_list_filter()?,
            list.page(&caller)?,
        )
        .await?;
    let (shown, next_page_token) = list.split_page(&caller, found, |cluster| cluster.id.0);
    let now = caller.app.clock.now();
    Ok(Json(ClusterList {
        items: shown
            .iter()
            .map(|cluster| views::cluster(cluster, now))
            .collect(),
        next_page_token,
    }))
}

/// Reads a cluster, and refuses it if the caller may not perform the action on it.
async fn authorized_cluster(
    caller: &Caller,
    tx: &mut Tx<'_>,
    text: &str,
    action: Action,
) -> Result<Cluster> {
    let cluster = tx.get_cluster(parse_id(text, "cluster")?).await?;
    caller.require_permission_on(action, &[Scope::Cluster(cluster.id)], "cluster")?;
    Ok(cluster)
}

/// Get a registered cluster
///
/// Returns the cluster with its state, credential and findings. The `ETag` changes with each change
/// by `changeCluster`.
#[utoipa::path(get, path = "/v1/clusters/{cluster_id}", operation_id = "getCluster", tag = "clusters",
    params(("cluster_id" = String, Path)), responses((status = 200, body = meshwright_wire::Cluster)))]
pub(crate) async fn get_cluster(
    Authenticated(caller, database): Authenticated,
    Path(cluster): Path<String>,
) -> Result<Response> {
    let found = authorized_cluster(
        &caller,
        &mut database.begin_read().await?,
        &cluster,
        Action::Read,
    )
    .await?;
    Ok((
        [(header::ETAG, etag(found.generation))],
        Json(views::cluster(&found, caller.app.clock.now())),
    )
        .into_response())
}

/// Change a cluster's metadata
///
/// Changes the display name and the labels. A field that is left out keeps its value. With
/// `If-Match` and an `ETag` from an earlier answer the request is refused if the cluster has
/// changed since.
#[utoipa::path(patch, path = "/v1/clusters/{cluster_id}", operation_id = "changeCluster", tag = "clusters", request_body = ChangeCluster,
    params(("cluster_id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = meshwright_wire::Cluster)))]
pub(crate) async fn change_cluster(
    Authenticated(caller, database): Authenticated,
    Path(cluster): Path<String>,
    headers: HeaderMap,
    body: Body<ChangeCluster>,
) -> Result<Response> {
    let mut change = caller
        .begin_mutation(database, "changeCluster", &body)
        .await?;
    let seen =
        authorized_cluster(&caller, &mut change.tx, &cluster, Action::ChangeClusters).await?;
    check_if_match(&headers, seen.generation)?;
    let written = merge_metadata(
        &seen.metadata,
        body.value.display_name.as_ref(),
        body.value.labels.as_ref(),
    )?;
    change.tx.update_cluster_metadata(&seen, &written).await?;
    let changed = change.tx.get_cluster(seen.id).await?;
    let now = caller.app.clock.now();
    let done = MutationOutcome::new(StatusCode::OK, seen.id)
        .with_etag(etag(changed.generation))
        .with_before(&views::cluster(&seen, now));
    change
        .commit_response(done, &views::cluster(&changed, now))
        .await
}

/// Deregister and forget a cluster
///
/// Starts an operation that removes our service account from the cluster and checks that it is
/// gone. The answer is this operation. A cluster that has no service account of ours is forgotten
/// at once (204). The request is refused while a mesh uses the cluster. A registration that is
/// under way ends with the code `cluster_gone`. With `force` and a reason, a cluster that does not
/// answer is left behind, and the operation shows what stays there. `force` also ends a renewal of
/// the cluster's credential that no worker is running.
#[utoipa::path(delete, path = "/v1/clusters/{cluster_id}", operation_id = "deleteCluster", tag = "clusters", request_body = DeleteOptions,
    params(("cluster_id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 202, body = Operation), (status = 204)))]
pub(crate) async fn delete_cluster(
    Authenticated(caller, database): Authenticated,
    Path(cluster): Path<String>,
    headers: HeaderMap,
    body: Body<DeleteOptions>,
) -> Result<Response> {
    let reason = leaving::force_reason(&body.value)?;
    let mut change = caller
        .begin_mutation(database, "deleteCluster", &body)
        .await?;
    let found =
        authorized_cluster(&caller, &mut change.tx, &cluster, Action::ChangeClusters).await?;
    check_if_match(&headers, found.generation)?;
    if found.credential_lifetime.is_some() {
        return start_deregistration(&caller, change, &found, reason).await;
    }
    change.tx.delete_cluster(found.id).await?;
    change
        .commit_deletion(found.id, &views::cluster(&found, caller.app.clock.now()))
        .await
}

/// Queues the operation that removes our service account from a cluster.
async fn start_deregistration(
    caller: &Caller,
    mut change: Mutation<'_>,
    found: &Cluster,
    reason: Option<&str>,
) -> Result<Response> {
    if found.state == ClusterState::Deregistering && reason.is_none() {
        let said = format!("{} is being deregistered.", found.name);
        let hint = "Wait until it has ended, or use force if the cluster is dead.";
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "deregistration_under_way",
            said,
            hint,
        ));
    }
    if let Some(renewal) = change.tx.lock_open_renewal(found.id).await? {
        // A worker that still holds the renewal could add objects to our service account after the
        // removal looked at it. Such a worker gives the renewal up within minutes.
        if reason.is_none() || renewal.lease_held {
            return Err(renewal_conflict(found, &renewal));
        }
        change
            .tx
            .supersede_operation(
                renewal.operation,
                &OperationState::Superseded,
                caller.app.clock.now(),
            )
            .await?;
    }
    let id = OperationId(caller.app.clock.new_uuid());
    change
        .tx
        .begin_deregistration(found.id, id, caller.app.clock.now())
        .await?;
    if let Some(reason) = reason {
        change.record_forced(found.id, reason);
    }
    start_operation_as(
        id,
        caller,
        change,
        OperationKind::DeregisterCluster,
        (found.id, meshwright_store::force_arguments(reason)),
    )
    .await
}
