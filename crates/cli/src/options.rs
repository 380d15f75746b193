//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod access;
mod catalogue;
mod webhooks;

pub(crate) use access::{AccessCommand, AuditCommand, KeyCommand, TenantCommand};
pub(crate) use catalogue::{SetReleaseArgs, HostingCommand, ImportReleaseArgs, ReleaseCommand};
pub(crate) use webhooks::WebhookCommand;

/// Every control plane and every sidecar from one version to the next, and back.
#[derive(Debug, Parser)]
#[command(name = "meshwright", version)]
pub(crate) struct CliArgs {
    /// Address of the service; the profile's by default.
    #[arg(long, global = true, env = "MESHWRIGHT_SERVER")]
    pub(crate) server: Option<String>,
    /// File with the API key; the profile's by default.
    #[arg(long, global = true, env = "MESHWRIGHT_KEY_FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = OutputFormat::Table)]
    pub(crate) output: OutputFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For files.
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Keep a server's address and an API key as the profile.
    Login,
    /// The release catalogue.
    Releases,
    /// One release of it, for whoever operates the service.
    #[command(subcommand)]
    Release(ReleaseCommand),
    /// Clusters that control planes run in, for whoever operates the service.
    #[command(subcommand)]
    Hosting(HostingCommand),
    /// Registered clusters.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Meshes.
    #[command(subcommand)]
    Mesh(MeshCommand),
    /// Upgrades.
    #[command(subcommand)]
    Upgrade(UpgradeCommand),
    /// Operations.
    #[command(subcommand)]
    Operation(OperationCommand),
    /// API keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Identity providers and what their people may do.
    #[command(subcommand)]
    Access(AccessCommand),
    /// Addresses that events are sent to.
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// The audit log.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Tenants, for whoever operates the service.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// How much of what is limited is used.
    Usage,
    /// What happened, oldest first.
    Events {
        /// Begin after this number.
        #[arg(long, default_value_t = 0)]
        after: i64,
        /// Show at most so many events, 1 to 100000; a last line says when there are more.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Print a completion script.
    Completion {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct WaitArgs {
    /// Wait for the end and show each step.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Seconds to wait at most.
    #[arg(long, default_value_t = 900)]
    pub(crate) timeout: u64,
}

/// Leaving a cluster behind that does not answer.
#[derive(Debug, Clone, Args)]
pub(crate) struct ForceArgs {
    /// Leave a cluster behind that does not answer or does not accept our credential; one that answers is never left behind.
    #[arg(long, requires = "reason")]
    pub(crate) force: bool,
    /// Why, for the audit log.
    #[arg(long, requires = "force")]
    pub(crate) reason: Option<String>,
}

/// What users write on their things.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MetadataArgs {
    /// A name for people.
    #[arg(long)]
    pub(crate) display_name: Option<String>,
    /// A label, as key=value. Repeatable; a change replaces all of them.
    #[arg(long = "label")]
    pub(crate) labels: Vec<String>,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SelectorArgs {
    /// With and without these labels, for example team=payments,tier!=test,!old.
    #[arg(long)]
    pub(crate) selector: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// All of them.
    List(SelectorArgs),
    /// Change what is written on a cluster.
    Change {
        /// Its name or id.
        cluster: String,
        #[command(flatten)]
        written: MetadataArgs,
    },
    /// One.
    Get {
        /// Its name or id.
        cluster: String,
    },
    /// Connect to a cluster for the first time.
    Register {
        /// What to call it: a DNS label.
        name: String,
        /// An administrator's kubeconfig; it is discarded when an account of ours has been made.
        #[arg(long)]
        kubeconfig: PathBuf,
        #[command(flatten)]
        written: MetadataArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Make the next credential of our account in a cluster, and bring it to the control planes that read the cluster.
    Renew {
        /// Its name or id.
        cluster: String,
        /// An administrator's kubeconfig, where the present credential is not good any more; it is discarded afterwards.
        #[arg(long)]
        kubeconfig: Option<PathBuf>,
        /// Seconds that the former credential stays good.
        #[arg(long, default_value_t = 3600)]
        overlap_seconds: u32,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Remove our account from a cluster that no mesh uses, and forget the cluster.
    Delete {
        /// Its name or id.
        cluster: String,
        #[command(flatten)]
        force: ForceArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MeshCommand {
    /// All of them.
    List {
        #[command(flatten)]
        selector: SelectorArgs,
        /// Show the deleted meshes instead, with the ids that `mesh undelete` takes.
        #[arg(long)]
        deleted: bool,
    },
    /// Change what is written on a mesh, or protect it from deletion.
    Change {
        /// Its name or id.
        mesh: String,
        #[command(flatten)]
        written: MetadataArgs,
        /// true: it cannot be deleted until this is false again.
        #[arg(long)]
        protect: Option<bool>,
    },
    /// One.
    Get {
        /// Its name or id.
        mesh: String,
    },
    /// Make a mesh of clusters; the first is its config cluster.
    Create {
        /// What to call it: a DNS label.
        name: String,
        /// The version to start on.
        #[arg(long)]
        version: String,
        /// standard, enterprise or ultimate; by default the highest that the operator granted.
        #[arg(long)]
        edition: Option<String>,
        /// Member clusters by name or id. Repeatable.
        #[arg(long = "cluster", required = true)]
        clusters: Vec<String>,
        #[command(flatten)]
        written: MetadataArgs,
        /// It cannot be deleted until this is taken off.
        #[arg(long)]
        protect: bool,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Take a mesh down once nothing uses it.
    Delete {
        /// Its name or id.
        mesh: String,
        #[command(flatten)]
        force: ForceArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Bring a deleted mesh back, within 30 days.
    Undelete {
        /// The mesh's id, from `meshwright mesh list --deleted`.
        mesh: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Build a failed mesh again: what is missing of it is made.
    Retry {
        /// Its name or id.
        mesh: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Where a mesh can go, and why not elsewhere.
    Options {
        /// Its name or id.
        mesh: String,
    },
    #[command(flatten)]
    View(DataPlaneCommand),
    /// Set a namespace's injection label, or take it off.
    SetInjection {
        /// Its name or id.
        mesh: String,
        /// The member cluster's name.
        #[arg(long)]
        cluster: String,
        /// The namespace.
        #[arg(long)]
        namespace: String,
        /// istio-injection=enabled or istio.io/rev=REVISION; nothing takes it off.
        #[arg(long)]
        label: Option<String>,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Restart every workload that is behind.
    Restart {
        /// Its name or id.
        mesh: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

/// What a worker last saw of a mesh's data plane.
#[derive(Debug, Subcommand)]
pub(crate) enum DataPlaneCommand {
    /// Namespaces and who injects them.
    Namespaces {
        /// Its name or id.
        mesh: String,
    },
    /// Workloads and which revision their pods carry.
    Workloads {
        /// Its name or id.
        mesh: String,
    },
    /// Connected proxies.
    Proxies {
        /// Its name or id.
        mesh: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum UpgradeCommand {
    /// A mesh's upgrades, newest first.
    List {
        /// The mesh's name or id.
        mesh: String,
    },
    /// One.
    Get {
        /// Its id.
        upgrade: String,
    },
    /// Plan an upgrade; nothing is touched until it is started.
    Plan {
        /// The mesh's name or id.
        mesh: String,
        /// The version to go to.
        #[arg(long)]
        version: String,
        /// `in_place` or canary.
        #[arg(long, default_value = "canary")]
        strategy: String,
        /// Promote without a person.
        #[arg(long)]
        auto: bool,
        /// Seconds that the old revision is kept after the roll-out.
        #[arg(long, default_value_t = 86400)]
        hold_seconds: u32,
        /// Warnings of the precheck do not stop it.
        #[arg(long)]
        accept_warnings: bool,
        /// What becomes of namespaces that name the old revision: relabel, alias or block.
        #[arg(long, default_value = "relabel")]
        labels: String,
        /// Start it at once.
        #[arg(long)]
        start: bool,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Begin.
    Start(UpgradeVerbArgs),
    /// End before anything was touched.
    Cancel(UpgradeVerbArgs),
    /// Go on in spite of warnings.
    Acknowledge(UpgradeVerbArgs),
    /// Try again what failed.
    Retry(UpgradeVerbArgs),
    /// Make the canary current.
    Promote(ConfirmedVerbArgs),
    /// Stand still.
    Pause(UpgradeVerbArgs),
    /// Go on.
    Resume(UpgradeVerbArgs),
    /// Restore what was.
    Rollback(ConfirmedVerbArgs),
    /// Remove the old revision now.
    Retire(ConfirmedVerbArgs),
    /// Move namespaces to the canary, as cluster/namespace.
    Move {
        #[command(flatten)]
        ask: UpgradeVerbArgs,
        /// Which. Repeatable.
        #[arg(long = "namespace", required = true)]
        namespaces: Vec<String>,
    },
    /// Watch it until a person is needed or it has ended.
    Watch(UpgradeVerbArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct UpgradeVerbArgs {
    /// The upgrade's id.
    pub(crate) upgrade: String,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ConfirmedVerbArgs {
    #[command(flatten)]
    pub(crate) ask: UpgradeVerbArgs,
    /// Do it only if the upgrade is still in the state with this tag, which `upgrade get` shows. Without it, the present
    /// state is shown and confirmed.
    #[arg(long, value_name = "TAG")]
    pub(crate) if_match: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperationCommand {
    /// Newest first.
    List,
    /// One, with its steps.
    Get {
        /// Its id.
        operation: String,
    },
    /// Watch it until it has ended or needs a person.
    Watch {
        /// Its id.
        operation: String,
        /// Seconds to wait at most.
        #[arg(long, default_value_t = 900)]
        timeout: u64,
    },
    /// Pause it after the calls that are under way; a stage of an upgrade is paused with `upgrade pause`.
    Pause(OperationVerbArgs),
    /// Let a paused operation go on where it was paused.
    Resume(OperationVerbArgs),
    /// Try the steps again that failed.
    Retry(OperationVerbArgs),
    /// End it where it is; what it has done so far stays.
    Cancel(OperationVerbArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct OperationVerbArgs {
    /// The operation's id, from `operation list`.
    pub(crate) operation: String,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}
