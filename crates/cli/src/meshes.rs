//! Runs the commands on meshes and their data planes.

use meshwright_wire::{
    ChangeMesh, CreateMesh, DataPlane, Mesh as MeshView, SetInjection, UpgradeOptionList,
};
use serde_json::json;

use crate::access::parse_key_values;
use crate::client::Client;
use crate::commands::{add_label_selector, parse_new_labels, wait_and_print_operation};
use crate::options::{DataPlaneCommand, MeshCommand, OutputFormat, SelectorArgs};
use crate::output::{eprint_line, or_dash, print_value};
use crate::{Result, leaving, watch};

const MESH_COLUMNS: [&str; 6] = [
    "name",
    "state",
    "version",
    "revision",
    "members",
    "busy with",
];

fn mesh_row(mesh: &MeshView) -> Vec<String> {
    let members: Vec<&str> = mesh
        .members
        .iter()
        .map(|member| member.name.as_str())
        .collect();
    vec![
        mesh.name.clone(),
        // The code of the problem tells the user more than the state `failed`.
        mesh.problem.as_ref().map_or_else(
            || mesh.state.clone(),
            |problem| format!("failed: {}", problem.code),
        ),
        mesh.current.version.clone(),
        mesh.current.name.clone(),
        members.join(","),
        or_dash(mesh.busy_with.as_ref()),
    ]
}

pub(crate) async fn run_mesh_command(
    client: &Client,
    format: OutputFormat,
    command: MeshCommand,
) -> Result<()> {
    match command {
        MeshCommand::List {
            selector,
            deleted: true,
        } => print_deleted_meshes(client, format, &selector).await,
        MeshCommand::List {
            selector,
            deleted: false,
        } => {
            let list = client
                .list_all::<MeshView>(&add_label_selector("/v1/meshes", &selector))
                .await?;
            print_value(format, &list, &MESH_COLUMNS, |list| {
                list.items.iter().map(mesh_row).collect()
            })
        }
        MeshCommand::Change {
            mesh,
            written,
            protect,
        } => {
            let id = client.resolve_mesh_id(&mesh).await?;
            let labels = parse_new_labels(&written)?;
            let body = ChangeMesh {
                labels,
                display_name: written.display_name,
                deletion_protection: protect,
            };
            let changed: MeshView = client.patch(&format!("/v1/meshes/{id}"), &body).await?;
            print_value(format, &changed, &MESH_COLUMNS, |mesh| vec![mesh_row(mesh)])
        }
        MeshCommand::Get { mesh } => {
            let id = client.resolve_mesh_id(&mesh).await?;
            let found = client.get::<MeshView>(&format!("/v1/meshes/{id}")).await?;
            watch::print_problem(format, found.problem.as_ref());
            print_value(format, &found, &MESH_COLUMNS, |mesh| vec![mesh_row(mesh)])
        }
        MeshCommand::Create {
            name,
            version,
            edition,
            clusters,
            written,
            protect,
            wait,
        } => {
            let mut ids = Vec::new();
            for named in &clusters {
                ids.push(client.resolve_cluster_id(named).await?);
            }
            let labels = parse_key_values("--label", &written.labels)?;
            let display_name = written.display_name.unwrap_or_default();
            let deletion_protection = protect;
            let body = CreateMesh {
                name,
                version,
                edition,
                clusters: ids,
                display_name,
                labels,
                deletion_protection,
            };
            wait_and_print_operation(
                client,
                format,
                client.post("/v1/meshes", &body, None).await?,
                &wait,
            )
            .await
        }
        MeshCommand::Delete { mesh, force, wait } => {
            let id = client.resolve_mesh_id(&mesh).await?;
            leaving::delete_and_print_leftovers(
                client,
                format,
                &format!("/v1/meshes/{id}"),
                force,
                &wait,
            )
            .await
        }
        MeshCommand::Undelete { mesh, wait } => {
            let path = format!("/v1/meshes/{mesh}/undelete");
            wait_and_print_operation(
                client,
                format,
                client.post(&path, &json!({}), None).await?,
                &wait,
            )
            .await
        }
        MeshCommand::Retry { mesh, wait } => {
            let id = client.resolve_mesh_id(&mesh).await?;
            let path = format!("/v1/meshes/{id}/retry");
            wait_and_print_operation(
                client,
                format,
                client.post(&path, &json!({}), None).await?,
                &wait,
            )
            .await
        }
        MeshCommand::Options { mesh } => {
            let id = client.resolve_mesh_id(&mesh).await?;
            print_value(
                format,
                &client
                    .get::<UpgradeOptionList>(&format!("/v1/meshes/{id}/upgrade-options"))
                    .await?,
                &["version", "strategy", "allowed", "why not, or what to know"],
                upgrade_option_rows,
            )
        }
        MeshCommand::SetInjection {
            mesh,
            cluster,
            namespace,
            label,
            wait,
        } => {
            let id = client.resolve_mesh_id(&mesh).await?;
            let body = SetInjection {
                cluster,
                namespace,
                label,
            };
            wait_and_print_operation(
                client,
                format,
                client
                    .post(&format!("/v1/meshes/{id}/injection"), &body, None)
                    .await?,
                &wait,
            )
            .await
        }
        MeshCommand::Restart { mesh, wait } => {
            let id = client.resolve_mesh_id(&mesh).await?;
            wait_and_print_operation(
                client,
                format,
                client
                    .post(&format!("/v1/meshes/{id}/restarts"), &json!({}), None)
                    .await?,
                &wait,
            )
            .await
        }
        MeshCommand::View(view) => run_data_plane_command(client, format, view).await,
    }
}

/// Prints the deleted meshes with their ids. The name of a deleted mesh can belong to another mesh
/// by now, so `mesh undelete` takes an id.
async fn print_deleted_meshes(
    client: &Client,
    format: OutputFormat,
    selector: &SelectorArgs,
) -> Result<()> {
    let path = add_label_selector("/v1/meshes?show_deleted=true", selector);
    let mut list = client.list_all::<MeshView>(&path).await?;
    list.items.retain(|mesh| mesh.deleted_at.is_some());
    print_value(
        format,
        &list,
        &["name", "version", "deleted", "id"],
        |list| {
            let row = |mesh: &MeshView| {
                let deleted = mesh.deleted_at.map(|at| at.to_string());
                vec![
                    mesh.name.clone(),
                    mesh.current.version.clone(),
                    or_dash(deleted.as_ref()),
                    mesh.id.clone(),
                ]
            };
            list.items.iter().map(row).collect()
        },
    )
}

/// Prints a part of a mesh's data plane as a worker last observed it.
async fn run_data_plane_command(
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

fn upgrade_option_rows(list: &UpgradeOptionList) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for option in &list.items {
        for way in &option.strategies {
            let mut why: Vec<String> = way
                .reasons
                .iter()
                .map(|reason| reason.message.clone())
                .collect();
            if !option.path.is_empty() {
                why.push(format!("reachable by {}", option.path.join(", ")));
            }
            rows.push(vec![
                option.version.clone(),
                way.strategy.clone(),
                way.allowed.to_string(),
                why.join("; "),
            ]);
        }
    }
    rows
}
