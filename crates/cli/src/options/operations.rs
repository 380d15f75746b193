//! Declares the arguments of the commands on operations.

use clap::{Args, Subcommand};

use super::WaitArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum OperationCommand {
    /// List all operations, newest first.
    List,
    /// Show one operation with its steps.
    Get {
        /// Id of the operation, from `operation list`.
        operation: String,
    },
    /// Watch an operation until it has ended or a person has to act.
    Watch {
        /// Id of the operation, from `operation list`.
        operation: String,
        /// Maximum number of seconds to wait; then the program ends with exit code 7.
        #[arg(long, default_value_t = 900)]
        timeout: u64,
    },
    /// Pause an operation after the calls that are under way. A stage of an upgrade is paused with
    /// `upgrade pause`.
    Pause(OperationVerbArgs),
    /// Resume a paused operation where it was paused.
    Resume(OperationVerbArgs),
    /// Try the failed steps of an operation again.
    Retry(OperationVerbArgs),
    /// Go on without the workloads that a restart could not reach.
    Skip(OperationVerbArgs),
    /// Cancel an operation where it is. Its changes so far stay.
    Cancel(OperationVerbArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct OperationVerbArgs {
    /// Id of the operation, from `operation list`.
    pub(crate) operation: String,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}
