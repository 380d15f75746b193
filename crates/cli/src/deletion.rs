//! Deletes meshes and deregisters clusters, and prints the objects that stay in clusters.

use meshwright_wire::{DeleteOptions, Operation as OperationView};

use crate::client::Client;
use crate::operation_output::{OPERATION_COLUMNS, operation_row, print_leftovers};
use crate::options::{ForceArgs, OutputFormat, WaitArgs};
use crate::output::{print_line, print_value};
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
        print_leftovers(&shown);
    }
    Ok(())
}
