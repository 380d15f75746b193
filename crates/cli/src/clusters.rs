//! Runs the commands on clusters.

use meshwright_wire::{ChangeCluster, Cluster as ClusterView, RegisterCluster, RenewCredential};

use crate::arguments::{add_label_selector, parse_key_values, parse_new_labels, read_text_file};
use crate::client::Client;
use crate::deletion::delete_and_print_leftovers;
use crate::operation_output::wait_and_print_operation;
use crate::options::{ClusterCommand, OutputFormat};
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
        cluster.state.clone(),
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
            delete_and_print_leftovers(client, format, &format!("/v1/clusters/{id}"), force, &wait)
                .await
        }
    }
}
