//! Declares the arguments of the commands on upgrades.

use clap::{Args, Subcommand};

use super::{PolicyArgs, WaitArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum UpgradeCommand {
    /// List the upgrades of a mesh, newest first.
    List {
        /// Name or id of the mesh.
        mesh: String,
    },
    /// Show one upgrade with its findings and its `ETag`.
    Get {
        /// Id of the upgrade, from `upgrade list`.
        upgrade: String,
    },
    /// Plan an upgrade. No cluster is touched until it is started.
    Plan(PlanUpgradeArgs),
    /// Start a planned upgrade.
    Start(UpgradeVerbArgs),
    /// Cancel an upgrade before it has changed anything.
    Cancel(UpgradeVerbArgs),
    /// Accept the warnings of the precheck and go on.
    Acknowledge(UpgradeVerbArgs),
    /// Try again what has failed.
    Retry(UpgradeVerbArgs),
    /// Go on without the workloads that the roll-out could not restart.
    Skip(UpgradeVerbArgs),
    /// Promote the canary: point the tags `stable` and `default` to it.
    Promote(ConfirmedVerbArgs),
    /// Pause the upgrade after the calls that are under way.
    Pause(UpgradeVerbArgs),
    /// Resume a paused upgrade where it was paused.
    Resume(UpgradeVerbArgs),
    /// Roll back: restore what the upgrade has changed.
    Rollback(ConfirmedVerbArgs),
    /// Remove the old revision now, instead of at the end of its hold.
    Retire(ConfirmedVerbArgs),
    /// Move namespaces to the canary before the promotion.
    Move {
        #[command(flatten)]
        ask: UpgradeVerbArgs,
        /// Namespace to move, as CLUSTER/NAMESPACE (repeatable).
        #[arg(long = "namespace", required = true)]
        namespaces: Vec<String>,
    },
    /// Watch an upgrade until it has ended or a person has to act.
    Watch(UpgradeVerbArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct UpgradeVerbArgs {
    /// Id of the upgrade, from `upgrade list`.
    pub(crate) upgrade: String,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ConfirmedVerbArgs {
    #[command(flatten)]
    pub(crate) ask: UpgradeVerbArgs,
    /// `ETag` of the state that the request is meant for, from `upgrade get`. In another state the
    /// request is refused. Without an `ETag`, the present state is printed and its `ETag` is sent.
    #[arg(long, value_name = "ETAG")]
    pub(crate) if_match: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PlanUpgradeArgs {
    /// Name or id of the mesh.
    pub(crate) mesh: String,
    /// Version that the mesh is to run.
    #[arg(long)]
    pub(crate) version: String,
    /// Strategy of the upgrade: `in_place` or canary.
    #[arg(long, default_value = "canary")]
    pub(crate) strategy: String,
    /// Promote the canary as soon as it serves, without a person.
    #[arg(long)]
    pub(crate) auto: bool,
    /// Seconds that the old revision is kept after the roll-out, from 0 to 2592000 (30 days).
    #[arg(long, default_value_t = 86400)]
    pub(crate) hold_seconds: u32,
    /// Go on in spite of warnings of the precheck.
    #[arg(long)]
    pub(crate) accept_warnings: bool,
    /// Handling of namespaces whose label names the old revision: relabel, alias or block.
    #[arg(long, default_value = "relabel")]
    pub(crate) labels: String,
    #[command(flatten)]
    pub(crate) rollout: PolicyArgs,
    /// Start the upgrade at once.
    #[arg(long)]
    pub(crate) start: bool,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}
