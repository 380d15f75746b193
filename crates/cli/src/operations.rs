//! Runs the commands on operations.

use meshwright_wire::Operation as OperationView;

use crate::client::Client;
use crate::operation_output::{
    OPERATION_COLUMNS, operation_row, print_leftovers, wait_and_print_operation,
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
    let asked: OperationView = client.post(&path, &serde_json::json!({}), None).await?;
    wait_and_print_operation(client, format, asked, &it.wait).await
}

pub(crate) async fn run_operation_command(
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
                print_leftovers(&found.leftovers);
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
