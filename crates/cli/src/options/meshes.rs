//! Declares the arguments of the commands on meshes and their data planes.

use clap::{Args, Subcommand};

use super::{ForceArgs, MetadataArgs, SelectorArgs, WaitArgs};

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
    Create(CreateMeshArgs),
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
    SetInjection(SetInjectionArgs),
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

#[derive(Debug, Args)]
pub(crate) struct CreateMeshArgs {
    /// Name of the mesh: a DNS label.
    pub(crate) name: String,
    /// Version of the release that the mesh starts on.
    #[arg(long)]
    pub(crate) version: String,
    /// Edition of the mesh: standard, enterprise or ultimate; by default the highest that the
    /// operator granted.
    #[arg(long)]
    pub(crate) edition: Option<String>,
    /// Name or id of a member cluster (repeatable).
    #[arg(long = "cluster", required = true)]
    pub(crate) clusters: Vec<String>,
    #[command(flatten)]
    pub(crate) written: MetadataArgs,
    /// Protect the mesh: it cannot be deleted until the protection is removed.
    #[arg(long)]
    pub(crate) protect: bool,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SetInjectionArgs {
    /// Name or id of the mesh.
    pub(crate) mesh: String,
    /// Name of the member cluster that holds the namespace.
    #[arg(long)]
    pub(crate) cluster: String,
    /// Name of the namespace in the member cluster.
    #[arg(long)]
    pub(crate) namespace: String,
    /// Label to set: istio-injection=enabled or istio.io/rev=REVISION. Without it, the label is
    /// removed.
    #[arg(long)]
    pub(crate) label: Option<String>,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}
