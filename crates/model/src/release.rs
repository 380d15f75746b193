//! Defines the release catalogue as data (requirement A3).

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::Version;
use crate::rules::Edition;
use crate::switch::{Switch, SwitchDefault};

/// Release of Istio that meshes can run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Version of the release, with its build.
    pub version: Version,
    /// State of the release: `available`, `deprecated` or `withdrawn`.
    pub state: ReleaseState,
    /// Image registry and path that the images are pulled from.
    pub hub: String,
    /// Image tag of the release.
    pub tag: String,
    /// SHA-256 of the charts, in hexadecimal.
    pub digest: String,
    /// Day on which support ends; `None` if it is not known.
    pub supported_until: Option<Date>,
    /// Kubernetes minors that the release was tested on, with the source of this statement.
    pub kubernetes: KubernetesRange,
    /// Known faults that change the steps of workers.
    pub quirks: Vec<Quirk>,
    /// Day on which the release was published; `None` if it is not known.
    #[serde(default)]
    pub released_on: Option<Date>,
    /// Channels that offer the release.
    #[serde(default)]
    pub channels: BTreeSet<Channel>,
    /// Lowest edition whose meshes may run the release.
    #[serde(default)]
    pub minimum_edition: Edition,
    /// Text for users: a sentence, or the address of the release notes.
    #[serde(default)]
    pub notes: String,
    /// Default of each pinned switch of istiod, which the release uses when no value is set.
    #[serde(default)]
    pub switches: BTreeMap<Switch, SwitchDefault>,
}

/// Channel that offers a release to callers who name no version. Channels differ in how soon after
/// its publication a release joins them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// Offers releases as soon as they are published.
    Rapid,
    /// Offers releases that other meshes have run for a while.
    Regular,
    /// Offers releases that have proved themselves.
    Stable,
}

impl Channel {
    /// All channels, beginning with the quickest.
    pub const ALL: [Self; 3] = [Self::Rapid, Self::Regular, Self::Stable];
}

/// State of a release in the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseState {
    /// The release is offered to meshes.
    Available,
    /// The release can still be used, but is no longer recommended.
    Deprecated,
    /// No mesh may move to the release.
    Withdrawn,
}

/// Range of Kubernetes minors, all of major version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesRange {
    /// Lowest minor on which the release runs.
    pub min: u32,
    /// Highest minor on which the release was tested.
    pub tested_max: u32,
    /// Source of the range, for people.
    pub source: String,
}

/// Known fault of a release that changes the steps of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quirk {
    /// A change or removal of the remote secret of a synced cluster hangs istiod's secret
    /// controller (upstream issue 60612).
    RemoteSecretDeadlock,
}

impl Quirk {
    /// All quirks that exist.
    pub const ALL: [Self; 1] = [Self::RemoteSecretDeadlock];
}
