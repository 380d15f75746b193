//! Runs the commands that show the data plane of a mesh.

use meshwright_wire::DataPlane;

use crate::Result;
use crate::client::Client;
use crate::options::{DataPlaneCommand, OutputFormat};
use crate::output::{eprint_line, or_dash, print_value};

/// Prints a part of a mesh's data plane as a worker last observed it.
pub(crate) async fn run_data_plane_command(
    client: &Client,
    format: OutputFormat,
    command: DataPlaneCommand,
) -> Result<()> {
    match command {
        DataPlaneCommand::Namespaces { mesh } => {
            print_data_plane(
                client,
                format,
                &mesh,
                &["cluster", "namespace", "label", "injected by", "conflict"],
                |view| {
                    let row = |view: &meshwright_wire::NamespaceView| {
                        vec![
                            view.cluster.clone(),
                            view.name.clone(),
                            or_dash(view.label.as_ref()),
                            or_dash(view.injected_by.as_ref()),
                            or_dash(view.conflict.as_ref()),
                        ]
                    };
                    view.namespaces.iter().map(row).collect()
                },
            )
            .await
        }
        DataPlaneCommand::Workloads { mesh } => {
            print_data_plane(
                client,
                format,
                &mesh,
                &[
                    "cluster",
                    "workload",
                    "pods",
                    "carries",
                    "wanted",
                    "restart needed because of",
                ],
                |view| {
                    let row = |view: &meshwright_wire::WorkloadView| {
                        vec![
                            view.cluster.clone(),
                            view.name.clone(),
                            view.pods.to_string(),
                            view.revisions.join(","),
                            or_dash(view.wanted.as_ref()),
                            or_dash(view.restart_reason.as_ref()),
                        ]
                    };
                    view.workloads.iter().map(row).collect()
                },
            )
            .await
        }
        DataPlaneCommand::Proxies { mesh } => {
            print_data_plane(
                client,
                format,
                &mesh,
                &["proxy", "cluster", "revision", "version", "synced", "ghost"],
                |view| {
                    let row = |view: &meshwright_wire::ProxyView| {
                        vec![
                            view.proxy.clone(),
                            view.cluster.clone(),
                            view.revision.clone(),
                            view.version.clone(),
                            view.synced.to_string(),
                            view.ghost.to_string(),
                        ]
                    };
                    view.proxies.iter().map(row).collect()
                },
            )
            .await
        }
    }
}

async fn print_data_plane(
    client: &Client,
    format: OutputFormat,
    mesh: &str,
    header: &[&str],
    rows: impl FnOnce(&DataPlane) -> Vec<Vec<String>>,
) -> Result<()> {
    let id = client.resolve_mesh_id(mesh).await?;
    let view: DataPlane = client.get(&format!("/v1/meshes/{id}/data-plane")).await?;
    if format == OutputFormat::Table {
        let seen = view
            .observed_at
            .map_or_else(|| "never".to_owned(), |at| at.to_string());
        eprint_line(&format!("observed at {seen}"));
        for missing in &view.missing_tags {
            eprint_line(&format!(
                "the tag {} was removed from {}: meshwright mesh restart puts it back",
                missing.tag, missing.cluster
            ));
        }
    }
    print_value(format, &view, header, rows)
}
