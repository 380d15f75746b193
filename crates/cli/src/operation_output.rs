//! Prints operations, and the objects that they leave in clusters.

use meshwright_model::operation;
use meshwright_wire::{Leftover, Operation as OperationView};
use serde::Serialize;

use crate::client::Client;
use crate::options::{OutputFormat, WaitArgs};
use crate::output::{eprint_line, print_value};
use crate::{Result, watch};

pub(crate) const OPERATION_COLUMNS: [&str; 5] = ["kind", "state", "steps", "created", "id"];

pub(crate) fn operation_row(operation: &OperationView) -> Vec<String> {
    let steps = format!(
        "{}/{}",
        operation.progress.completed, operation.progress.total
    );
    vec![
        operation.kind.to_string(),
        operation.state.to_string(),
        steps,
        operation.created_at.to_string(),
        operation.id.clone(),
    ]
}

/// Prints an operation that was started. With `--wait`, it first waits for the end.
async fn wait_and_print_operation(
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

/// Posts a request that starts an operation, and prints the operation.
pub(crate) async fn post_and_print_operation(
    client: &Client,
    format: OutputFormat,
    path: &str,
    body: &impl Serialize,
    wait: &WaitArgs,
) -> Result<()> {
    let operation = client.post(path, body, None).await?;
    wait_and_print_operation(client, format, operation, wait).await
}

/// Prints the objects that stay to standard error, one line each. Until the operation has succeeded
/// they are only expected to stay, and belong to what still runs. The commands that remove them
/// would destroy it, so they are left out.
pub(crate) fn print_leftovers(operation: &OperationView) {
    if operation.leftovers.is_empty() {
        return;
    }
    if operation.state != operation::OperationStateName::Succeeded {
        eprint_line(
            "These objects would stay in the clusters if the operation succeeded. Do not remove them now:",
        );
        for left in &operation.leftovers {
            eprint_line(&format!("{}: {}", left.cluster, describe_object(left)));
        }
        return;
    }
    eprint_line(
        "These objects stay in the clusters. To remove one, point kubectl to its cluster and run the command:",
    );
    for left in &operation.leftovers {
        eprint_line(&format!("{}: {}", left.cluster, left.command));
    }
}

/// Describes an object by its kind, its name and its namespace.
fn describe_object(left: &Leftover) -> String {
    let object = format!("{} {}", left.kind, left.name);
    match left.namespace.as_deref() {
        None => object,
        Some("*") => format!("{object} in every namespace"),
        Some(namespace) => format!("{object} in namespace {namespace}"),
    }
}
