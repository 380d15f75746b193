//! Runs the commands on clusters.

use meshwright_wire::{ChangeCluster, Cluster as ClusterView, RegisterCluster, RenewCredential};

use crate::arguments::{add_label_selector, parse_key_values, parse_new_labels, read_text_file};
use crate::client::Client;
use crate::deletion::delete_and_print_leftovers;
use crate::operation_output::post_and_print_operation;
use crate::options::{
    ClusterCommand, MetadataArgs, OutputFormat, RegisterClusterArgs, RenewCredentialArgs,
    SelectorArgs,
};
use crate::output::{eprint_line, or_dash, print_value};
use crate::{Result, watch};

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
        cluster.state.to_string(),
        or_dash(cluster.kubernetes_version.as_ref()),
        problem_or_credential(cluster),
        cluster.server.clone(),
        cluster.id.clone(),
    ]
}

pub(crate) async fn run_cluster_command(
    client: &Client,
    format: OutputFormat,
    command: ClusterCommand,
) -> Result<()> {
    match command {
        ClusterCommand::List(selector) => list_clusters(client, format, &selector).await,
        ClusterCommand::Change { cluster, written } => {
            change_cluster(client, format, &cluster, written).await
        }
        ClusterCommand::Get { cluster } => get_cluster(client, format, &cluster).await,
        ClusterCommand::Register(arguments) => register_cluster(client, format, arguments).await,
        ClusterCommand::Renew(arguments) => renew_credential(client, format, arguments).await,
        ClusterCommand::Delete {
            cluster,
            force,
            wait,
        } => {
            let path = resolve_cluster_path(client, &cluster).await?;
            delete_and_print_leftovers(client, format, &path, force, &wait).await
        }
    }
}

async fn resolve_cluster_path(client: &Client, named: &str) -> Result<String> {
    let id = client.resolve_cluster_id(named).await?;
    Ok(format!("/v1/clusters/{id}"))
}

fn print_cluster(format: OutputFormat, cluster: &ClusterView) -> Result<()> {
    print_value(format, cluster, &CLUSTER_COLUMNS, |cluster| {
        vec![cluster_row(cluster)]
    })
}

async fn list_clusters(
    client: &Client,
    format: OutputFormat,
    selector: &SelectorArgs,
) -> Result<()> {
    let list = client
        .list_all::<ClusterView>(&add_label_selector("/v1/clusters", selector))
        .await?;
    print_value(format, &list, &CLUSTER_COLUMNS, |list| {
        list.items.iter().map(cluster_row).collect()
    })
}

async fn change_cluster(
    client: &Client,
    format: OutputFormat,
    cluster: &str,
    written: MetadataArgs,
) -> Result<()> {
    let path = resolve_cluster_path(client, cluster).await?;
    let body = ChangeCluster {
        labels: parse_new_labels(&written)?,
        display_name: written.display_name,
    };
    print_cluster(format, &client.patch(&path, &body).await?)
}

/// Prints one cluster. The problem and the findings go to standard error, so that a program can
/// still parse the table.
async fn get_cluster(client: &Client, format: OutputFormat, cluster: &str) -> Result<()> {
    let path = resolve_cluster_path(client, cluster).await?;
    let found: ClusterView = client.get(&path).await?;
    watch::print_problem(format, found.problem.as_ref());
    if matches!(format, OutputFormat::Table) {
        for finding in &found.findings {
            eprint_line(&watch::format_finding(finding));
        }
    }
    print_cluster(format, &found)
}

async fn register_cluster(
    client: &Client,
    format: OutputFormat,
    arguments: RegisterClusterArgs,
) -> Result<()> {
    let body = RegisterCluster {
        name: arguments.name,
        kubeconfig: read_text_file(&arguments.kubeconfig)?,
        labels: parse_key_values("--label", &arguments.written.labels)?,
        display_name: arguments.written.display_name.unwrap_or_default(),
    };
    post_and_print_operation(client, format, "/v1/clusters", &body, &arguments.wait).await
}

async fn renew_credential(
    client: &Client,
    format: OutputFormat,
    arguments: RenewCredentialArgs,
) -> Result<()> {
    let path = resolve_cluster_path(client, &arguments.cluster).await?;
    let kubeconfig = arguments.kubeconfig.as_deref();
    let body = RenewCredential {
        kubeconfig: kubeconfig.map(read_text_file).transpose()?,
        overlap_seconds: arguments.overlap_seconds,
    };
    let path = format!("{path}/credentials");
    post_and_print_operation(client, format, &path, &body, &arguments.wait).await
}
