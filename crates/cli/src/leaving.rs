//! Deletes meshes and clusters, and prints the objects that stay in clusters.

use meshwright_wire::{DeleteOptions, Leftover, Operation as OperationView};

use crate::client::Client;
use crate::commands::{OPERATION_COLUMNS, operation_row};
use crate::options::{ForceArgs, OutputFormat, WaitArgs};
use crate::output::{eprint_line, print_line, print_value};
use crate::{Failure, Result, watch};

/// Requests a deletion or deregistration, and prints the objects that stay in clusters.
pub(crate) async fn delete_and_print_leftovers(
    client: &Client,
    format: OutputFormat,
    path: &str,
    force: ForceArgs,
    wait: &WaitArgs,
) -> Result<()> {
    let body = DeleteOptions {
        force: force.force,
        reason: force.reason,
    };
    let answer = client
        .delete_with_body(
            path,
            Some(serde_json::to_value(&body).map_err(Failure::other)?),
        )
        .await?;
    let Some(answer) = answer else {
        return print_line("forgotten");
    };
    let begun: OperationView = serde_json::from_value(answer).map_err(Failure::other)?;
    let shown = if wait.wait {
        watch::wait_for_operation(client, &begun.id, wait.timeout).await?
    } else {
        begun
    };
    print_value(format, &shown, &OPERATION_COLUMNS, |operation| {
        vec![operation_row(operation)]
    })?;
    if format == OutputFormat::Table {
        print_leftovers(&shown.leftovers);
    }
    Ok(())
}

/// Prints the objects that stay to standard error, one line each.
pub(crate) fn print_leftovers(leftovers: &[Leftover]) {
    if leftovers.is_empty() {
        return;
    }
    eprint_line(
        "These objects stay in the clusters. To remove one, point kubectl to its cluster and run the command:",
    );
    for left in leftovers {
        eprint_line(&format!("{}: {}", left.cluster, left.command));
    }
}
