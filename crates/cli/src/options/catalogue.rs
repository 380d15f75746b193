//! Declares the arguments of the commands on releases and hosting clusters, for the operator of the
//! service.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use meshwright_wire::ReleaseArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum ReleaseCommand {
    /// Import a release from its own charts.
    Import(Box<ImportReleaseArgs>),
    /// Change the state, the channels, the end of support or the notes of a release.
    Set(SetReleaseArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SetReleaseArgs {
    /// Version of the release, for example 1.27.9.1.
    pub(crate) version: String,
    /// New state of the release: available, deprecated or withdrawn.
    #[arg(required_unless_present_any = ["channels", "supported_until", "notes"])]
    pub(crate) state: Option<String>,
    /// Channel that offers the release from now on: rapid, regular or stable (repeatable). Given
    /// channels replace all former ones.
    #[arg(long = "channel")]
    pub(crate) channels: Vec<String>,
    /// Day on which support for the release ends, for example 2027-06-30.
    #[arg(long)]
    pub(crate) supported_until: Option<String>,
    /// Notes for users, at most 255 bytes: a sentence, or the address of the release notes.
    #[arg(long)]
    pub(crate) notes: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ImportReleaseArgs {
    /// Version of the release, for example 1.27.9.1.
    pub(crate) version: String,
    /// Folder with the charts base and istiod, a tar archive of it, with or without gzip, or a
    /// registry that has them, for example `oci://gcr.io/istio-release/charts`.
    #[arg(long)]
    pub(crate) charts: String,
    /// Version of the charts in the registry; the community version by default.
    #[arg(long)]
    pub(crate) chart_version: Option<String>,
    /// Path of the helm program that pulls from a registry.
    #[arg(long, env = "MESHWRIGHT_HELM", default_value = "helm")]
    pub(crate) helm: PathBuf,
    #[command(flatten)]
    pub(crate) facts: ReleaseArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HostingCommand {
    /// List the hosting clusters of the service.
    List,
    /// Add a cluster in which control planes can run.
    Add {
        /// Name of the hosting cluster: a DNS label.
        name: String,
        /// File with a kubeconfig that has all certificates and tokens inline.
        #[arg(long)]
        kubeconfig: PathBuf,
    },
    /// Remove a hosting cluster that no mesh ever ran in.
    Delete {
        /// Id of the hosting cluster, from `hosting list`.
        hosting: String,
    },
}
