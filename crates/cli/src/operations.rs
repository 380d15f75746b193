//! Runs the commands on operations.

use meshwright_wire::Operation as OperationView;

use crate::client::Client;
use crate::operation_output::{
    OPERATION_COLUMNS, operation_row, post_and_print_operation, print_leftovers,
};
use crate::options::{OperationCommand, OperationVerbArgs, OutputFormat};
use crate::output::print_value;
use crate::{Result, watch};

/// Sends a verb to an operation that is no stage of an upgrade. The answer shows the operation as
/// it was before a worker took the verb up.
async fn post_operation_verb(
    client: &Client,
    format: OutputFormat,
    verb: &str,
    it: OperationVerbArgs,
) -> Result<()> {
    let path = format!("/v1/operations/{}/{verb}", it.operation);
    post_and_print_operation(client, format, &path, &serde_json::json!({}), &it.wait).await
}

pub(crate) async fn run_operation_command(
    client: &Client,
    format: OutputFormat,
    command: OperationCommand,
) -> Result<()> {
    match command {
        OperationCommand::List => list_operations(client, format).await,
        OperationCommand::Get { operation } => get_operation(client, format, &operation).await,
        OperationCommand::Watch { operation, timeout } => {
            watch_operation(client, format, &operation, timeout).await
        }
        OperationCommand::Pause(it) => post_operation_verb(client, format, "pause", it).await,
        OperationCommand::Resume(it) => post_operation_verb(client, format, "resume", it).await,
        OperationCommand::Retry(it) => post_operation_verb(client, format, "retry", it).await,
        OperationCommand::Skip(it) => post_operation_verb(client, format, "skip", it).await,
        OperationCommand::Cancel(it) => post_operation_verb(client, format, "cancel", it).await,
    }
}

async fn list_operations(client: &Client, format: OutputFormat) -> Result<()> {
    let list = client.list_all::<OperationView>("/v1/operations").await?;
    print_value(format, &list, &OPERATION_COLUMNS, |list| {
        list.items.iter().map(operation_row).collect()
    })
}

/// Prints the steps of an operation. Beside a table, its state and leftovers go to standard error.
async fn get_operation(client: &Client, format: OutputFormat, id: &str) -> Result<()> {
    let found: OperationView = client.get(&format!("/v1/operations/{id}")).await?;
    print_value(format, &found, &["wave", "state", "step"], step_rows)?;
    if format == OutputFormat::Table {
        watch::print_operation_state(&found);
        print_leftovers(&found);
    }
    Ok(())
}

fn step_rows(operation: &OperationView) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for wave in &operation.waves {
        for step in &wave.steps {
            rows.push(vec![
                wave.title.clone(),
                step.state.to_string(),
                step.title.clone(),
            ]);
        }
    }
    rows
}

async fn watch_operation(
    client: &Client,
    format: OutputFormat,
    id: &str,
    timeout: u64,
) -> Result<()> {
    let ended = watch::wait_for_operation(client, id, timeout).await?;
    print_value(format, &ended, &OPERATION_COLUMNS, |operation| {
        vec![operation_row(operation)]
    })
}
