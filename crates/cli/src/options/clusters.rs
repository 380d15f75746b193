//! Declares the arguments of the commands on clusters.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ForceArgs, MetadataArgs, SelectorArgs, WaitArgs};

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
    Register(RegisterClusterArgs),
    /// Renew our credential in a cluster, and bring it to the control planes that read the cluster.
    Renew(RenewCredentialArgs),
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

#[derive(Debug, Args)]
pub(crate) struct RegisterClusterArgs {
    /// Name of the cluster: a DNS label.
    pub(crate) name: String,
    /// File with an administrator's kubeconfig. It is discarded once our service account
    /// exists.
    #[arg(long)]
    pub(crate) kubeconfig: PathBuf,
    #[command(flatten)]
    pub(crate) written: MetadataArgs,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RenewCredentialArgs {
    /// Name or id of the cluster.
    pub(crate) cluster: String,
    /// File with an administrator's kubeconfig, for a cluster whose present credential is no
    /// longer valid. It is discarded afterwards.
    #[arg(long)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Seconds that the former credential stays valid, from 0 to 86400.
    #[arg(long, default_value_t = 3600)]
    pub(crate) overlap_seconds: u32,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}
