//! Runs each command: calls the service and prints the answer. The commands on clusters, operations
//! and events are in this file.

use std::collections::BTreeMap;
use std::path::Path;

use meshwright_wire::{
    ChangeCluster, Cluster as ClusterView, EventList, Operation as OperationView, RegisterCluster,
    ReleaseList, RenewCredential,
};

use crate::access::parse_key_values;
use crate::client::{Client, percent_encode};
use crate::options::{
    CliArgs, ClusterCommand, Command, MetadataArgs, OperationCommand, OperationVerbArgs,
    OutputFormat, SelectorArgs, WaitArgs,
};
use crate::output::{eprint_line, or_dash, print_line, print_value};
use crate::profile::{self, Profile};
use crate::{
    Failure, Result, access, audit, catalogue, leaving, meshes, upgrades, watch, webhooks,
};

pub(crate) async fn run_command(options: CliArgs) -> Result<()> {
    let Profile { server, key } = profile::resolve_profile(&options)?;
    let client = Client::new(Profile {
        server: server.clone(),
        key: key.clone(),
    })?;
    let format = options.output;
    match options.command {
        Command::Login => {
            let releases: ReleaseList = client.get("/v1/releases").await?;
            let file = profile::save_profile(&Profile { server, key })?;
            print_line(&format!(
                "logged in; the profile is {}; {} releases are offered",
                file.display(),
                releases.items.len()
            ))
        }
        Command::Releases => print_releases(&client, format).await,
        Command::Release(command) => catalogue::run_release_command(&client, format, command).await,
        Command::Hosting(command) => catalogue::run_hosting_command(&client, format, command).await,
        Command::Cluster(command) => run_cluster_command(&client, format, command).await,
        Command::Mesh(command) => meshes::run_mesh_command(&client, format, command).await,
        Command::Upgrade(command) => upgrades::run_upgrade_command(&client, format, command).await,
        Command::Operation(command) => run_operation_command(&client, format, command).await,
        Command::Key(command) => access::run_key_command(&client, format, command).await,
        Command::Access(command) => access::run_access_command(&client, format, command).await,
        Command::Webhook(command) => webhooks::run_webhook_command(&client, format, command).await,
        Command::Audit(command) => audit::run_audit_command(&client, format, command).await,
        Command::Tenant(command) => access::run_tenant_command(&client, format, command).await,
        Command::Usage => access::print_usage(&client, format).await,
        Command::Events { after, limit } => {
            print_events(&client, format, after, limit as usize).await
        }
        Command::Completion { .. } => Ok(()),
    }
}

/// Prints events page by page up to a limit, and a line if there are more. Without that line, a
/// list that was cut looks complete.
async fn print_events(
    client: &Client,
    format: OutputFormat,
    after: i64,
    limit: usize,
) -> Result<()> {
    let mut all = EventList {
        items: Vec::new(),
        next_page_token: None,
    };
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
    print_value(format, &all, &["seq", "at", "kind", "body"], |list| {
        let row = |event: &meshwright_wire::Event| {
            vec![
                event.seq.to_string(),
                event.at.to_string(),
                event.kind.clone(),
                event.body.to_string(),
            ]
        };
        list.items.iter().map(row).collect()
    })?;
    if let Some(last) = all.items.last().filter(|_| more) {
        eprint_line(&format!(
            "there are more: meshwright events --after {}",
            last.seq
        ));
    }
    Ok(())
}

async fn print_releases(client: &Client, format: OutputFormat) -> Result<()> {
    let list: ReleaseList = client.get("/v1/releases").await?;
    print_value(format, &list, &catalogue::RELEASE_COLUMNS, |list| {
        list.items.iter().map(catalogue::release_row).collect()
    })
}

const CLUSTER_COLUMNS: [&str; 6] = ["name", "state", "kubernetes", "credential", "server", "id"];

/// Returns the problem's code for a cluster that cannot be used, and the state and expiry of our
/// credential for the others.
fn problem_or_credential(cluster: &ClusterView) -> String {
    match (&cluster.problem, &cluster.credential) {
        (Some(problem), _) => problem.code.clone(),
        (None, Some(held)) => format!(
            "{} until {}",
            held.state,
            held.expires_at.strftime("%Y-%m-%d")
        ),
        (None, None) => "-".into(),
    }
}

fn cluster_row(cluster: &ClusterView) -> Vec<String> {
    vec![
        cluster.name.clone(),
        cluster.state.clone(),
        or_dash(cluster.kubernetes_version.as_ref()),
        problem_or_credential(cluster),
        cluster.server.clone(),
        cluster.id.clone(),
    ]
}

fn read_text_file(file: &Path) -> Result<String> {
    std::fs::read_to_string(file)
        .map_err(|error| Failure::new(2, format!("{}: {error}", file.display())))
}

async fn run_cluster_command(
    client: &Client,
    format: OutputFormat,
    command: ClusterCommand,
) -> Result<()> {
    match command {
        ClusterCommand::List(selector) => {
            let list = client
                .list_all::<ClusterView>(&add_label_selector("/v1/clusters", &selector))
                .await?;
            print_value(format, &list, &CLUSTER_COLUMNS, |list| {
                list.items.iter().map(cluster_row).collect()
            })
        }
        ClusterCommand::Change { cluster, written } => {
            let id = client.resolve_cluster_id(&cluster).await?;
            let body = ChangeCluster {
                labels: parse_new_labels(&written)?,
                display_name: written.display_name,
            };
            let changed: ClusterView = client.patch(&format!("/v1/clusters/{id}"), &body).await?;
            print_value(format, &changed, &CLUSTER_COLUMNS, |cluster| {
                vec![cluster_row(cluster)]
            })
        }
        ClusterCommand::Get { cluster } => {
            let id = client.resolve_cluster_id(&cluster).await?;
            let found = client
                .get::<ClusterView>(&format!("/v1/clusters/{id}"))
                .await?;
            // The problem and the findings go to standard error, so that a program can still parse
            // the table.
            watch::print_problem(format, found.problem.as_ref());
            if matches!(format, OutputFormat::Table) {
                found
                    .findings
                    .iter()
                    .for_each(|finding| eprint_line(&watch::format_finding(finding)));
            }
            print_value(format, &found, &CLUSTER_COLUMNS, |cluster| {
                vec![cluster_row(cluster)]
            })
        }
        ClusterCommand::Register {
            name,
            kubeconfig,
            written,
            wait,
        } => {
            let text = read_text_file(&kubeconfig)?;
            let labels = parse_key_values("--label", &written.labels)?;
            let display_name = written.display_name.unwrap_or_default();
            let body = RegisterCluster {
                name,
                kubeconfig: text,
                display_name,
                labels,
            };
            wait_and_print_operation(
                client,
                format,
                client.post("/v1/clusters", &body, None).await?,
                &wait,
            )
            .await
        }
        ClusterCommand::Renew {
            cluster,
            kubeconfig,
            overlap_seconds,
            wait,
        } => {
            let id = client.resolve_cluster_id(&cluster).await?;
            let kubeconfig = kubeconfig.as_deref().map(read_text_file).transpose()?;
            let body = RenewCredential {
                kubeconfig,
                overlap_seconds,
            };
            let path = format!("/v1/clusters/{id}/credentials");
            wait_and_print_operation(
                client,
                format,
                client.post(&path, &body, None).await?,
                &wait,
            )
            .await
        }
        ClusterCommand::Delete {
            cluster,
            force,
            wait,
        } => {
            let id = client.resolve_cluster_id(&cluster).await?;
            leaving::delete_and_print_leftovers(
                client,
                format,
                &format!("/v1/clusters/{id}"),
                force,
                &wait,
            )
            .await
        }
    }
}

pub(crate) fn add_label_selector(path: &str, selector: &SelectorArgs) -> String {
    let separator = if path.contains('?') { '&' } else { '?' };
    let narrowed =
        |text: &String| format!("{path}{separator}label_selector={}", percent_encode(text));
    selector
        .selector
        .as_ref()
        .map_or_else(|| path.to_owned(), narrowed)
}

/// Parses the labels that replace all former ones; `None` if none was given.
pub(crate) fn parse_new_labels(written: &MetadataArgs) -> Result<Option<BTreeMap<String, String>>> {
    let labels = parse_key_values("--label", &written.labels)?;
    Ok((!labels.is_empty()).then_some(labels))
}

pub(crate) const OPERATION_COLUMNS: [&str; 5] = ["kind", "state", "steps", "created", "id"];

pub(crate) fn operation_row(operation: &OperationView) -> Vec<String> {
    let steps = format!(
        "{}/{}",
        operation.progress.completed, operation.progress.total
    );
    vec![
        operation.kind.clone(),
        operation.state.clone(),
        steps,
        operation.created_at.to_string(),
        operation.id.clone(),
    ]
}

/// Prints an operation that was started. With `--wait`, it first waits for the end.
pub(crate) async fn wait_and_print_operation(
    client: &Client,
    format: OutputFormat,
    operation: OperationView,
    wait: &WaitArgs,
) -> Result<()> {
    let shown = if wait.wait {
        watch::wait_for_operation(client, &operation.id, wait.timeout).await?
    } else {
        operation
    };
    print_value(format, &shown, &OPERATION_COLUMNS, |operation| {
        vec![operation_row(operation)]
    })
}

/// Sends a verb to an operation that is no stage of an upgrade. The answer shows the operation as
/// it was before a worker took the verb up.
async fn post_operation_verb(
    client: &Client,
    format: OutputFormat,
    verb: &str,
    it: OperationVerbArgs,
) -> Result<()> {
    let path = format!("/v1/operations/{}/{verb}", it.operation);
    let asked: OperationView = client.post(&path, &serde_json::json!({}), None).await?;
    wait_and_print_operation(client, format, asked, &it.wait).await
}

async fn run_operation_command(
    client: &Client,
    format: OutputFormat,
    command: OperationCommand,
) -> Result<()> {
    match command {
        OperationCommand::List => {
            let list = client.list_all::<OperationView>("/v1/operations").await?;
            print_value(format, &list, &OPERATION_COLUMNS, |list| {
                list.items.iter().map(operation_row).collect()
            })
        }
        OperationCommand::Get { operation } => {
            let found: OperationView = client.get(&format!("/v1/operations/{operation}")).await?;
            let steps = |operation: &OperationView| {
                let all = operation.waves.iter().flat_map(|wave| {
                    wave.steps.iter().map(|step| {
                        vec![wave.title.clone(), step.state.clone(), step.title.clone()]
                    })
                });
                all.collect()
            };
            print_value(format, &found, &["wave", "state", "step"], steps)?;
            if format == OutputFormat::Table {
                watch::print_operation_state(&found);
                leaving::print_leftovers(&found.leftovers);
            }
            Ok(())
        }
        OperationCommand::Watch { operation, timeout } => {
            let ended = watch::wait_for_operation(client, &operation, timeout).await?;
            print_value(format, &ended, &OPERATION_COLUMNS, |operation| {
                vec![operation_row(operation)]
            })
        }
        OperationCommand::Pause(it) => post_operation_verb(client, format, "pause", it).await,
        OperationCommand::Resume(it) => post_operation_verb(client, format, "resume", it).await,
        OperationCommand::Retry(it) => post_operation_verb(client, format, "retry", it).await,
        OperationCommand::Cancel(it) => post_operation_verb(client, format, "cancel", it).await,
    }
}
