//! Declares the arguments of the command line. The doc comments are its help texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod access;
mod catalogue;
mod clusters;
mod meshes;
mod operations;
mod rollouts;
mod upgrades;
mod webhooks;

pub(crate) use access::{AccessCommand, AuditCommand, KeyCommand, TenantCommand};
pub(crate) use catalogue::{HostingCommand, ImportReleaseArgs, ReleaseCommand, SetReleaseArgs};
pub(crate) use clusters::{ClusterCommand, RegisterClusterArgs, RenewCredentialArgs};
pub(crate) use meshes::{CreateMeshArgs, DataPlaneCommand, MeshCommand, SetInjectionArgs};
pub(crate) use operations::{OperationCommand, OperationVerbArgs};
pub(crate) use rollouts::{ItemVerbArgs, ItemsArgs, PolicyArgs, RolloutCommand, RolloutVerbArgs};
pub(crate) use upgrades::{ConfirmedVerbArgs, PlanUpgradeArgs, UpgradeCommand, UpgradeVerbArgs};
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
    /// Plan, start, show and control roll-outs, which restart workloads in waves.
    #[command(subcommand)]
    Rollout(RolloutCommand),
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
