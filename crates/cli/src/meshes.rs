//! Commands about meshes and what runs in them.

use serde_json::json;
use wire::{ChangeMesh, CreateMesh, DataPlane, Mesh as MeshView, SetInjection, UpgradeOptionList};

use crate::access::pairs;
use crate::client::Client;
use crate::commands::{changed, selected, started};
use crate::options::{Format, Mesh, Selector, View};
use crate::output::{note, or_dash, print};
use crate::{Result, leaving, watch};

const MESH: [&str; 6] = ["name", "state", "version", "revision", "members", "busy with"];

fn mesh_row(mesh: &MeshView) -> Vec<String> {
    let members: Vec<&str> = mesh.members.iter().map(|member| member.name.as_str()).collect();
    vec![
        mesh.name.clone(),
        // Of a mesh that is failed it matters why.
        mesh.problem.as_ref().map_or_else(|| mesh.state.clone(), |problem| format!("failed: {}", problem.code)),
        mesh.current.version.clone(),
        mesh.current.name.clone(),
        members.join(","),
        or_dash(mesh.busy_with.as_ref()),
    ]
}

pub(crate) async fn mesh(client: &Client, format: Format, command: Mesh) -> Result<()> {
    match command {
        Mesh::List { selector, deleted: true } => deleted_meshes(client, format, &selector).await,
        Mesh::List { selector, deleted: false } => {
            let list = client.all::<MeshView>(&selected("/v1/meshes", &selector)).await?;
            print(format, &list, &MESH, |list| list.items.iter().map(mesh_row).collect())
        }
        Mesh::Change { mesh, written, protect } => {
            let id = client.mesh(&mesh).await?;
            let labels = changed(&written)?;
            let body = ChangeMesh { labels, display_name: written.display_name, deletion_protection: protect };
            let changed: MeshView = client.patch(&format!("/v1/meshes/{id}"), &body).await?;
            print(format, &changed, &MESH, |mesh| vec![mesh_row(mesh)])
        }
        Mesh::Get { mesh } => {
            let id = client.mesh(&mesh).await?;
            let found = client.get::<MeshView>(&format!("/v1/meshes/{id}")).await?;
            watch::explain(format, found.problem.as_ref());
            print(format, &found, &MESH, |mesh| vec![mesh_row(mesh)])
        }
        Mesh::Create { name, version, edition, clusters, written, protect, wait } => {
            let mut ids = Vec::new();
            for named in &clusters {
                ids.push(client.cluster(named).await?);
            }
            let labels = pairs("--label", &written.labels)?;
            let display_name = written.display_name.unwrap_or_default();
            let deletion_protection = protect;
            let body = CreateMesh { name, version, edition, clusters: ids, display_name, labels, deletion_protection };
            started(client, format, client.post("/v1/meshes", &body, None).await?, &wait).await
        }
        Mesh::Delete { mesh, force, wait } => {
            let id = client.mesh(&mesh).await?;
            leaving::leave(client, format, &format!("/v1/meshes/{id}"), force, &wait).await
        }
        Mesh::Undelete { mesh, wait } => {
            let path = format!("/v1/meshes/{mesh}/undelete");
            started(client, format, client.post(&path, &json!({}), None).await?, &wait).await
        }
        Mesh::Retry { mesh, wait } => {
            let id = client.mesh(&mesh).await?;
            let path = format!("/v1/meshes/{id}/retry");
            started(client, format, client.post(&path, &json!({}), None).await?, &wait).await
        }
        Mesh::Options { mesh } => {
            let id = client.mesh(&mesh).await?;
            print(
                format,
                &client.get::<UpgradeOptionList>(&format!("/v1/meshes/{id}/upgrade-options")).await?,
                &["version", "strategy", "allowed", "why not, or what to know"],
                options,
            )
        }
        Mesh::SetInjection { mesh, cluster, namespace, label, wait } => {
            let id = client.mesh(&mesh).await?;
            let body = SetInjection { cluster, namespace, label };
            started(client, format, client.post(&format!("/v1/meshes/{id}/injection"), &body, None).await?, &wait).await
        }
        Mesh::Restart { mesh, wait } => {
            let id = client.mesh(&mesh).await?;
            started(client, format, client.post(&format!("/v1/meshes/{id}/restarts"), &json!({}), None).await?, &wait)
                .await
        }
        Mesh::View(view) => mesh_view(client, format, view).await,
    }
}

/// The deleted meshes with their ids: a name may belong to another mesh by now, so `mesh undelete` takes an id.
async fn deleted_meshes(client: &Client, format: Format, selector: &Selector) -> Result<()> {
    let path = selected("/v1/meshes?show_deleted=true", selector);
    let mut list = client.all::<MeshView>(&path).await?;
    list.items.retain(|mesh| mesh.deleted_at.is_some());
    print(format, &list, &["name", "version", "deleted", "id"], |list| {
        let row = |mesh: &MeshView| {
            let deleted = mesh.deleted_at.map(|at| at.to_string());
            vec![mesh.name.clone(), mesh.current.version.clone(), or_dash(deleted.as_ref()), mesh.id.clone()]
        };
        list.items.iter().map(row).collect()
    })
}

/// What a worker last saw of a mesh's data plane.
async fn mesh_view(client: &Client, format: Format, command: View) -> Result<()> {
    match command {
        View::Namespaces { mesh } => {
            data_plane(client, format, &mesh, &["cluster", "namespace", "label", "injected by", "conflict"], |view| {
                let row = |view: &wire::NamespaceView| {
                    vec![
                        view.cluster.clone(),
                        view.name.clone(),
                        or_dash(view.label.as_ref()),
                        or_dash(view.injected_by.as_ref()),
                        or_dash(view.conflict.as_ref()),
                    ]
                };
                view.namespaces.iter().map(row).collect()
            })
            .await
        }
        View::Workloads { mesh } => {
            data_plane(
                client,
                format,
                &mesh,
                &["cluster", "workload", "pods", "carries", "wanted", "restart needed because of"],
                |view| {
                    let row = |view: &wire::WorkloadView| {
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
        View::Proxies { mesh } => {
            data_plane(client, format, &mesh, &["proxy", "cluster", "revision", "version", "synced", "ghost"], |view| {
                let row = |view: &wire::ProxyView| {
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
            })
            .await
        }
    }
}

async fn data_plane(
    client: &Client,
    format: Format,
    mesh: &str,
    header: &[&str],
    rows: impl FnOnce(&DataPlane) -> Vec<Vec<String>>,
) -> Result<()> {
    let id = client.mesh(mesh).await?;
    let view: DataPlane = client.get(&format!("/v1/meshes/{id}/data-plane")).await?;
    if format == Format::Table {
        let seen = view.observed_at.map_or_else(|| "never".to_owned(), |at| at.to_string());
        note(&format!("observed at {seen}"));
        for missing in &view.missing_tags {
            note(&format!(
                "the tag {} was removed from {}: meshwright mesh restart puts it back",
                missing.tag, missing.cluster
            ));
        }
    }
    print(format, &view, header, rows)
}

fn options(list: &UpgradeOptionList) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for option in &list.items {
        for way in &option.strategies {
            let mut why: Vec<String> = way.reasons.iter().map(|reason| reason.message.clone()).collect();
            if !option.path.is_empty() {
                why.push(format!("reachable by {}", option.path.join(", ")));
            }
            rows.push(vec![option.version.clone(), way.strategy.clone(), way.allowed.to_string(), why.join("; ")]);
        }
    }
    rows
}
