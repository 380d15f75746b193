//! The release catalogue as data (requirement A3).

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::Version;
use crate::rules::Edition;
use crate::switch::{Switch, SwitchDefault};

/// One release that meshes can run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its version.
    pub version: Version,
    /// Where it stands in its life.
    pub state: ReleaseState,
    /// Image registry and path that its images are pulled from.
    pub hub: String,
    /// Tag of its images.
    pub tag: String,
    /// SHA-256 of its charts, in hexadecimal.
    pub digest: String,
    /// When support ends; `None` where nobody has said.
    pub supported_until: Option<Date>,
    /// The Kubernetes minors it was tested on, by `source`.
    pub kubernetes: KubernetesRange,
    /// Known faults that change how we act.
    pub quirks: Vec<Quirk>,
    /// The day it came out; `None` where nobody has said.
    #[serde(default)]
    pub released_on: Option<Date>,
    /// The channels that it is offered in.
    #[serde(default)]
    pub channels: BTreeSet<Channel>,
    /// The lowest edition whose meshes may run it.
    #[serde(default)]
    pub minimum_edition: Edition,
    /// What users should know of it: a sentence, or where its notes are.
    #[serde(default)]
    pub notes: String,
    /// What each pinned switch of istiod does in it when nothing is set.
    #[serde(default)]
    pub switches: BTreeMap<Switch, SwitchDefault>,
}

/// How soon after it came out a release is offered to whoever does not name one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// At once.
    Rapid,
    /// When others have run it for a while.
    Regular,
    /// When it has proved itself.
    Stable,
}

impl Channel {
    /// Every channel, the quickest first.
    pub const ALL: [Self; 3] = [Self::Rapid, Self::Regular, Self::Stable];
}

/// Where a release stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseState {
    /// Offered.
    Available,
    /// Still usable, no longer advised.
    Deprecated,
    /// No mesh may move to it.
    Withdrawn,
}

/// Kubernetes minors of major version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesRange {
    /// Below it the release does not run.
    pub min: u32,
    /// Above it nobody has tested.
    pub tested_max: u32,
    /// Who says so.
    pub source: String,
}

/// A fault of a release that changes how we act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quirk {
    /// Changing or removing a remote secret of a synced cluster hangs istiod's secret controller (upstream 60612).
    RemoteSecretDeadlock,
}

impl Quirk {
    /// Every quirk there is.
    pub const ALL: [Self; 1] = [Self::RemoteSecretDeadlock];
}
