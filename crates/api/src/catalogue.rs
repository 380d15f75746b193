//! What the operator offers.

use axum::Json;
use axum::extract::State;
use model::rules::Severity;

use crate::App;
use crate::auth::Caller;
use crate::problem::Result;
use crate::views::name;

/// List hosting clusters
///
/// Where control planes can run.
#[utoipa::path(get, path = "/v1/hosting-clusters", operation_id = "listHostingClusters", tag = "catalogue",
    responses((status = 200, body = wire::HostingClusterList), (status = "default", body = wire::Problem)))]
pub(crate) async fn list_hosting_clusters(
    _caller: Caller,
    State(app): State<App>,
) -> Result<Json<wire::HostingClusterList>> {
    let items = app
        .store
        .hosting_clusters()
        .await?
        .into_iter()
        .map(|hosting| wire::HostingCluster { id: hosting.id.to_string(), name: hosting.name });
    Ok(Json(wire::HostingClusterList { items: items.collect(), next_page_token: None }))
}

/// List releases
///
/// The catalogue, newest first.
#[utoipa::path(get, path = "/v1/releases", operation_id = "listReleases", tag = "catalogue",
    responses((status = 200, body = wire::ReleaseList), (status = "default", body = wire::Problem)))]
pub(crate) async fn list_releases(_caller: Caller, State(app): State<App>) -> Result<Json<wire::ReleaseList>> {
    let items = app.store.releases().await?.into_iter().map(|release| wire::Release {
        version: release.version.to_string(),
        state: name(&release.state),
        supported_until: release.supported_until.map(|date| date.to_string()),
        kubernetes: format!(
            "1.{} to 1.{} ({})",
            release.kubernetes.min, release.kubernetes.tested_max, release.kubernetes.source
        ),
        quirks: release.quirks.iter().map(name).collect(),
    });
    Ok(Json(wire::ReleaseList { items: items.collect(), next_page_token: None }))
}

/// The wire form of a rule's reasons.
pub(crate) fn reasons(reasons: &[model::rules::Reason]) -> Vec<wire::Reason> {
    let severity = |severity: Severity| name(&severity);
    reasons
        .iter()
        .map(|reason| wire::Reason {
            code: name(&reason.code),
            severity: severity(reason.severity),
            message: reason.message.clone(),
        })
        .collect()
}
