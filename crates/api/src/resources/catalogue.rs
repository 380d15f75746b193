//! Handles requests for the catalogue: hosting clusters and releases.

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use meshwright_model::Version;
use meshwright_model::access::Action;
use meshwright_model::ids::{HostingClusterId, TenantId};
use meshwright_model::problem::ProblemCode;
use meshwright_model::release::{Release, ReleaseState};
use meshwright_store::HostingCluster;
use meshwright_wire::{AddHostingCluster, FieldError, ImportRelease};

use crate::error::{ApiError, Result};
use crate::request::caller::Authenticated;
use crate::request::mutation::{Body, EmptyBody, MutationOutcome};
use crate::request::params::{known_value, parse_id, parse_name};
use crate::request::release_import::{
    self, known_channels, parse_day, parse_import_release, parse_text,
};

/// List all hosting clusters
///
/// Returns the clusters of the operator in which control planes can run.
#[utoipa::path(get, path = "/v1/hosting-clusters", operation_id = "listHostingClusters", tag = "catalogue",
    responses((status = 200, body = meshwright_wire::HostingClusterList)))]
pub(crate) async fn list_hosting_clusters(
    Authenticated(_caller, database): Authenticated,
) -> Result<Json<meshwright_wire::HostingClusterList>> {
    let found = database
        .begin_read()
        .await?
        .catalogue()
        .list_hosting_clusters()
        .await?
        .into_iter();
    let items = found.map(|hosting| meshwright_wire::HostingCluster {
        id: hosting.id.to_string(),
        name: hosting.name,
    });
    Ok(Json(meshwright_wire::HostingClusterList {
        items: items.collect(),
        next_page_token: None,
    }))
}

/// Add a hosting cluster
///
/// Adds a cluster in which the control planes of new meshes can run. This operation is for the
/// operator of the service.
#[utoipa::path(post, path = "/v1/hosting-clusters", operation_id = "addHostingCluster", tag = "catalogue", request_body = AddHostingCluster,
    responses((status = 201, body = meshwright_wire::HostingCluster)))]
pub(crate) async fn add_hosting_cluster(
    Authenticated(caller, database): Authenticated,
    body: Body<AddHostingCluster>,
) -> Result<Response> {
    caller.require_permission(Action::ChangePlatform)?;
    let mut change = caller
        .begin_mutation(database, "addHostingCluster", &body)
        .await?;
    let name = parse_name(&body.value.name)?.to_string();
    let (_, kubeconfig) =
        (caller.app.read_kubeconfig)(&body.value.kubeconfig).map_err(|(code, refused)| {
            ApiError::invalid_field("/kubeconfig", refused).with_code(code)
        })?;
    let (clock, id) = (
        &caller.app.clock,
        HostingClusterId(caller.app.clock.new_uuid()),
    );
    let hosting = HostingCluster {
        id,
        name,
        created_at: clock.now(),
    };
    change
        .tx
        .catalogue()
        .add_hosting_cluster(&hosting, &kubeconfig)
        .await?;
    let shown = meshwright_wire::HostingCluster {
        id: id.to_string(),
        name: hosting.name,
    };
    change
        .commit_response(MutationOutcome::new(StatusCode::CREATED, id), &shown)
        .await
}

/// Remove a hosting cluster
///
/// Removes the cluster from the catalogue. The request is refused as long as a mesh refers to the
/// cluster, even a deleted one. This operation is for the operator of the service.
#[utoipa::path(delete, path = "/v1/hosting-clusters/{hosting_cluster_id}", operation_id = "deleteHostingCluster", tag = "catalogue",
    params(("hosting_cluster_id" = String, Path)), responses((status = 204)))]
pub(crate) async fn delete_hosting_cluster(
    Authenticated(caller, database): Authenticated,
    Path(hosting): Path<String>,
    body: Body<EmptyBody>,
) -> Result<Response> {
    caller.require_permission(Action::ChangePlatform)?;
    let mut change = caller
        .begin_mutation(database, "deleteHostingCluster", &body)
        .await?;
    let id: HostingClusterId = parse_id(&hosting, "hosting cluster")?;
    let known = change
        .tx
        .catalogue()
        .list_hosting_clusters()
        .await?
        .into_iter()
        .find(|known| known.id == id);
    let before = known.ok_or_else(|| ApiError::not_found("hosting cluster"))?;
    change.tx.catalogue().delete_hosting_cluster(id).await?;
    change
        .commit_deletion(
            id,
            &meshwright_wire::HostingCluster {
                id: id.to_string(),
                name: before.name,
            },
        )
        .await
}

/// List releases of Istio
///
/// Returns the releases in the catalogue, newest first. The digest of the charts and the known
/// faults (`quirks`) are shown to the operator of the service only.
#[utoipa::path(get, path = "/v1/releases", operation_id = "listReleases", tag = "catalogue",
    responses((status = 200, body = meshwright_wire::ReleaseList)))]
pub(crate) async fn list_releases(
    Authenticated(caller, database): Authenticated,
) -> Result<Json<meshwright_wire::ReleaseList>> {
    let show = if caller.tenant == TenantId::PLATFORM {
        release_view
    } else {
        tenant_release_view
    };
    let items = database
        .begin_read()
        .await?
        .catalogue()
        .list_releases()
        .await?
        .iter()
        .map(show)
        .collect();
    Ok(Json(meshwright_wire::ReleaseList {
        items,
        next_page_token: None,
    }))
}

/// Builds the full view of a release, as the operator sees it.
fn release_view(release: &Release) -> meshwright_wire::Release {
    meshwright_wire::Release {
        version: release.version.to_string(),
        state: release.state.into(),
        released_on: release.released_on.map(|date| date.to_string()),
        supported_until: release.supported_until.map(|date| date.to_string()),
        channels: release.channels.iter().copied().map(Into::into).collect(),
        minimum_edition: release.minimum_edition.into(),
        hub: release.hub.clone(),
        tag: release.tag.clone(),
        charts_digest: release.digest.clone(),
        notes: release.notes.clone(),
        kubernetes: format!(
            "1.{} to 1.{} ({})",
            release.kubernetes.min, release.kubernetes.tested_max, release.kubernetes.source
        ),
        quirks: release.quirks.iter().copied().map(Into::into).collect(),
    }
}

/// Builds the view of a release for tenants. Tenants choose a release by version, edition and
/// Kubernetes range, and their clusters pull the images. The digest of the charts and the faults
/// that the service works around concern the operator only.
fn tenant_release_view(release: &Release) -> meshwright_wire::Release {
    meshwright_wire::Release {
        charts_digest: String::new(),
        quirks: Vec::new(),
        ..release_view(release)
    }
}

/// Turns an invalid field of an import into a problem. Charts have a code of their own, because the
/// error is in the archive and not in the request.
fn import_error(wrong: FieldError) -> ApiError {
    let charts = wrong.pointer == release_import::CHARTS_POINTER;
    let error = ApiError::from(wrong);
    if charts {
        error.with_code(ProblemCode::ChartsRefused)
    } else {
        error
    }
}

/// Import a release of Istio
///
/// Adds a release to the catalogue from the charts in the request. The clusters pull the images
/// from the hub themselves. This operation is for the operator of the service.
#[utoipa::path(post, path = "/v1/releases", operation_id = "importRelease", tag = "catalogue", request_body = ImportRelease,
    responses((status = 201, body = meshwright_wire::Release)))]
pub(crate) async fn import_release(
    Authenticated(caller, database): Authenticated,
    body: Body<ImportRelease>,
) -> Result<Response> {
    caller.require_permission(Action::ChangePlatform)?;
    let mut change = caller
        .begin_mutation(database, "importRelease", &body)
        .await?;
    let stored = parse_import_release(&body.value, caller.app.read_charts).map_err(import_error)?;
    change
        .tx
        .catalogue()
        .add_release(&stored, caller.app.clock.now())
        .await?;
    change
        .commit_response(
            MutationOutcome::new(StatusCode::CREATED, &stored.release.version),
            &release_view(&stored.release),
        )
        .await
}

/// Change a release's metadata
///
/// Makes the release available, deprecates it or withdraws it, and changes its channels, end of
/// support and notes. A withdrawn release is no target of new meshes and upgrades; meshes that run
/// it keep running. This operation is for the operator of the service.
#[utoipa::path(patch, path = "/v1/releases/{version}", operation_id = "changeRelease", tag = "catalogue", request_body = meshwright_wire::ChangeRelease,
    params(("version" = String, Path)), responses((status = 200, body = meshwright_wire::Release)))]
pub(crate) async fn change_release(
    Authenticated(caller, database): Authenticated,
    Path(version): Path<String>,
    body: Body<meshwright_wire::ChangeRelease>,
) -> Result<Response> {
    caller.require_permission(Action::ChangePlatform)?;
    let mut change = caller
        .begin_mutation(database, "changeRelease", &body)
        .await?;
    let version: Version = version
        .parse()
        .map_err(|_| ApiError::not_found("release"))?;
    let wanted = &body.value;
    let read = |state: &meshwright_wire::ReleaseState| {
        known_value(
            "/state",
            state,
            "a state is available, deprecated or withdrawn",
        )
    };
    let state: Option<ReleaseState> = wanted.state.as_ref().map(read).transpose()?;
    let offered = wanted.channels.as_deref().map(known_channels).transpose()?;
    let supported_until = parse_day("/supported_until", wanted.supported_until.as_ref())?;
    let notes = wanted
        .notes
        .as_deref()
        .map(|notes| parse_text("/notes", notes, 0))
        .transpose()?;
    let before = change.tx.catalogue().lock_release(&version).await?;
    let after = Release {
        state: state.unwrap_or(before.state),
        channels: offered.unwrap_or_else(|| before.channels.clone()),
        supported_until: supported_until.or(before.supported_until),
        notes: notes.unwrap_or_else(|| before.notes.clone()),
        ..before.clone()
    };
    change.tx.catalogue().update_release(&after).await?;
    change
        .commit_response(
            MutationOutcome::new(StatusCode::OK, &version).with_before(&release_view(&before)),
            &release_view(&after),
        )
        .await
}

/// Converts the reasons of a rule to their wire form.
pub(crate) fn reason_views(
    reasons: &[meshwright_model::rules::Reason],
) -> Vec<meshwright_wire::Reason> {
    reasons
        .iter()
        .map(|reason| meshwright_wire::Reason {
            code: reason.code.into(),
            severity: meshwright_wire::ReasonSeverity::from_name(reason.severity.as_str()),
            message: reason.message.clone(),
        })
        .collect()
}
