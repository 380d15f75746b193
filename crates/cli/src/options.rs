//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod access;
mod catalogue;
mod webhooks;

pub(crate) use access::{Access, Audit, Key, Tenant};
pub(crate) use catalogue::{Change, Hosting, Import, Release};
pub(crate) use webhooks::Webhook;

/// Every control plane and every sidecar from one version to the next, and back.
#[derive(Debug, Parser)]
#[command(name = "meshwright", version)]
pub(crate) struct Options {
    /// Address of the service; the profile's by default.
    #[arg(long, global = true, env = "MESHWRIGHT_SERVER")]
    pub(crate) server: Option<String>,
    /// File with the API key; the profile's by default.
    #[arg(long, global = true, env = "MESHWRIGHT_KEY_FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
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
    Release(Release),
    /// Clusters that control planes run in, for whoever operates the service.
    #[command(subcommand)]
    Hosting(Hosting),
    /// Registered clusters.
    #[command(subcommand)]
    Cluster(Cluster),
    /// Meshes.
    #[command(subcommand)]
    Mesh(Mesh),
    /// Upgrades.
    #[command(subcommand)]
    Upgrade(Upgrade),
    /// Operations.
    #[command(subcommand)]
    Operation(Operation),
    /// API keys.
    #[command(subcommand)]
    Key(Key),
    /// Identity providers and what their people may do.
    #[command(subcommand)]
    Access(Access),
    /// Addresses that events are sent to.
    #[command(subcommand)]
    Webhook(Webhook),
    /// The audit log.
    #[command(subcommand)]
    Audit(Audit),
    /// Tenants, for whoever operates the service.
    #[command(subcommand)]
    Tenant(Tenant),
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
pub(crate) struct Wait {
    /// Wait for the end and show each step.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Seconds to wait at most.
    #[arg(long, default_value_t = 900)]
    pub(crate) timeout: u64,
}

/// Leaving a cluster behind that does not answer.
#[derive(Debug, Clone, Args)]
pub(crate) struct Force {
    /// Leave a cluster behind that does not answer or does not accept our credential; one that answers is never left behind.
    #[arg(long, requires = "reason")]
    pub(crate) force: bool,
    /// Why, for the audit log.
    #[arg(long, requires = "force")]
    pub(crate) reason: Option<String>,
}

/// What users write on their things.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Written {
    /// A name for people.
    #[arg(long)]
    pub(crate) display_name: Option<String>,
    /// A label, as key=value. Repeatable; a change replaces all of them.
    #[arg(long = "label")]
    pub(crate) labels: Vec<String>,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Selector {
    /// With and without these labels, for example team=payments,tier!=test,!old.
    #[arg(long)]
    pub(crate) selector: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// All of them.
    List(Selector),
    /// Change what is written on a cluster.
    Change {
        /// Its name or id.
        cluster: String,
        #[command(flatten)]
        written: Written,
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
        written: Written,
        #[command(flatten)]
        wait: Wait,
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
        wait: Wait,
    },
    /// Remove our account from a cluster that no mesh uses, and forget the cluster.
    Delete {
        /// Its name or id.
        cluster: String,
        #[command(flatten)]
        force: Force,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Mesh {
    /// All of them.
    List {
        #[command(flatten)]
        selector: Selector,
        /// Show the deleted meshes instead, with the ids that `mesh undelete` takes.
        #[arg(long)]
        deleted: bool,
    },
    /// Change what is written on a mesh, or protect it from deletion.
    Change {
        /// Its name or id.
        mesh: String,
        #[command(flatten)]
        written: Written,
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
        written: Written,
        /// It cannot be deleted until this is taken off.
        #[arg(long)]
        protect: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take a mesh down once nothing uses it.
    Delete {
        /// Its name or id.
        mesh: String,
        #[command(flatten)]
        force: Force,
        #[command(flatten)]
        wait: Wait,
    },
    /// Bring a deleted mesh back, within 30 days.
    Undelete {
        /// The mesh's id, from `meshwright mesh list --deleted`.
        mesh: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Build a failed mesh again: what is missing of it is made.
    Retry {
        /// Its name or id.
        mesh: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Where a mesh can go, and why not elsewhere.
    Options {
        /// Its name or id.
        mesh: String,
    },
    #[command(flatten)]
    View(View),
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
        wait: Wait,
    },
    /// Restart every workload that is behind.
    Restart {
        /// Its name or id.
        mesh: String,
        #[command(flatten)]
        wait: Wait,
    },
}

/// What a worker last saw of a mesh's data plane.
#[derive(Debug, Subcommand)]
pub(crate) enum View {
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
pub(crate) enum Upgrade {
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
        wait: Wait,
    },
    /// Begin.
    Start(Ask),
    /// End before anything was touched.
    Cancel(Ask),
    /// Go on in spite of warnings.
    Acknowledge(Ask),
    /// Try again what failed.
    Retry(Ask),
    /// Make the canary current.
    Promote(Decide),
    /// Stand still.
    Pause(Ask),
    /// Go on.
    Resume(Ask),
    /// Restore what was.
    Rollback(Decide),
    /// Remove the old revision now.
    Retire(Decide),
    /// Move namespaces to the canary, as cluster/namespace.
    Move {
        #[command(flatten)]
        ask: Ask,
        /// Which. Repeatable.
        #[arg(long = "namespace", required = true)]
        namespaces: Vec<String>,
    },
    /// Watch it until a person is needed or it has ended.
    Watch(Ask),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Ask {
    /// The upgrade's id.
    pub(crate) upgrade: String,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Decide {
    #[command(flatten)]
    pub(crate) ask: Ask,
    /// Do it only if the upgrade is still in the state with this tag, which `upgrade get` shows. Without it, the present
    /// state is shown and confirmed.
    #[arg(long, value_name = "TAG")]
    pub(crate) if_match: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Operation {
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
    Pause(AskOperation),
    /// Let a paused operation go on where it was paused.
    Resume(AskOperation),
    /// Try the steps again that failed.
    Retry(AskOperation),
    /// End it where it is; what it has done so far stays.
    Cancel(AskOperation),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct AskOperation {
    /// The operation's id, from `operation list`.
    pub(crate) operation: String,
    #[command(flatten)]
    pub(crate) wait: Wait,
}
