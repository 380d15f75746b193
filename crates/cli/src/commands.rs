//! What each command calls and prints.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use wire::{
    ChangeCluster, ChangeMesh, Cluster as ClusterView, CreateMesh, CreateUpgrade, DataPlane, EventList,
    Mesh as MeshView, MoveNamespaces, NamespaceRef, Operation as OperationView, OperationList, RegisterCluster,
    ReleaseList, RenewCredential, SetInjection, Upgrade as UpgradeView, UpgradeOptionList,
};

use crate::access::pairs;
use crate::client::{Client, escaped};
use crate::options::{Ask, Cluster, Command, Format, Mesh, Operation, Options, Selector, Upgrade, View, Wait, Written};
use crate::output::{or_dash, print};
use crate::profile::{self, Profile};
use crate::{Failure, Result, access, audit, catalogue, watch, webhooks};

pub(crate) async fn run(options: Options) -> Result<()> {
    let Profile { server, key } = profile::of(&options)?;
    let client = Client::new(Profile { server: server.clone(), key: key.clone() })?;
    let format = options.output;
    match options.command {
        Command::Login => {
            let releases: ReleaseList = client.get("/v1/releases").await?;
            let file = profile::keep(&Profile { server, key })?;
            println!("logged in; the profile is {}; {} releases are offered", file.display(), releases.items.len());
            Ok(())
        }
        Command::Releases => releases(&client, format).await,
        Command::Release(command) => catalogue::release(&client, format, command).await,
        Command::Hosting(command) => catalogue::hosting(&client, format, command).await,
        Command::Cluster(command) => cluster(&client, format, command).await,
        Command::Mesh(command) => mesh(&client, format, command).await,
        Command::Upgrade(command) => upgrade(&client, format, command).await,
        Command::Operation(command) => operation(&client, format, command).await,
        Command::Key(command) => access::key(&client, format, command).await,
        Command::Access(command) => access::access(&client, format, command).await,
        Command::Webhook(command) => webhooks::webhook(&client, format, command).await,
        Command::Audit(command) => audit::audit(&client, format, command).await,
        Command::Tenant(command) => access::tenant(&client, format, command).await,
        Command::Usage => access::usage(&client, format).await,
        Command::Events { after } => {
            let events: EventList = client.get(&format!("/v1/events?after={after}")).await?;
            print(format, &events, &["seq", "at", "kind", "body"], |list| {
                list.items
                    .iter()
                    .map(|event| {
                        vec![event.seq.to_string(), event.at.to_string(), event.kind.clone(), event.body.to_string()]
                    })
                    .collect()
            })
        }
        Command::Completion { .. } => Ok(()),
    }
}

async fn releases(client: &Client, format: Format) -> Result<()> {
    let list: ReleaseList = client.get("/v1/releases").await?;
    print(format, &list, &catalogue::RELEASE, |list| list.items.iter().map(catalogue::release_row).collect())
}

const CLUSTER: [&str; 6] = ["name", "state", "kubernetes", "credential", "server", "id"];

/// Of a cluster that cannot be used it matters why, of the others how long our way in is good.
fn standing(cluster: &ClusterView) -> String {
    match (&cluster.problem, &cluster.credential) {
        (Some(problem), _) => problem.code.clone(),
        (None, Some(held)) => format!("{} until {}", held.state, held.expires_at.strftime("%Y-%m-%d")),
        (None, None) => "-".into(),
    }
}

fn cluster_row(cluster: &ClusterView) -> Vec<String> {
    vec![
        cluster.name.clone(),
        cluster.state.clone(),
        or_dash(cluster.kubernetes_version.as_ref()),
        standing(cluster),
        cluster.server.clone(),
        cluster.id.clone(),
    ]
}

fn text_of(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|error| Failure::new(2, format!("{}: {error}", file.display())))
}

async fn cluster(client: &Client, format: Format, command: Cluster) -> Result<()> {
    match command {
        Cluster::List(selector) => {
            let list = client.all::<ClusterView>(&selected("/v1/clusters", &selector)).await?;
            print(format, &list, &CLUSTER, |list| list.items.iter().map(cluster_row).collect())
        }
        Cluster::Change { cluster, written } => {
            let id = client.cluster(&cluster).await?;
            let body = ChangeCluster { labels: changed(&written)?, display_name: written.display_name };
            let changed: ClusterView = client.patch(&format!("/v1/clusters/{id}"), &body).await?;
            print(format, &changed, &CLUSTER, |cluster| vec![cluster_row(cluster)])
        }
        Cluster::Get { cluster } => {
            let id = client.cluster(&cluster).await?;
            print(format, &client.get::<ClusterView>(&format!("/v1/clusters/{id}")).await?, &CLUSTER, |cluster| {
                vec![cluster_row(cluster)]
            })
        }
        Cluster::Register { name, kubeconfig, written, wait } => {
            let text = text_of(&kubeconfig)?;
            let labels = pairs("--label", &written.labels)?;
            let display_name = written.display_name.unwrap_or_default();
            let body = RegisterCluster { name, kubeconfig: text, display_name, labels };
            started(client, format, client.post("/v1/clusters", &body, None).await?, &wait).await
        }
        Cluster::Renew { cluster, kubeconfig, overlap_seconds, wait } => {
            let id = client.cluster(&cluster).await?;
            let kubeconfig = kubeconfig.as_deref().map(text_of).transpose()?;
            let body = RenewCredential { kubeconfig, overlap_seconds };
            let path = format!("/v1/clusters/{id}/credentials");
            started(client, format, client.post(&path, &body, None).await?, &wait).await
        }
        Cluster::Delete { cluster } => {
            let id = client.cluster(&cluster).await?;
            client.delete(&format!("/v1/clusters/{id}")).await?;
            println!("forgotten");
            Ok(())
        }
    }
}

fn selected(path: &str, selector: &Selector) -> String {
    selector.selector.as_ref().map_or(path.to_owned(), |text| format!("{path}?label_selector={}", escaped(text)))
}

/// All of the new labels, where any was given.
fn changed(written: &Written) -> Result<Option<BTreeMap<String, String>>> {
    let labels = pairs("--label", &written.labels)?;
    Ok((!labels.is_empty()).then_some(labels))
}

const OPERATION: [&str; 5] = ["kind", "state", "steps", "created", "id"];

fn operation_row(operation: &OperationView) -> Vec<String> {
    let steps = format!("{}/{}", operation.progress.completed, operation.progress.total);
    vec![operation.kind.clone(), operation.state.clone(), steps, operation.created_at.to_string(), operation.id.clone()]
}

/// Shows an operation that has begun, or waits for its end.
async fn started(client: &Client, format: Format, operation: OperationView, wait: &Wait) -> Result<()> {
    let shown = if wait.wait { watch::operation(client, &operation.id, wait.timeout).await? } else { operation };
    print(format, &shown, &OPERATION, |operation| vec![operation_row(operation)])
}

const MESH: [&str; 6] = ["name", "state", "version", "revision", "members", "busy with"];

fn mesh_row(mesh: &MeshView) -> Vec<String> {
    let members: Vec<&str> = mesh.members.iter().map(|member| member.name.as_str()).collect();
    vec![
        mesh.name.clone(),
        mesh.state.clone(),
        mesh.current.version.clone(),
        mesh.current.name.clone(),
        members.join(","),
        or_dash(mesh.busy_with.as_ref()),
    ]
}

async fn mesh(client: &Client, format: Format, command: Mesh) -> Result<()> {
    match command {
        Mesh::List(selector) => {
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
            print(format, &client.get::<MeshView>(&format!("/v1/meshes/{id}")).await?, &MESH, |mesh| {
                vec![mesh_row(mesh)]
            })
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
        Mesh::Delete { mesh, wait } => {
            let id = client.mesh(&mesh).await?;
            let answer = client.delete(&format!("/v1/meshes/{id}")).await?.unwrap_or_default();
            started(client, format, serde_json::from_value(answer).map_err(Failure::other)?, &wait).await
        }
        Mesh::Undelete { mesh, wait } => {
            let path = format!("/v1/meshes/{mesh}/undelete");
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
                &["cluster", "workload", "pods", "carries", "wanted", "restart needed"],
                |view| {
                    let row = |view: &wire::WorkloadView| {
                        vec![
                            view.cluster.clone(),
                            view.name.clone(),
                            view.pods.to_string(),
                            view.revisions.join(","),
                            or_dash(view.wanted.as_ref()),
                            view.restart_needed.to_string(),
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
        eprintln!("observed at {}", view.observed_at.map_or_else(|| "never".to_owned(), |at| at.to_string()));
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

const UPGRADE: [&str; 6] = ["from", "to", "strategy", "state", "you can", "id"];

fn upgrade_row(upgrade: &UpgradeView) -> Vec<String> {
    let verbs = upgrade.allowed_verbs.join(",");
    vec![
        upgrade.from_version.clone(),
        upgrade.to_version.clone(),
        upgrade.strategy.clone(),
        upgrade.state.clone(),
        verbs,
        upgrade.id.clone(),
    ]
}

async fn upgrade(client: &Client, format: Format, command: Upgrade) -> Result<()> {
    match command {
        Upgrade::List { mesh } => {
            let id = client.mesh(&mesh).await?;
            print(format, &client.all::<UpgradeView>(&format!("/v1/meshes/{id}/upgrades")).await?, &UPGRADE, |list| {
                list.items.iter().map(upgrade_row).collect()
            })
        }
        Upgrade::Get { upgrade } => show(format, &client.get(&format!("/v1/upgrades/{upgrade}")).await?),
        Upgrade::Plan { mesh, version, strategy, auto, hold_seconds, accept_warnings, labels, start, wait } => {
            let id = client.mesh(&mesh).await?;
            let body = CreateUpgrade { version, strategy, auto, hold_seconds, accept_warnings, labels };
            let planned: UpgradeView = client.post(&format!("/v1/meshes/{id}/upgrades"), &body, None).await?;
            if start {
                ask(client, format, "start", Ask { upgrade: planned.id, wait }).await
            } else {
                show(format, &planned)
            }
        }
        Upgrade::Start(it) => ask(client, format, "start", it).await,
        Upgrade::Cancel(it) => ask(client, format, "cancel", it).await,
        Upgrade::Acknowledge(it) => ask(client, format, "acknowledge", it).await,
        Upgrade::Retry(it) => ask(client, format, "retry", it).await,
        Upgrade::Promote(it) => ask(client, format, "promote", it).await,
        Upgrade::Pause(it) => ask(client, format, "pause", it).await,
        Upgrade::Resume(it) => ask(client, format, "resume", it).await,
        Upgrade::Rollback(it) => ask(client, format, "rollback", it).await,
        Upgrade::Retire(it) => ask(client, format, "retire", it).await,
        Upgrade::Move { ask: it, namespaces } => {
            let parse = |text: &String| {
                let (cluster, namespace) =
                    text.split_once('/').ok_or_else(|| Failure::new(2, "--namespace is cluster/namespace"))?;
                Ok(NamespaceRef { cluster: cluster.into(), namespace: namespace.into() })
            };
            let namespaces = namespaces.iter().map(parse).collect::<Result<Vec<_>>>()?;
            let moved: UpgradeView = client
                .post(&format!("/v1/upgrades/{}/moves", it.upgrade), &MoveNamespaces { namespaces }, None)
                .await?;
            follow(client, format, moved, &it.wait).await
        }
        Upgrade::Watch(it) => show(format, &watch::upgrade(client, &it.upgrade, it.wait.timeout).await?),
    }
}

fn show(format: Format, upgrade: &UpgradeView) -> Result<()> {
    print(format, upgrade, &UPGRADE, |upgrade| vec![upgrade_row(upgrade)])
}

/// Asks with the tag of what is there now: the user has just looked.
async fn ask(client: &Client, format: Format, verb: &str, it: Ask) -> Result<()> {
    let path = format!("/v1/upgrades/{}", it.upgrade);
    let tag = client.get_tagged(&path).await?;
    let asked: UpgradeView =
        client.post(&format!("{path}/{verb}"), &Value::Object(serde_json::Map::new()), tag).await?;
    follow(client, format, asked, &it.wait).await
}

async fn follow(client: &Client, format: Format, upgrade: UpgradeView, wait: &Wait) -> Result<()> {
    let shown = if wait.wait { watch::upgrade(client, &upgrade.id, wait.timeout).await? } else { upgrade };
    show(format, &shown)
}

async fn operation(client: &Client, format: Format, command: Operation) -> Result<()> {
    match command {
        Operation::List => print(format, &client.get::<OperationList>("/v1/operations").await?, &OPERATION, |list| {
            list.items.iter().map(operation_row).collect()
        }),
        Operation::Get { operation } => {
            let found: OperationView = client.get(&format!("/v1/operations/{operation}")).await?;
            let steps = |operation: &OperationView| {
                let all = operation.waves.iter().flat_map(|wave| {
                    wave.steps.iter().map(|step| vec![wave.title.clone(), step.state.clone(), step.title.clone()])
                });
                all.collect()
            };
            print(format, &found, &["wave", "state", "step"], steps)
        }
        Operation::Watch { operation, timeout } => {
            let ended = watch::operation(client, &operation, timeout).await?;
            print(format, &ended, &OPERATION, |operation| vec![operation_row(operation)])
        }
    }
}
