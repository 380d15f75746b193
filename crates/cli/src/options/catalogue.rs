//! What can be typed about the catalogue, by whoever operates the service.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use wire::ReleaseArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum ReleaseCommand {
    /// Add a release from its own charts.
    Import(Box<ImportReleaseArgs>),
    /// Offer, deprecate or withdraw a release, or say what is known of it by now.
    Set(SetReleaseArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SetReleaseArgs {
    /// Its version.
    pub(crate) version: String,
    /// available, deprecated or withdrawn.
    #[arg(required_unless_present_any = ["channels", "supported_until", "notes"])]
    pub(crate) state: Option<String>,
    /// A channel that it is offered in from now on: rapid, regular or stable. Repeatable.
    #[arg(long = "channel")]
    pub(crate) channels: Vec<String>,
    /// The day on which its support ends, for example 2027-06-30.
    #[arg(long)]
    pub(crate) supported_until: Option<String>,
    /// What users should know of it: a sentence, or where its notes are.
    #[arg(long)]
    pub(crate) notes: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ImportReleaseArgs {
    /// Its version, for example 1.27.9.1.
    pub(crate) version: String,
    /// Folder with the charts base and istiod, a tar of it, with or without gzip, or a registry that has them, for example
    /// `oci://gcr.io/istio-release/charts`.
    #[arg(long)]
    pub(crate) charts: String,
    /// Version of the charts in the registry; the community version by default.
    #[arg(long)]
    pub(crate) chart_version: Option<String>,
    /// The helm program that pulls from a registry.
    #[arg(long, env = "MESHWRIGHT_HELM", default_value = "helm")]
    pub(crate) helm: PathBuf,
    #[command(flatten)]
    pub(crate) facts: ReleaseArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HostingCommand {
    /// All of them.
    List,
    /// Add a cluster that control planes run in.
    Add {
        /// What to call it: a DNS label.
        name: String,
        /// A kubeconfig with everything inline.
        #[arg(long)]
        kubeconfig: PathBuf,
    },
    /// Remove one that no mesh ever ran in.
    Delete {
        /// Its id.
        hosting: String,
    },
}
