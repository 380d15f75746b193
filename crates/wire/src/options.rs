//! What both programs take from a command line.

use clap::Args;

use crate::fleet::{ImportRelease, default_hub, default_edition, default_kubernetes_tested, default_kubernetes_min};

/// What is known of a release, its version and its charts apart. Every text is read by whoever takes the request.
#[derive(Debug, Clone, Args)]
pub struct ReleaseArgs {
    /// Where its images are pulled from.
    #[arg(long, default_value_t = default_hub())]
    pub hub: String,
    /// Tag of its images; the community version by default.
    #[arg(long)]
    pub tag: Option<String>,
    /// The day on which its support ends, for example 2027-06-30.
    #[arg(long)]
    pub supported_until: Option<String>,
    /// The oldest Kubernetes minor that it runs on.
    #[arg(long, default_value_t = default_kubernetes_min())]
    pub kubernetes_min: u32,
    /// The newest Kubernetes minor that it was tested on.
    #[arg(long, default_value_t = default_kubernetes_tested())]
    pub kubernetes_tested: u32,
    /// Who says so.
    #[arg(long, default_value = "")]
    pub kubernetes_source: String,
    /// A known fault that changes how we act. Repeatable.
    #[arg(long = "quirk")]
    pub quirks: Vec<String>,
    /// The day it came out, for example 2026-05-04.
    #[arg(long)]
    pub released_on: Option<String>,
    /// A channel that it is offered in: rapid, regular or stable. Repeatable.
    #[arg(long = "channel")]
    pub channels: Vec<String>,
    /// The lowest edition whose meshes may run it.
    #[arg(long, default_value_t = default_edition())]
    pub minimum_edition: String,
    /// What users should know of it: a sentence, or where its notes are.
    #[arg(long, default_value = "")]
    pub notes: String,
}

impl ReleaseArgs {
    /// The request to import it; the charts in base64.
    #[must_use]
    pub fn into_import_request(self, version: String, charts: String) -> ImportRelease {
        ImportRelease {
            version,
            charts,
            hub: self.hub,
            tag: self.tag,
            supported_until: self.supported_until,
            kubernetes_min: self.kubernetes_min,
            kubernetes_tested: self.kubernetes_tested,
            kubernetes_source: self.kubernetes_source,
            quirks: self.quirks,
            released_on: self.released_on,
            channels: self.channels,
            minimum_edition: self.minimum_edition,
            notes: self.notes,
        }
    }
}
