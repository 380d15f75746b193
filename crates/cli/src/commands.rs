//! What each command calls and prints; clusters and operations in full.

use std::collections::BTreeMap;
use std::path::Path;

use wire::{
    ChangeCluster, Cluster as ClusterView, EventList, Operation as OperationView, RegisterCluster, ReleaseList,
    RenewCredential,
};

use crate::access::pairs;
use crate::client::{Client, escaped};
use crate::options::{AskOperation, Cluster, Command, Format, Operation, Options, Selector, Wait, Written};
use crate::output::{note, or_dash, print, say};
use crate::profile::{self, Profile};
use crate::{Failure, Result, access, audit, catalogue, leaving, meshes, upgrades, watch, webhooks};

pub(crate) async fn run(options: Options) -> Result<()> {
    let Profile { server, key } = profile::of(&options)?;
    let client = Client::new(Profile { server: server.clone(), key: key.clone() })?;
    let format = options.output;
    match options.command {
        Command::Login => {
            let releases: ReleaseList = client.get("/v1/releases").await?;
            let file = profile::keep(&Profile { server, key })?;
            say(&format!("logged in; the profile is {}; {} releases are offered", file.display(), releases.items.len()))
        }
        Command::Releases => releases(&client, format).await,
        Command::Release(command) => catalogue::release(&client, format, command).await,
        Command::Hosting(command) => catalogue::hosting(&client, format, command).await,
        Command::Cluster(command) => cluster(&client, format, command).await,
        Command::Mesh(command) => meshes::mesh(&client, format, command).await,
        Command::Upgrade(command) => upgrades::upgrade(&client, format, command).await,
        Command::Operation(command) => operation(&client, format, command).await,
        Command::Key(command) => access::key(&client, format, command).await,
        Command::Access(command) => access::access(&client, format, command).await,
        Command::Webhook(command) => webhooks::webhook(&client, format, command).await,
        Command::Audit(command) => audit::audit(&client, format, command).await,
        Command::Tenant(command) => access::tenant(&client, format, command).await,
        Command::Usage => access::usage(&client, format).await,
        Command::Events { after, limit } => events(&client, format, after, limit as usize).await,
        Command::Completion { .. } => Ok(()),
    }
}

/// Shows events page by page up to a limit, and says when there are more: a list that ends in silence looks whole.
async fn events(client: &Client, format: Format, after: i64, limit: usize) -> Result<()> {
    let mut all = EventList { items: Vec::new(), next_page_token: None };
    let mut from = after;
    let more = loop {
        let page: EventList = client.get(&format!("/v1/events?after={from}")).await?;
        all.items.extend(page.items);
        match page.next_page_token.and_then(|token| token.parse().ok()) {
            Some(next) if all.items.len() < limit => from = next,
            next => break next.is_some() || all.items.len() > limit,
        }
    };
    all.items.truncate(limit);
    print(format, &all, &["seq", "at", "kind", "body"], |list| {
        let row = |event: &wire::Event| {
            vec![event.seq.to_string(), event.at.to_string(), event.kind.clone(), event.body.to_string()]
        };
        list.items.iter().map(row).collect()
    })?;
    if let Some(last) = all.items.last().filter(|_| more) {
        note(&format!("there are more: meshwright events --after {}", last.seq));
    }
    Ok(())
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
            let found = client.get::<ClusterView>(&format!("/v1/clusters/{id}")).await?;
            // Beside the table, so that what reads the table by a program still can.
            watch::explain(format, found.problem.as_ref());
            if matches!(format, Format::Table) {
                found.findings.iter().for_each(|finding| note(&watch::finding_line(finding)));
            }
            print(format, &found, &CLUSTER, |cluster| vec![cluster_row(cluster)])
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
        Cluster::Delete { cluster, force, wait } => {
            let id = client.cluster(&cluster).await?;
            leaving::leave(client, format, &format!("/v1/clusters/{id}"), force, &wait).await
        }
    }
}

pub(crate) fn selected(path: &str, selector: &Selector) -> String {
    let separator = if path.contains('?') { '&' } else { '?' };
    let narrowed = |text: &String| format!("{path}{separator}label_selector={}", escaped(text));
    selector.selector.as_ref().map_or_else(|| path.to_owned(), narrowed)
}

/// All of the new labels, where any was given.
pub(crate) fn changed(written: &Written) -> Result<Option<BTreeMap<String, String>>> {
    let labels = pairs("--label", &written.labels)?;
    Ok((!labels.is_empty()).then_some(labels))
}

pub(crate) const OPERATION: [&str; 5] = ["kind", "state", "steps", "created", "id"];

pub(crate) fn operation_row(operation: &OperationView) -> Vec<String> {
    let steps = format!("{}/{}", operation.progress.completed, operation.progress.total);
    vec![operation.kind.clone(), operation.state.clone(), steps, operation.created_at.to_string(), operation.id.clone()]
}

/// Shows an operation that has begun, or waits for its end.
pub(crate) async fn started(client: &Client, format: Format, operation: OperationView, wait: &Wait) -> Result<()> {
    let shown = if wait.wait { watch::operation(client, &operation.id, wait.timeout).await? } else { operation };
    print(format, &shown, &OPERATION, |operation| vec![operation_row(operation)])
}

/// Asks something of a lone operation. Its answer shows the operation before a worker has heard the wish.
async fn ask(client: &Client, format: Format, verb: &str, it: AskOperation) -> Result<()> {
    let path = format!("/v1/operations/{}/{verb}", it.operation);
    let asked: OperationView = client.post(&path, &serde_json::json!({}), None).await?;
    started(client, format, asked, &it.wait).await
}

async fn operation(client: &Client, format: Format, command: Operation) -> Result<()> {
    match command {
        Operation::List => {
            let list = client.all::<OperationView>("/v1/operations").await?;
            print(format, &list, &OPERATION, |list| list.items.iter().map(operation_row).collect())
        }
        Operation::Get { operation } => {
            let found: OperationView = client.get(&format!("/v1/operations/{operation}")).await?;
            let steps = |operation: &OperationView| {
                let all = operation.waves.iter().flat_map(|wave| {
                    wave.steps.iter().map(|step| vec![wave.title.clone(), step.state.clone(), step.title.clone()])
                });
                all.collect()
            };
            print(format, &found, &["wave", "state", "step"], steps)?;
            if format == Format::Table {
                watch::standing(&found);
                leaving::explain(&found.leftovers);
            }
            Ok(())
        }
        Operation::Watch { operation, timeout } => {
            let ended = watch::operation(client, &operation, timeout).await?;
            print(format, &ended, &OPERATION, |operation| vec![operation_row(operation)])
        }
        Operation::Pause(it) => ask(client, format, "pause", it).await,
        Operation::Resume(it) => ask(client, format, "resume", it).await,
        Operation::Retry(it) => ask(client, format, "retry", it).await,
        Operation::Cancel(it) => ask(client, format, "cancel", it).await,
    }
}
