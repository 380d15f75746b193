//! Runs the commands on meshes.

use meshwright_wire::{
    ChangeMesh, CreateMesh, Edition, Mesh as MeshView, SetInjection, UpgradeOptionList,
};
use serde_json::json;

use crate::arguments::{add_label_selector, parse_key_values, parse_new_labels};
use crate::client::Client;
use crate::data_plane::run_data_plane_command;
use crate::deletion::delete_and_print_leftovers;
use crate::operation_output::post_and_print_operation;
use crate::options::{
    CreateMeshArgs, MeshCommand, MetadataArgs, OutputFormat, SelectorArgs, SetInjectionArgs,
    WaitArgs,
};
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
            || mesh.state.to_string(),
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
        } => list_meshes(client, format, &selector).await,
        MeshCommand::Change {
            mesh,
            written,
            protect,
        } => change_mesh(client, format, &mesh, written, protect).await,
        MeshCommand::Get { mesh } => get_mesh(client, format, &mesh).await,
        MeshCommand::Create(arguments) => create_mesh(client, format, arguments).await,
        MeshCommand::Delete { mesh, force, wait } => {
            let path = resolve_mesh_path(client, &mesh).await?;
            delete_and_print_leftovers(client, format, &path, force, &wait).await
        }
        MeshCommand::Undelete { mesh, wait } => {
            let path = format!("/v1/meshes/{mesh}/undelete");
            post_and_print_operation(client, format, &path, &json!({}), &wait).await
        }
        MeshCommand::Retry { mesh, wait } => {
            post_mesh_verb(client, format, "retry", &mesh, &wait).await
        }
        MeshCommand::Options { mesh } => print_upgrade_options(client, format, &mesh).await,
        MeshCommand::SetInjection(arguments) => set_injection(client, format, arguments).await,
        MeshCommand::Restart { mesh, wait } => {
            post_mesh_verb(client, format, "restarts", &mesh, &wait).await
        }
        MeshCommand::View(view) => run_data_plane_command(client, format, view).await,
    }
}

async fn resolve_mesh_path(client: &Client, named: &str) -> Result<String> {
    let id = client.resolve_mesh_id(named).await?;
    Ok(format!("/v1/meshes/{id}"))
}

fn print_mesh(format: OutputFormat, mesh: &MeshView) -> Result<()> {
    print_value(format, mesh, &MESH_COLUMNS, |mesh| vec![mesh_row(mesh)])
}

async fn list_meshes(client: &Client, format: OutputFormat, selector: &SelectorArgs) -> Result<()> {
    let list = client
        .list_all::<MeshView>(&add_label_selector("/v1/meshes", selector))
        .await?;
    print_value(format, &list, &MESH_COLUMNS, |list| {
        list.items.iter().map(mesh_row).collect()
    })
}

async fn change_mesh(
    client: &Client,
    format: OutputFormat,
    mesh: &str,
    written: MetadataArgs,
    protect: Option<bool>,
) -> Result<()> {
    let path = resolve_mesh_path(client, mesh).await?;
    let body = ChangeMesh {
        labels: parse_new_labels(&written)?,
        display_name: written.display_name,
        deletion_protection: protect,
    };
    print_mesh(format, &client.patch(&path, &body).await?)
}

async fn get_mesh(client: &Client, format: OutputFormat, mesh: &str) -> Result<()> {
    let path = resolve_mesh_path(client, mesh).await?;
    let found: MeshView = client.get(&path).await?;
    watch::print_problem(format, found.problem.as_ref());
    if format == OutputFormat::Table {
        print_holder_state(client, &found).await?;
    }
    print_mesh(format, &found)
}

/// Prints the state of the operation that changes the mesh now, with the reason why it waits or is
/// paused. An upgrade shows its own problem.
async fn print_holder_state(client: &Client, mesh: &MeshView) -> Result<()> {
    let operation = mesh
        .busy_with
        .as_deref()
        .filter(|holder| holder.starts_with("op_"));
    if let Some(id) = operation {
        watch::print_operation_state(&client.get(&format!("/v1/operations/{id}")).await?);
    }
    Ok(())
}

async fn create_mesh(
    client: &Client,
    format: OutputFormat,
    arguments: CreateMeshArgs,
) -> Result<()> {
    let mut clusters = Vec::new();
    for named in &arguments.clusters {
        clusters.push(client.resolve_cluster_id(named).await?);
    }
    let body = CreateMesh {
        name: arguments.name,
        version: arguments.version,
        edition: arguments.edition.map(Edition::from_name),
        clusters,
        labels: parse_key_values("--label", &arguments.written.labels)?,
        display_name: arguments.written.display_name.unwrap_or_default(),
        deletion_protection: arguments.protect,
    };
    post_and_print_operation(client, format, "/v1/meshes", &body, &arguments.wait).await
}

/// Posts a request without arguments that starts an operation on a mesh.
async fn post_mesh_verb(
    client: &Client,
    format: OutputFormat,
    verb: &str,
    mesh: &str,
    wait: &WaitArgs,
) -> Result<()> {
    let path = format!("{}/{verb}", resolve_mesh_path(client, mesh).await?);
    post_and_print_operation(client, format, &path, &json!({}), wait).await
}

async fn set_injection(
    client: &Client,
    format: OutputFormat,
    arguments: SetInjectionArgs,
) -> Result<()> {
    let path = resolve_mesh_path(client, &arguments.mesh).await?;
    let body = SetInjection {
        cluster: arguments.cluster,
        namespace: arguments.namespace,
        label: arguments.label,
    };
    let path = format!("{path}/injection");
    post_and_print_operation(client, format, &path, &body, &arguments.wait).await
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

async fn print_upgrade_options(client: &Client, format: OutputFormat, mesh: &str) -> Result<()> {
    let path = resolve_mesh_path(client, mesh).await?;
    let options: UpgradeOptionList = client.get(&format!("{path}/upgrade-options")).await?;
    let header = ["version", "strategy", "allowed", "why not, or what to know"];
    print_value(format, &options, &header, upgrade_option_rows)
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
                way.strategy.to_string(),
                way.allowed.to_string(),
                why.join("; "),
            ]);
        }
    }
    rows
}
