//! Clusters of a tenant.

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use model::ids::{ClusterId, OperationId};
use model::operation::OperationKind;
use store::{NewCluster, NewOperation};
use wire::{ClusterList, Operation, Problem, RegisterCluster};

use crate::auth::Caller;
use crate::problem::{ApiError, Result};
use crate::reply::{Body, id, name_field};
use crate::views;

/// Register a cluster
///
/// Answers at once with the operation that connects to it, checks it and makes an account of our own in it.
#[utoipa::path(post, path = "/v1/clusters", operation_id = "registerCluster", tag = "clusters", request_body = RegisterCluster,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated request safe")),
    responses((status = 202, body = Operation), (status = "default", body = Problem)))]
pub(crate) async fn register_cluster(caller: Caller, body: Body<RegisterCluster>) -> Result<Response> {
    caller.may_change()?;
    let mut tx = caller.begin().await?;
    if let Some(earlier) = body.earlier(&mut tx).await? {
        return Ok(earlier);
    }
    let name = name_field(&body.value.name)?;
    let read = (caller.app.read_kubeconfig)(&body.value.kubeconfig);
    let (server, kubeconfig) =
        read.map_err(|refused| ApiError::field("/kubeconfig", refused).coded("kubeconfig_refused"))?;
    let (clock, now) = (&caller.app.clock, caller.app.clock.now());
    let cluster = ClusterId(clock.uuid());
    tx.create_cluster(&NewCluster { id: cluster, name: name.to_string(), server, kubeconfig }, now).await?;
    let operation = NewOperation {
        id: OperationId(clock.uuid()),
        kind: OperationKind::RegisterCluster,
        mesh: None,
        cluster: Some(cluster),
        upgrade: None,
        arguments: serde_json::Value::Null,
        due_in: std::time::Duration::ZERO,
    };
    tx.create_operation(&operation, now).await?;
    let shown = views::operation(&tx.operation(operation.id).await?, &[], true);
    body.finish(tx, &caller, StatusCode::ACCEPTED, Some(format!("/v1/operations/{}", operation.id)), &shown).await
}

/// List clusters
#[utoipa::path(get, path = "/v1/clusters", operation_id = "listClusters", tag = "clusters",
    responses((status = 200, body = ClusterList), (status = "default", body = Problem)))]
pub(crate) async fn list_clusters(caller: Caller) -> Result<Json<ClusterList>> {
    let clusters = caller.begin().await?.clusters().await?;
    Ok(Json(ClusterList { items: clusters.iter().map(views::cluster).collect(), next_page_token: None }))
}

/// Get a cluster
#[utoipa::path(get, path = "/v1/clusters/{cluster_id}", operation_id = "getCluster", tag = "clusters",
    params(("cluster_id" = String, Path)), responses((status = 200, body = wire::Cluster), (status = "default", body = Problem)))]
pub(crate) async fn get_cluster(caller: Caller, Path(cluster): Path<String>) -> Result<Json<wire::Cluster>> {
    let found = caller.begin().await?.cluster(id(&cluster, "cluster")?).await?;
    Ok(Json(views::cluster(&found)))
}

/// Forget a cluster
///
/// Refused while a mesh uses it.
#[utoipa::path(delete, path = "/v1/clusters/{cluster_id}", operation_id = "deleteCluster", tag = "clusters",
    params(("cluster_id" = String, Path)), responses((status = 204), (status = "default", body = Problem)))]
pub(crate) async fn delete_cluster(caller: Caller, Path(cluster): Path<String>) -> Result<StatusCode> {
    caller.may_change()?;
    let mut tx = caller.begin().await?;
    tx.delete_cluster(id(&cluster, "cluster")?).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
