//! Renews the credentials of clusters.

use std::time::Duration;

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use meshwright_model::access::Action;
use meshwright_model::credential::MAX_CREDENTIAL_OVERLAP;
use meshwright_model::operation::OperationKind;
use meshwright_model::problem::ProblemCode;
use meshwright_store::{Cluster, ClusterState, OpenRenewal};
use meshwright_wire::{Operation, RenewCredential};

use crate::error::{ApiError, Result};
use crate::request::caller::Authenticated;
use crate::request::mutation::Body;
use crate::request::params::check_if_match;
use crate::resources::clusters::{authorized_cluster, parse_kubeconfig, start_operation};

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
    if let Some(renewal) = change.tx.clusters().lock_open_renewal(found.id).await? {
        return Err(renewal_conflict(&found, &renewal));
    }
    change
        .tx
        .clusters()
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
    ApiError::new(
        StatusCode::CONFLICT,
        ProblemCode::ClusterNotReady,
        said,
        hint,
    )
}

/// Builds the problem for a request that must wait until a renewal ends. The hint names the command
/// that ends the renewal.
pub(super) fn renewal_conflict(cluster: &Cluster, renewal: &OpenRenewal) -> ApiError {
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
    ApiError::new(
        StatusCode::CONFLICT,
        ProblemCode::RenewalUnderWay,
        said,
        hint,
    )
}
