//! Handles requests for the clusters of a tenant: registers, lists, shows and changes them.

use std::time::Duration;

use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use meshwright_model::access::{Action, Scope};
use meshwright_model::ids::{ClusterId, OperationId};
use meshwright_model::operation::OperationKind;
use meshwright_model::quota::QuotaResource;
use meshwright_store::{Cluster, NewCluster, NewOperation, Tx};
use meshwright_wire::{ChangeCluster, ClusterList, Operation, RegisterCluster};

use crate::error::{ApiError, Result};
use crate::request::caller::{Authenticated, Caller};
use crate::request::mutation::{Body, Mutation, MutationOutcome};
use crate::request::pagination::ListRequest;
use crate::request::params::{
    ResourceFilter, check_if_match, etag, merge_metadata, parse_id, parse_metadata, parse_name,
};
use crate::resources::views;

pub(crate) mod deregistration;
pub(crate) mod renewal;

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
    change
        .tx
        .tenants()
        .check_quota(QuotaResource::Clusters)
        .await?;
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
    change.tx.clusters().create_cluster(&new, now).await?;
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
        .operations()
        .create_operation(&operation, caller.app.clock.now())
        .await?;
    let shown = views::operation(&change.tx.operations().get_operation(id).await?, (0, 0));
    change
        .commit_response(
            MutationOutcome::new(StatusCode::ACCEPTED, cluster)
                .with_location(format!("/v1/operations/{id}")),
            &shown,
        )
        .await
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
    params(("name" = Option<String>, Query), ("label_selector" = Option<String>, Query, description = "Labels that the items must have, for example team=payments,tier!=test,!old"), ("page_size" = Option<i64>, Query, description = "Number of items on a page, from 1 to 500"), ("page_token" = Option<String>, Query)),
    responses((status = 200, body = ClusterList)))]
pub(crate) async fn list_clusters(
    Authenticated(caller, database): Authenticated,
    list: ListRequest<ResourceFilter>,
) -> Result<Json<ClusterList>> {
    let found = database
        .begin_read()
        .await?
        .clusters()
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
    let cluster = tx
        .clusters()
        .get_cluster(parse_id(text, "cluster")?)
        .await?;
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
    change
        .tx
        .clusters()
        .update_cluster_metadata(&seen, &written)
        .await?;
    let changed = change.tx.clusters().get_cluster(seen.id).await?;
    let now = caller.app.clock.now();
    let done = MutationOutcome::new(StatusCode::OK, seen.id)
        .with_etag(etag(changed.generation))
        .with_before(&views::cluster(&seen, now));
    change
        .commit_response(done, &views::cluster(&changed, now))
        .await
}
