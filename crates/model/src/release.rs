//! Defines the release catalogue as data (requirement A3).

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::edition::Edition;
use crate::switch::{Switch, SwitchDefault};
use crate::{Version, closed_set};

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

closed_set!(Channel {
    Rapid = "rapid",
    Regular = "regular",
    Stable = "stable",
});

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

closed_set!(ReleaseState {
    Available = "available",
    Deprecated = "deprecated",
    Withdrawn = "withdrawn",
});

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

/// Known property of a release that changes how the service acts, or that a check looks at. The
/// releases that have it, with the source of each fact, stand in `deploy/catalogue.yaml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quirk {
    /// A change of the remote secret of a synced cluster hangs istiod's secret controller, so
    /// control planes are restarted for a new kubeconfig.
    RemoteSecretDeadlock,
    /// The removal of the remote secret of a synced cluster hangs istiod's secret controller.
    RemoteSecretRemovalDeadlock,
    /// A changed remote secret never replaces the old one, so istiod sees an old state of the
    /// cluster until it restarts (upstream issue 60612).
    RemoteSecretSwapStale,
    /// Debug endpoints of istiod answer the system namespace only.
    DebugEndpointsRestricted,
    /// istiod generates a factory key that proxies before 1.29.2 do not know (upstream issue
    /// 60486).
    HashableString,
}

closed_set!(Quirk {
    RemoteSecretDeadlock = "remote-secret-deadlock",
    RemoteSecretRemovalDeadlock = "remote-secret-removal-deadlock",
    RemoteSecretSwapStale = "remote-secret-swap-stale",
    DebugEndpointsRestricted = "debug-endpoints-restricted",
    HashableString = "hashable-string",
});
