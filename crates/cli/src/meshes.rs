//! Runs the commands on meshes.

use meshwright_wire::{ChangeMesh, CreateMesh, Mesh as MeshView, SetInjection, UpgradeOptionList};
use serde_json::json;

use crate::arguments::{add_label_selector, parse_key_values, parse_new_labels};
use crate::client::Client;
use crate::data_plane::run_data_plane_command;
use crate::deletion::delete_and_print_leftovers;
use crate::operation_output::wait_and_print_operation;
use crate::options::{MeshCommand, OutputFormat, SelectorArgs};
use crate::output::{or_dash, print_value};
use crate::{Result, watch};

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
            delete_and_print_leftovers(client, format, &format!("/v1/meshes/{id}"), force, &wait)
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
