//! Declares the arguments of the command line. The doc comments are its help texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod access;
mod catalogue;
mod webhooks;

pub(crate) use access::{AccessCommand, AuditCommand, KeyCommand, TenantCommand};
pub(crate) use catalogue::{HostingCommand, ImportReleaseArgs, ReleaseCommand, SetReleaseArgs};
pub(crate) use webhooks::WebhookCommand;

/// Manages service meshes: moves every control plane and every sidecar from one version to the
/// next, and back.
#[derive(Debug, Parser)]
#[command(name = "meshwright", version)]
pub(crate) struct CliArgs {
    /// Address of the service, for example `https://meshwright.example`; by default the address in
    /// the profile.
    #[arg(long, global = true, env = "MESHWRIGHT_SERVER")]
    pub(crate) server: Option<String>,
    /// File with the API key; by default the key in the profile is used.
    #[arg(long, global = true, env = "MESHWRIGHT_KEY_FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Format of the output.
    #[arg(short, long, global = true, value_enum, default_value_t = OutputFormat::Table)]
    pub(crate) output: OutputFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// Table for people to read.
    Table,
    /// JSON for programs to read.
    Json,
    /// YAML for use in files.
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Save the address of a service and an API key as the profile.
    Login,
    /// List the releases in the catalogue.
    Releases,
    /// Manage one release of the catalogue (for the operator of the service).
    #[command(subcommand)]
    Release(ReleaseCommand),
    /// Manage the clusters in which control planes run (for the operator of the service).
    #[command(subcommand)]
    Hosting(HostingCommand),
    /// Register, show and deregister clusters.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Create, show, change and delete meshes.
    #[command(subcommand)]
    Mesh(MeshCommand),
    /// Plan, show and control upgrades of meshes.
    #[command(subcommand)]
    Upgrade(UpgradeCommand),
    /// Show and control operations.
    #[command(subcommand)]
    Operation(OperationCommand),
    /// Create, show, rotate and revoke API keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Manage identity providers and the roles of their people.
    #[command(subcommand)]
    Access(AccessCommand),
    /// Manage webhooks, the addresses that events are sent to.
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// Show and verify the audit log.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Manage the tenants (for the operator of the service).
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Show the usage of the tenant's quotas.
    Usage,
    /// List the tenant's events, oldest first.
    Events {
        /// Number of the event after which the list begins.
        #[arg(long, default_value_t = 0)]
        after: i64,
        /// Maximum number of events to list, from 1 to 100000. A last line says if there are more.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Print a completion script for a shell.
    Completion {
        /// Shell that the script is for.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct WaitArgs {
    /// Wait until the end, or until a person has to act, and print each step.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Maximum number of seconds to wait; then the program ends with exit code 7.
    #[arg(long, default_value_t = 900)]
    pub(crate) timeout: u64,
}

/// Arguments that leave a cluster behind that does not answer.
#[derive(Debug, Clone, Args)]
pub(crate) struct ForceArgs {
    /// Leave behind a cluster that does not answer or does not accept our credential. A cluster
    /// that answers is never left behind.
    #[arg(long, requires = "reason")]
    pub(crate) force: bool,
    /// Reason for the force, 1 to 500 characters, for the audit log.
    #[arg(long, requires = "force")]
    pub(crate) reason: Option<String>,
}

/// Arguments with the metadata that users give to clusters and meshes.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MetadataArgs {
    /// Name that people see, at most 128 visible characters.
    #[arg(long)]
    pub(crate) display_name: Option<String>,
    /// Label as KEY=VALUE (repeatable). Given labels replace all former ones.
    #[arg(long = "label")]
    pub(crate) labels: Vec<String>,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SelectorArgs {
    /// Labels that an item must have or must not have, for example team=payments,tier!=test,!old.
    #[arg(long)]
    pub(crate) selector: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// List all registered clusters.
    List(SelectorArgs),
    /// Change the display name or the labels of a cluster.
    Change {
        /// Name or id of the cluster.
        cluster: String,
        #[command(flatten)]
        written: MetadataArgs,
    },
    /// Show one registered cluster.
    Get {
        /// Name or id of the cluster.
        cluster: String,
    },
    /// Register a cluster and create our service accounts in it.
    Register {
        /// Name of the cluster: a DNS label.
        name: String,
        /// File with an administrator's kubeconfig. It is discarded once our service account
        /// exists.
        #[arg(long)]
        kubeconfig: PathBuf,
        #[command(flatten)]
        written: MetadataArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Renew our credential in a cluster, and bring it to the control planes that read the cluster.
    Renew {
        /// Name or id of the cluster.
        cluster: String,
        /// File with an administrator's kubeconfig, for a cluster whose present credential is no
        /// longer valid. It is discarded afterwards.
        #[arg(long)]
        kubeconfig: Option<PathBuf>,
        /// Seconds that the former credential stays valid, from 0 to 86400.
        #[arg(long, default_value_t = 3600)]
        overlap_seconds: u32,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Remove our service account from a cluster that no mesh uses, and forget the cluster.
    Delete {
        /// Name or id of the cluster.
        cluster: String,
        #[command(flatten)]
        force: ForceArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MeshCommand {
    /// List all meshes, or the deleted ones.
    List {
        #[command(flatten)]
        selector: SelectorArgs,
        /// List the deleted meshes instead, with the ids that `mesh undelete` takes.
        #[arg(long)]
        deleted: bool,
    },
    /// Change the display name or the labels of a mesh, or protect it from deletion.
    Change {
        /// Name or id of the mesh.
        mesh: String,
        #[command(flatten)]
        written: MetadataArgs,
        /// With true, the mesh cannot be deleted until this is set to false.
        #[arg(long)]
        protect: Option<bool>,
    },
    /// Show a mesh with its state and members.
    Get {
        /// Name or id of the mesh.
        mesh: String,
    },
    /// Create a mesh of one or more clusters; the first is its config cluster.
    Create {
        /// Name of the mesh: a DNS label.
        name: String,
        /// Version of the release that the mesh starts on.
        #[arg(long)]
        version: String,
        /// Edition of the mesh: standard, enterprise or ultimate; by default the highest that the
        /// operator granted.
        #[arg(long)]
        edition: Option<String>,
        /// Name or id of a member cluster (repeatable).
        #[arg(long = "cluster", required = true)]
        clusters: Vec<String>,
        #[command(flatten)]
        written: MetadataArgs,
        /// Protect the mesh: it cannot be deleted until the protection is removed.
        #[arg(long)]
        protect: bool,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Delete a mesh once no workload uses it.
    Delete {
        /// Name or id of the mesh.
        mesh: String,
        #[command(flatten)]
        force: ForceArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Restore a deleted mesh within 30 days of its deletion.
    Undelete {
        /// Id of the mesh, from `meshwright mesh list --deleted`.
        mesh: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Create the missing parts of a failed mesh.
    Retry {
        /// Name or id of the mesh.
        mesh: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// List the versions that a mesh can go to, and why it cannot go to the others.
    Options {
        /// Name or id of the mesh.
        mesh: String,
    },
    #[command(flatten)]
    View(DataPlaneCommand),
    /// Set or remove the injection label of a namespace.
    SetInjection {
        /// Name or id of the mesh.
        mesh: String,
        /// Name of the member cluster that holds the namespace.
        #[arg(long)]
        cluster: String,
        /// Name of the namespace in the member cluster.
        #[arg(long)]
        namespace: String,
        /// Label to set: istio-injection=enabled or istio.io/rev=REVISION. Without it, the label is
        /// removed.
        #[arg(long)]
        label: Option<String>,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Restart every workload whose pods do not have the sidecar that they should have.
    Restart {
        /// Name or id of the mesh.
        mesh: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

/// Commands that show a mesh's data plane as a worker last observed it.
#[derive(Debug, Subcommand)]
pub(crate) enum DataPlaneCommand {
    /// List the namespaces of a mesh and the revisions that inject them.
    Namespaces {
        /// Name or id of the mesh.
        mesh: String,
    },
    /// List the workloads of a mesh and the revisions that their pods have.
    Workloads {
        /// Name or id of the mesh.
        mesh: String,
    },
    /// List the proxies that are connected to a mesh.
    Proxies {
        /// Name or id of the mesh.
        mesh: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum UpgradeCommand {
    /// List the upgrades of a mesh, newest first.
    List {
        /// Name or id of the mesh.
        mesh: String,
    },
    /// Show one upgrade with its findings and its tag.
    Get {
        /// Id of the upgrade, from `upgrade list`.
        upgrade: String,
    },
    /// Plan an upgrade. No cluster is touched until it is started.
    Plan {
        /// Name or id of the mesh.
        mesh: String,
        /// Version that the mesh is to run.
        #[arg(long)]
        version: String,
        /// Strategy of the upgrade: `in_place` or canary.
        #[arg(long, default_value = "canary")]
        strategy: String,
        /// Promote the canary as soon as it serves, without a person.
        #[arg(long)]
        auto: bool,
        /// Seconds that the old revision is kept after the roll-out, from 0 to 2592000 (30 days).
        #[arg(long, default_value_t = 86400)]
        hold_seconds: u32,
        /// Go on in spite of warnings of the precheck.
        #[arg(long)]
        accept_warnings: bool,
        /// Handling of namespaces whose label names the old revision: relabel, alias or block.
        #[arg(long, default_value = "relabel")]
        labels: String,
        /// Start the upgrade at once.
        #[arg(long)]
        start: bool,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Start a planned upgrade.
    Start(UpgradeVerbArgs),
    /// Cancel an upgrade before it has changed anything.
    Cancel(UpgradeVerbArgs),
    /// Accept the warnings of the precheck and go on.
    Acknowledge(UpgradeVerbArgs),
    /// Try again what has failed.
    Retry(UpgradeVerbArgs),
    /// Promote the canary: switch the tags of the mesh to it.
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
    /// Tag of the state that the request is meant for, from `upgrade get`. In another state the
    /// request is refused. Without a tag, the present state is printed and its tag is sent.
    #[arg(long, value_name = "TAG")]
    pub(crate) if_match: Option<String>,
}

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
