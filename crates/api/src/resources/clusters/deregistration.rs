//! Deregisters clusters.

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use meshwright_model::access::Action;
use meshwright_model::ids::OperationId;
use meshwright_model::operation::{OperationKind, OperationState};
use meshwright_model::problem::ProblemCode;
use meshwright_store::{Cluster, ClusterState};
use meshwright_wire::{DeleteOptions, Operation};

use crate::error::{ApiError, Result};
use crate::request::caller::{Authenticated, Caller};
use crate::request::mutation::{Body, Mutation};
use crate::request::params::check_if_match;
use crate::resources::clusters::renewal::renewal_conflict;
use crate::resources::clusters::{authorized_cluster, start_operation_as};
use crate::resources::{leaving, views};

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
    change.tx.clusters().delete_cluster(found.id).await?;
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
            ProblemCode::DeregistrationUnderWay,
            said,
            hint,
        ));
    }
    if let Some(renewal) = change.tx.clusters().lock_open_renewal(found.id).await? {
        // A worker that still holds the renewal could add objects to our service account after the
        // removal looked at it. Such a worker gives the renewal up within minutes.
        if reason.is_none() || renewal.lease_held {
            return Err(renewal_conflict(found, &renewal));
        }
        change
            .tx
            .operations()
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
        .clusters()
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
