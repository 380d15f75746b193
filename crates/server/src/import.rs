//! Adds releases and hosting clusters on behalf of the operator.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshwright_kubernetes::Credential;
use meshwright_model::Clock;
use meshwright_model::clock::SystemClock;
use meshwright_model::ids::HostingClusterId;
use meshwright_store::{HostingCluster, Store, StoreError};

use crate::Failure;
use crate::args::{HostingCommand, ImportReleaseArgs, ReleasesCommand, StoreArgs};
use crate::charts::read_charts;
use crate::database::connect_store;

pub(crate) async fn run_releases_command(
    database: &StoreArgs,
    command: ReleasesCommand,
) -> Result<(), Failure> {
    let ReleasesCommand::Import(release) = command;
    let store = connect_store(database).await?;
    let version = release.version.clone();
    import_release(&store, *release).await?;
    println!("release {version} is in the catalogue");
    Ok(())
}

/// Adds a release from a folder with its charts. The operator chooses images and charts, and a
/// tenant never does.
pub(crate) async fn import_release(
    store: &Store,
    wanted: ImportReleaseArgs,
) -> Result<(), Failure> {
    let charts = meshwright_kubernetes::helm::pack_charts(&wanted.charts).map_err(Failure::io(
        format!("the charts base and istiod in {}", wanted.charts.display()),
    ))?;
    let request = wanted
        .facts
        .into_import_request(wanted.version, STANDARD.encode(charts));
    let release = meshwright_api::parse_import_release(&request, read_charts)
        .map_err(|wrong| Failure::Config(format!("{}: {}", wrong.pointer, wrong.message)))?;
    store
        .add_release(&release, SystemClock.now())
        .await
        .map_err(Failure::from)
}

pub(crate) async fn run_hosting_command(
    database: &StoreArgs,
    command: HostingCommand,
) -> Result<(), Failure> {
    let HostingCommand::Add { name, kubeconfig } = command;
    let store = connect_store(database).await?;
    add_hosting_cluster(&store, &name, &kubeconfig).await?;
    println!("hosting cluster {name} is added");
    Ok(())
}

pub(crate) async fn add_hosting_cluster(
    store: &Store,
    name: &str,
    file: &Path,
) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(Failure::io(format!("the kubeconfig {}", file.display())))?;
    let credential =
        Credential::parse(&text).map_err(|refused| Failure::Config(refused.to_string()))?;
    let hosting = HostingCluster {
        id: HostingClusterId(SystemClock.new_uuid()),
        name: name.to_owned(),
        created_at: SystemClock.now(),
    };
    store
        .add_hosting_cluster(&hosting, &credential.to_stored())
        .await
        .map_err(Failure::from)
}

/// Treats a conflict as success: an existing entry is the entry that was wanted, because `dev` can
/// be started twice on one folder.
pub(crate) fn ignore_conflict(result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(Failure::Store(StoreError::Conflict { .. })) => Ok(()),
        other => other,
    }
}
