//! What can be typed about the catalogue, by whoever operates the service.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Release {
    /// Add a release from its own charts.
    Import(Box<Import>),
    /// Offer, deprecate or withdraw a release.
    Set {
        /// Its version.
        version: String,
        /// available, deprecated or withdrawn.
        state: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Its version, for example 1.27.9.1.
    pub(crate) version: String,
    /// Folder with the charts base and istiod, or a tar of it, with or without gzip.
    #[arg(long)]
    pub(crate) charts: PathBuf,
    /// Where its images are pulled from.
    #[arg(long, default_value = "docker.io/istio")]
    pub(crate) hub: String,
    /// Tag of its images; the community version by default.
    #[arg(long)]
    pub(crate) tag: Option<String>,
    /// The day on which its support ends, for example 2027-06-30.
    #[arg(long)]
    pub(crate) supported_until: Option<String>,
    /// The oldest Kubernetes minor that it runs on.
    #[arg(long, default_value_t = 29)]
    pub(crate) kubernetes_min: u32,
    /// The newest Kubernetes minor that it was tested on.
    #[arg(long, default_value_t = 35)]
    pub(crate) kubernetes_tested: u32,
    /// Who says so.
    #[arg(long, default_value = "")]
    pub(crate) kubernetes_source: String,
    /// A known fault that changes how we act. Repeatable.
    #[arg(long = "quirk")]
    pub(crate) quirks: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Hosting {
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
