//! Command line arguments that the programs `meshwright` and `meshwright-server` share.

use clap::Args;

use crate::catalogue::Catalogue;
use crate::fleet::{
    ImportRelease, default_edition, default_hub, default_kubernetes_min, default_kubernetes_tested,
};
use crate::{Channel, Edition, Quirk};

/// Arguments that describe a release, apart from its version and its charts. The API checks the
/// texts when it receives the request.
#[derive(Debug, Clone, Args)]
pub struct ReleaseArgs {
    /// Registry and path that the images are pulled from.
    #[arg(long, default_value_t = default_hub())]
    pub hub: String,
    /// Tag of the images; the community version by default.
    #[arg(long)]
    pub tag: Option<String>,
    /// Day on which support for the release ends, for example 2027-06-30.
    #[arg(long)]
    pub supported_until: Option<String>,
    /// Oldest minor of Kubernetes 1 that the release runs on, from 1 to 999; without this option,
    /// the minor that the built-in catalogue of releases knows.
    #[arg(long)]
    pub kubernetes_min: Option<u32>,
    /// Newest minor of Kubernetes 1 that the release was tested on, from 1 to 999; without this
    /// option, the minor that the built-in catalogue of releases knows.
    #[arg(long)]
    pub kubernetes_tested: Option<u32>,
    /// Source of the two Kubernetes minors, at most 255 bytes; without this option, the source
    /// that the built-in catalogue of releases names.
    #[arg(long)]
    pub kubernetes_source: Option<String>,
    /// Known fault that changes how the service acts, for example remote-secret-deadlock
    /// (repeatable); without this option, the faults that the built-in catalogue of releases
    /// knows.
    #[arg(long = "quirk")]
    pub quirks: Vec<String>,
    /// Day on which the release came out, for example 2026-05-04.
    #[arg(long)]
    pub released_on: Option<String>,
    /// Channel that offers the release: rapid, regular or stable (repeatable).
    #[arg(long = "channel")]
    pub channels: Vec<String>,
    /// Lowest edition whose meshes can run the release: standard, enterprise or ultimate.
    #[arg(long, default_value_t = default_edition().to_string())]
    pub minimum_edition: String,
    /// Notes for users, at most 255 bytes: a sentence, or the address of the release notes.
    #[arg(long, default_value = "")]
    pub notes: String,
}

impl ReleaseArgs {
    /// Builds the request that imports the release; `charts` is the archive in base64. Facts that
    /// were not given come from the built-in catalogue of releases.
    #[must_use]
    pub fn into_import_request(self, version: String, charts: String) -> ImportRelease {
        let catalogue = Catalogue::built_in();
        let known = catalogue.kubernetes_of(&version);
        let quirks = if self.quirks.is_empty() {
            let known = catalogue.quirks_of(&version);
            known.into_iter().map(Quirk::from).collect()
        } else {
            self.quirks.into_iter().map(Quirk::from_name).collect()
        };
        // A source that was given belongs to the minors that were given with it.
        let own_minors = self.kubernetes_min.is_some() || self.kubernetes_tested.is_some();
        let source = known
            .as_ref()
            .filter(|_| !own_minors)
            .map(|range| range.source.clone());
        ImportRelease {
            version,
            charts,
            hub: self.hub,
            tag: self.tag,
            supported_until: self.supported_until,
            kubernetes_min: self
                .kubernetes_min
                .or(known.as_ref().map(|range| range.min))
                .unwrap_or_else(default_kubernetes_min),
            kubernetes_tested: self
                .kubernetes_tested
                .or(known.as_ref().map(|range| range.tested_max))
                .unwrap_or_else(default_kubernetes_tested),
            kubernetes_source: self.kubernetes_source.or(source).unwrap_or_default(),
            quirks,
            released_on: self.released_on,
            channels: self.channels.into_iter().map(Channel::from_name).collect(),
            minimum_edition: Edition::from_name(self.minimum_edition),
            notes: self.notes,
        }
    }
}
