//! Declares the arguments of the commands on roll-outs.

use clap::{Args, Subcommand};

use super::WaitArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// Restart every workload whose pods do not have the sidecar that they should have, in waves.
    Start {
        /// Name or id of the mesh.
        mesh: String,
        #[command(flatten)]
        policy: PolicyArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Show what a roll-out would restart, by wave, and what it cannot restart and why. Nothing is
    /// started.
    Plan {
        /// Name or id of the mesh.
        mesh: String,
        #[command(flatten)]
        policy: PolicyArgs,
    },
    /// List the roll-outs of a mesh, newest first.
    List {
        /// Name or id of the mesh.
        mesh: String,
    },
    /// Show one roll-out with the progress of its waves.
    Get {
        /// Id of the roll-out, from `rollout list`.
        rollout: String,
    },
    /// List the workloads of a roll-out.
    Items(ItemsArgs),
    /// Watch a roll-out until it has ended or a person has to act.
    Watch {
        /// Id of the roll-out, from `rollout list`.
        rollout: String,
        /// Maximum number of seconds to wait; then the program ends with exit code 7.
        #[arg(long, default_value_t = 900)]
        timeout: u64,
    },
    /// Pause a roll-out: restarts that are under way end, and no further one begins.
    Pause(RolloutVerbArgs),
    /// Resume a paused roll-out where it was paused.
    Resume(RolloutVerbArgs),
    /// Cancel a restart where it is. The stage of an upgrade is rolled back with `upgrade rollback`.
    Cancel(RolloutVerbArgs),
    /// Try the failed restarts again, or one of them.
    Retry(ItemVerbArgs),
    /// Go on without the workloads that could not be restarted, or without one of them.
    Skip(ItemVerbArgs),
}

/// Arguments with the policy of a roll-out.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PolicyArgs {
    /// Wave of the roll-out (repeatable), as conditions that its workloads meet and a pause after
    /// it: "clusters=A,B namespaces=X,Y workloads=CLUSTER/NAMESPACE/KIND/NAME percent=10 soak=10m".
    /// What no wave chooses is restarted in a last one.
    #[arg(long = "wave", value_name = "WAVE")]
    pub(crate) waves: Vec<String>,
    /// Maximum number of workloads that are restarted at once, from 1 to 10000.
    #[arg(long, value_name = "N")]
    pub(crate) max_concurrent: Option<u32>,
    /// Maximum number of workloads that are restarted at once in each cluster, from 1 to 10000.
    #[arg(long, value_name = "N")]
    pub(crate) per_cluster: Option<u32>,
    /// Maximum number of workloads that are restarted at once in each namespace, from 1 to 10000.
    #[arg(long, value_name = "N")]
    pub(crate) per_namespace: Option<u32>,
    /// Number of failed restarts, in all waves, at which no further restart begins, from 1 to 10000.
    /// The default is three, or a tenth of a large mesh.
    #[arg(long, value_name = "N")]
    pub(crate) max_failures: Option<u32>,
    /// Action of a wave at its end if workloads are left: pause or continue.
    #[arg(long, value_name = "ACTION")]
    pub(crate) on_failure: Option<String>,
    /// Evict pods, within their disruption budgets, that a changed template does not replace: of
    /// workloads that are paused, that have a partition or the strategy `OnDelete`, or that another
    /// controller owns.
    #[arg(long)]
    pub(crate) evict_pods: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ItemsArgs {
    /// Id of the roll-out, from `rollout list`.
    pub(crate) rollout: String,
    /// State of the workloads: pending, started, done, failed, excluded or skipped.
    #[arg(long)]
    pub(crate) state: Option<String>,
    /// Name of the member cluster that holds the workloads.
    #[arg(long)]
    pub(crate) cluster: Option<String>,
    /// Namespace of the workloads.
    #[arg(long)]
    pub(crate) namespace: Option<String>,
    /// Kind of the workloads: deployment, `stateful_set`, `daemon_set` or pod.
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// Name of the workload.
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RolloutVerbArgs {
    /// Id of the roll-out, from `rollout list`.
    pub(crate) rollout: String,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ItemVerbArgs {
    #[command(flatten)]
    pub(crate) ask: RolloutVerbArgs,
    /// Number of the only workload that the request is about, from `rollout items`.
    #[arg(long, value_name = "N")]
    pub(crate) item: Option<u32>,
}
