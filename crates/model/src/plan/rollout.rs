//! Defines the policy of a roll-out: its waves, its limits, and what follows a failure.

use serde::{Deserialize, Serialize};

use super::WorkloadRef;
use crate::{Name, closed_set};

mod replaced;

pub use replaced::{ReplacedKind, ReplacedObject};

/// Maximum number of waves in a policy.
pub const MAX_WAVES: usize = 20;
/// Maximum number of clusters, namespaces or workloads that a wave lists, each.
pub const MAX_LISTED: usize = 500;
/// Maximum time between a wave and the next one, in seconds: seven days.
pub const MAX_SOAK_SECONDS: u32 = 7 * 24 * 60 * 60;
/// Maximum value of the limits on restarts and failures.
pub const MAX_LIMIT: u32 = 10_000;

/// Order and limits of the restarts in a roll-out. The default has one wave and the operator's
/// limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutPolicy {
    /// Waves before the last one, at most [`MAX_WAVES`]. The last wave is not listed: it restarts
    /// every workload that is left.
    #[serde(default)]
    pub waves: Vec<RolloutWave>,
    /// Limits of the restarts that are under way at once.
    #[serde(flatten)]
    pub limits: RestartLimits,
    /// Number of workloads whose restart may fail before no further restart begins, from 1 to
    /// [`MAX_LIMIT`]; `None` for three, or a tenth of the workloads of a large mesh.
    #[serde(default)]
    pub max_failures: Option<u32>,
    /// What a wave does at its end if workloads are left that it could not restart.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// True if pods are evicted, within their disruption budgets, which a changed template does not
    /// replace: those of workloads that are paused, that have a partition or the strategy
    /// `OnDelete`, or that another controller owns. Without it such workloads are left to their
    /// owners. A rollback always evicts such pods, because it has to end.
    #[serde(default)]
    pub evict_pods: bool,
}

/// Maximum numbers of workloads whose pods are replaced at once. Each of them is from 1 to
/// [`MAX_LIMIT`]; `None` is no limit besides the operator's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartLimits {
    /// Limit of the whole mesh. The operator's limit holds as well.
    #[serde(default)]
    pub max_concurrent: Option<u32>,
    /// Limit of each member cluster.
    #[serde(default)]
    pub max_concurrent_per_cluster: Option<u32>,
    /// Limit of each namespace of a cluster.
    #[serde(default)]
    pub max_concurrent_per_namespace: Option<u32>,
}

/// What a wave does at its end if workloads are left that it could not restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The roll-out pauses, and a person decides.
    #[default]
    Pause,
    /// The next wave begins. The last wave names the workloads that are left.
    Continue,
}

closed_set!(OnFailure {
    Pause = "pause",
    Continue = "continue",
});

/// Wave of a roll-out: the workloads that it restarts, and the time before the next wave.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutWave {
    /// Workloads that the wave restarts.
    #[serde(flatten)]
    pub selection: WorkloadSelection,
    /// Seconds between the end of the wave and the beginning of the next one, from 0 to
    /// [`MAX_SOAK_SECONDS`].
    #[serde(default)]
    pub soak_seconds: u32,
}

/// Choice of workloads. A workload is chosen if it meets every condition that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadSelection {
    /// Clusters of which the workload must be in one; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<Name>,
    /// Namespaces of which the workload must be in one; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Workloads of which the workload must be one; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<SelectedWorkload>,
    /// Share of the workloads in percent, from 1 to 100; `None` for all. A hash of the workload's
    /// name decides, so a workload within 10 % is also within 20 %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
}

/// One workload of a mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SelectedWorkload {
    /// Name of the member cluster that holds the workload.
    pub cluster: Name,
    /// Namespace, kind and name of the workload.
    #[serde(flatten)]
    pub workload: WorkloadRef,
}

/// Reason why a policy is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {message}")]
pub struct InvalidPolicy {
    /// JSON pointer to the refused field, below the policy.
    pub pointer: String,
    /// Reason for the refusal.
    pub message: String,
}

impl RolloutPolicy {
    /// Reads the policy from the arguments of an operation, where it is the field `policy`.
    /// Arguments without it stand for the default policy.
    ///
    /// # Errors
    /// Returns an error for a policy that this version does not know.
    pub fn from_arguments(arguments: &serde_json::Value) -> serde_json::Result<Self> {
        arguments
            .get("policy")
            .map_or_else(|| Ok(Self::default()), Self::deserialize)
    }

    /// Checks the limits of every field.
    ///
    /// # Errors
    /// Returns the first field that is out of its limits.
    pub fn validate(&self) -> Result<(), InvalidPolicy> {
        let refuse = |pointer: String, message: String| Err(InvalidPolicy { pointer, message });
        if self.waves.len() > MAX_WAVES {
            return refuse("/waves".into(), format!("at most {MAX_WAVES} waves"));
        }
        let limits = [
            ("max_concurrent", self.limits.max_concurrent),
            (
                "max_concurrent_per_cluster",
                self.limits.max_concurrent_per_cluster,
            ),
            (
                "max_concurrent_per_namespace",
                self.limits.max_concurrent_per_namespace,
            ),
            ("max_failures", self.max_failures),
        ];
        for (field, value) in limits {
            if value.is_some_and(|value| !(1..=MAX_LIMIT).contains(&value)) {
                return refuse(format!("/{field}"), format!("from 1 to {MAX_LIMIT}"));
            }
        }
        for (index, wave) in self.waves.iter().enumerate() {
            wave.validate(&format!("/waves/{index}"))?;
        }
        Ok(())
    }

    /// Returns the policy with the last wave only, for a move or a rollback.
    #[must_use]
    pub fn without_waves(self) -> Self {
        Self {
            waves: Vec::new(),
            ..self
        }
    }

    /// Returns the number of the wave that restarts a workload, from 0; the last one is the number
    /// of listed waves. `of_mesh` is true for a workload in the mesh's own namespace.
    pub fn wave_of(&self, cluster: &Name, workload: &WorkloadRef, of_mesh: bool) -> usize {
        let chosen = |wave: &RolloutWave| wave.selection.includes(cluster, workload, of_mesh);
        let wave = self.waves.iter().position(chosen);
        wave.unwrap_or(self.waves.len())
    }
}

impl RolloutWave {
    fn validate(&self, at: &str) -> Result<(), InvalidPolicy> {
        let refuse = |field: &str, message: String| {
            Err(InvalidPolicy {
                pointer: format!("{at}{field}"),
                message,
            })
        };
        let selection = &self.selection;
        if *selection == WorkloadSelection::default() {
            return refuse(
                "",
                "name clusters, namespaces, workloads or a percentage; the last wave, which restarts all that is left, is not listed".into(),
            );
        }
        let lists = [
            ("/clusters", selection.clusters.len()),
            ("/namespaces", selection.namespaces.len()),
            ("/workloads", selection.workloads.len()),
        ];
        for (field, length) in lists {
            if length > MAX_LISTED {
                return refuse(field, format!("at most {MAX_LISTED} entries"));
            }
        }
        if selection
            .percent
            .is_some_and(|share| !(1..=100).contains(&share))
        {
            return refuse("/percent", "from 1 to 100".into());
        }
        if self.soak_seconds > MAX_SOAK_SECONDS {
            return refuse("/soak_seconds", format!("from 0 to {MAX_SOAK_SECONDS}"));
        }
        Ok(())
    }
}

impl WorkloadSelection {
    /// Returns true for a workload that meets every condition. One in the mesh's own namespace, such
    /// as a gateway, comes last: it is chosen only if its namespace or the workload itself is named.
    pub fn includes(&self, cluster: &Name, workload: &WorkloadRef, of_mesh: bool) -> bool {
        let listed = |of: &SelectedWorkload| of.cluster == *cluster && of.workload == *workload;
        let named = !self.namespaces.is_empty() || !self.workloads.is_empty();
        (named || !of_mesh)
            && (self.clusters.is_empty() || self.clusters.contains(cluster))
            && (self.namespaces.is_empty() || self.namespaces.contains(&workload.namespace))
            && (self.workloads.is_empty() || self.workloads.iter().any(listed))
            && self
                .percent
                .is_none_or(|share| percentile(cluster, workload) < share)
    }

    /// Describes the selection in words, for the title of a wave.
    pub fn describe(&self) -> String {
        let named = |what: &str, names: Vec<&str>| match names.len() {
            0 => None,
            1..=3 => Some(names.join(", ")),
            more => Some(format!("{more} {what}")),
        };
        let clusters = self.clusters.iter().map(Name::as_str).collect();
        let namespaces = self.namespaces.iter().map(String::as_str).collect();
        let workloads = match self.workloads.len() {
            0 => None,
            1 => Some(format!(
                "{} in {}",
                self.workloads[0].workload, self.workloads[0].cluster
            )),
            more => Some(format!("{more} workloads")),
        };
        let parts = [
            self.percent.map(|share| format!("{share} %")),
            workloads,
            named("namespaces", namespaces),
            named("clusters", clusters),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        parts.join(" of ")
    }
}

/// Returns a number from 0 to 99 that belongs to a workload: the 64-bit FNV-1a hash of
/// `cluster/namespace/kind/name`, its halves combined, modulo 100.
fn percentile(cluster: &Name, workload: &WorkloadRef) -> u32 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let text = format!("{cluster}/{workload}");
    let hash = text.bytes().fold(OFFSET, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    });
    u32::try_from(((hash >> 32) ^ hash) % 100).expect("less than 100")
}

#[cfg(test)]
mod tests;
