//! Leaving clusters, and showing what stays there.

use wire::{Leave, Leftover, Operation as OperationView};

use crate::client::Client;
use crate::commands::{OPERATION, operation_row};
use crate::options::{Force, Format, Wait};
use crate::output::{note, print, say};
use crate::{Failure, Result, watch};

/// Asks for a deletion or deregistration, and shows what stays in clusters.
pub(crate) async fn leave(client: &Client, format: Format, path: &str, force: Force, wait: &Wait) -> Result<()> {
    let body = Leave { force: force.force, reason: force.reason };
    let answer = client.delete_with(path, Some(serde_json::to_value(&body).map_err(Failure::other)?)).await?;
    let Some(answer) = answer else {
        return say("forgotten");
    };
    let begun: OperationView = serde_json::from_value(answer).map_err(Failure::other)?;
    let shown = if wait.wait { watch::operation(client, &begun.id, wait.timeout).await? } else { begun };
    print(format, &shown, &OPERATION, |operation| vec![operation_row(operation)])?;
    if format == Format::Table {
        explain(&shown.leftovers);
    }
    Ok(())
}

/// Says on the side what stays, one line each.
pub(crate) fn explain(leftovers: &[Leftover]) {
    if leftovers.is_empty() {
        return;
    }
    note("These objects stay in the clusters. To remove one, point kubectl to its cluster and run the command:");
    for left in leftovers {
        note(&format!("{}: {}", left.cluster, left.command));
    }
}
