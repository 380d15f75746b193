//! Creates meshes: checks the wanted release, edition and clusters, and queues the operation.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use axum::response::Response;
use meshwright_model::access::Action;
use meshwright_model::edition::Edition;
use meshwright_model::ids::{ClusterId, HostingClusterId, MeshId};
use meshwright_model::operation::OperationKind;
use meshwright_model::problem::ProblemCode;
use meshwright_model::quota::QuotaResource;
use meshwright_model::release::Release;
use meshwright_model::rules::{UpgradeContext, assess_release, is_allowed};
use meshwright_store::{Cluster, ClusterState, NewMesh, Tx};
use meshwright_wire::{CreateMesh, Operation};
use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::request::caller::{Authenticated, Caller};
use crate::request::mutation::Body;
use crate::request::params::{
    known_edition, parse_metadata, parse_name, parse_version, require_referenced,
};
use crate::resources::meshes::{LockMode, start_operation};
use crate::resources::release_rules::{blocking_messages, find_release, parse_kubernetes_version};

/// Maximum number of clusters that a mesh may have.
const MAX_MEMBERS: usize = 100;

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
    change
        .tx
        .tenants()
        .check_quota(QuotaResource::Meshes)
        .await?;
    let new = resolve_new_mesh(&caller, &mut change.tx, &body.value).await?;
    change
        .tx
        .meshes()
        .create_mesh(&new, caller.app.clock.now())
        .await?;
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
    let name = parse_name(&wanted.name)?;
    let metadata = parse_metadata(&wanted.display_name, &wanted.labels)?;
    let version = parse_version(&wanted.version)?;
    let release = find_release(tx, &version).await?;
    let edition = granted_edition(tx, wanted.edition.as_ref()).await?;
    let clusters = resolve_members(tx, &wanted.clusters).await?;
    require_runnable_release(caller, tx, &release, edition, &clusters).await?;
    let hosting_cluster = choose_hosting_cluster(tx).await?;
    let authority = create_authority(caller, name.as_str())?;
    Ok(NewMesh {
        id: MeshId(caller.app.clock.new_uuid()),
        name: name.to_string(),
        edition,
        hosting_cluster,
        authority,
        version,
        members: clusters.iter().map(|cluster| cluster.id).collect(),
        metadata,
        deletion_protection: wanted.deletion_protection,
    })
}

/// Reads the clusters that become members, each of which must be usable and named once.
async fn resolve_members(tx: &mut Tx<'_>, wanted: &[String]) -> Result<Vec<Cluster>> {
    if wanted.is_empty() || wanted.len() > MAX_MEMBERS {
        return Err(ApiError::invalid_field(
            "/clusters",
            format!("a mesh has 1 to {MAX_MEMBERS} clusters"),
        ));
    }
    let mut clusters = Vec::new();
    for (index, text) in wanted.iter().enumerate() {
        let pointer = format!("/clusters/{index}");
        let absent = || ApiError::invalid_field(&pointer, "there is no such cluster");
        let cluster = require_referenced(
            tx.clusters()
                .get_cluster(text.parse().map_err(|_| absent())?)
                .await,
            absent,
        )?;
        require_usable_cluster(&cluster, &pointer)?;
        clusters.push(cluster);
    }
    let distinct: BTreeSet<ClusterId> = clusters.iter().map(|cluster| cluster.id).collect();
    if distinct.len() != clusters.len() {
        return Err(ApiError::invalid_field(
            "/clusters",
            "a cluster is named twice",
        ));
    }
    Ok(clusters)
}

/// Refuses a cluster that is not ready, or that is registered a second time.
fn require_usable_cluster(cluster: &Cluster, pointer: &str) -> Result<()> {
    if cluster.state != ClusterState::Ready {
        let said = format!("{} is not ready", cluster.name);
        return Err(ApiError::invalid_field(pointer, said).with_code(ProblemCode::ClusterNotReady));
    }
    if !cluster.holds_identity {
        let said = format!(
            "{} is the same cluster as an older registration's",
            cluster.name
        );
        return Err(
            ApiError::invalid_field(pointer, said).with_code(ProblemCode::ClusterRegisteredAlready)
        );
    }
    Ok(())
}

/// Returns the hosting cluster in which the control plane of a new mesh runs.
async fn choose_hosting_cluster(tx: &mut Tx<'_>) -> Result<HostingClusterId> {
    let hosting = tx.catalogue().list_hosting_clusters().await?;
    let absent = || {
        ApiError::new(
            StatusCode::CONFLICT,
            ProblemCode::NoHostingCluster,
            "There is no hosting cluster.",
            "Ask the operator to add one.",
        )
    };
    Ok(hosting.first().ok_or_else(absent)?.id)
}

/// Creates the CA of a new mesh, in the form that is stored.
fn create_authority(caller: &Caller, name: &str) -> Result<Vec<u8>> {
    (caller.app.new_authority)(name, caller.app.clock.now()).map_err(|error| {
        tracing::error!(error, "could not create the CA of a new mesh");
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ProblemCode::Internal,
            "The mesh's authority could not be made.",
            "Try again.",
        )
    })
}

/// Returns the edition of a new mesh: the requested edition if the operator granted it to the
/// tenant, or the highest granted edition if none is requested.
async fn granted_edition(
    tx: &mut Tx<'_>,
    wanted: Option<&meshwright_wire::Edition>,
) -> Result<Edition> {
    let granted = tx.tenants().current_tenant().await?.edition;
    let wanted = wanted
        .map(|sent| known_edition("/edition", sent))
        .transpose()?
        .unwrap_or(granted);
    if wanted > granted {
        let said = format!(
            "the highest edition that was granted to this tenant is {}",
            granted.as_str()
        );
        return Err(
            ApiError::invalid_field("/edition", said).with_code(ProblemCode::EditionNotGranted)
        );
    }
    Ok(wanted)
}

/// Refuses a release that a mesh of this edition with these clusters may not run.
async fn require_runnable_release(
    caller: &Caller,
    tx: &mut Tx<'_>,
    release: &Release,
    edition: Edition,
    clusters: &[Cluster],
) -> Result<()> {
    let members: Vec<_> = clusters
        .iter()
        .map(|cluster| {
            let version = parse_kubernetes_version(cluster.kubernetes_version.as_deref());
            (cluster.name.clone(), version)
        })
        .collect();
    let policy = tx.catalogue().upgrade_policy().await?;
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
            members: &members,
            today,
        },
    );
    if is_allowed(&reasons) {
        return Ok(());
    }
    Err(
        ApiError::invalid_field("/version", blocking_messages(&reasons))
            .with_code(ProblemCode::VersionRefused),
    )
}
