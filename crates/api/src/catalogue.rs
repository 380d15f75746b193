//! What the operator offers.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use model::Version;
use model::access::Action;
use model::release::{Release, ReleaseState};
use model::rules::Severity;

use crate::App;
use crate::auth::Caller;
use crate::change::{Body, Done};
use crate::problem::{ApiError, Result};
use crate::views::name;

/// List hosting clusters
///
/// Where control planes can run.
#[utoipa::path(get, path = "/v1/hosting-clusters", operation_id = "listHostingClusters", tag = "catalogue",
    responses((status = 200, body = wire::HostingClusterList)))]
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
    responses((status = 200, body = wire::ReleaseList)))]
pub(crate) async fn list_releases(_caller: Caller, State(app): State<App>) -> Result<Json<wire::ReleaseList>> {
    let items = app.store.releases().await?.iter().map(view).collect();
    Ok(Json(wire::ReleaseList { items, next_page_token: None }))
}

fn view(release: &Release) -> wire::Release {
    wire::Release {
        version: release.version.to_string(),
        state: name(&release.state),
        supported_until: release.supported_until.map(|date| date.to_string()),
        kubernetes: format!(
            "1.{} to 1.{} ({})",
            release.kubernetes.min, release.kubernetes.tested_max, release.kubernetes.source
        ),
        quirks: release.quirks.iter().map(name).collect(),
    }
}

/// Offer, deprecate or withdraw a release
///
/// A withdrawn one is no target any more; what runs it goes on. For whoever operates the service.
#[utoipa::path(patch, path = "/v1/releases/{version}", operation_id = "changeRelease", tag = "catalogue", request_body = wire::ChangeRelease,
    params(("version" = String, Path)), responses((status = 200, body = wire::Release)))]
pub(crate) async fn change_release(
    caller: Caller,
    Path(version): Path<String>,
    body: Body<wire::ChangeRelease>,
) -> Result<Response> {
    caller.may(Action::ChangePlatform)?;
    let mut change = caller.change("changeRelease", &body).await?;
    let version: Version = version.parse().map_err(|_| ApiError::not_found("release"))?;
    let state: ReleaseState = serde_json::from_value(body.value.state.as_str().into())
        .map_err(|_| ApiError::field("/state", "a state is available, deprecated or withdrawn"))?;
    let known = caller.app.store.releases().await?.into_iter().find(|release| release.version == version);
    let before = known.ok_or_else(|| ApiError::not_found("release"))?;
    change.tx.set_release_state(&version, state).await?;
    let done = Done::new(StatusCode::OK, &version).replacing(&view(&before));
    change.done(done, &view(&Release { state, ..before })).await
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
