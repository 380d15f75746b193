//! Bodies about upgrades and the versions that a mesh can go to.

use jiff::Timestamp;
use meshwright_model::upgrade;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    CreateRollout, LabelPolicy, OperationProblem, ReasonCode, ReasonSeverity, RolloutPolicy,
    Severity, Strategy, UpgradeState, UpgradeVerb,
};

/// Version of the catalogue, with the strategies by which a mesh can or cannot go to it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UpgradeOption {
    /// Version of the release.
    pub version: String,
    /// Strategies that lead there, allowed or refused.
    pub strategies: Vec<StrategyOption>,
    /// Versions of the shortest path, in order, if one upgrade is not enough; else empty.
    pub path: Vec<String>,
}

/// Strategy for an upgrade to one version.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StrategyOption {
    /// Strategy of the upgrade: `in_place` or `canary`.
    #[schema(inline)]
    pub strategy: Strategy,
    /// True if no reason blocks the upgrade.
    pub allowed: bool,
    /// Reasons that block the upgrade or warn of it.
    pub reasons: Vec<Reason>,
}

/// Reason why an upgrade is refused or warned of.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    /// Stable identifier of the reason, for programs.
    #[schema(inline)]
    pub code: ReasonCode,
    /// Severity of the reason: `block` or `warn`.
    #[schema(inline)]
    pub severity: ReasonSeverity,
    /// Sentence that says what the reason means for this mesh.
    pub message: String,
}

/// Request to plan an upgrade.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUpgrade {
    /// Version that the mesh is to run.
    #[schema(example = "1.27.9.1")]
    pub version: String,
    /// Strategy of the upgrade: `in_place` or `canary`.
    #[schema(inline)]
    pub strategy: Strategy,
    /// True if the canary is promoted as soon as it serves, without a person.
    #[serde(default)]
    pub auto: bool,
    /// Seconds that the old revision is kept after the roll-out, from 0 to 2592000 (30 days).
    #[serde(
        default = "default_hold_seconds",
        deserialize_with = "crate::integer::deserialize_u32"
    )]
    pub hold_seconds: u32,
    /// True if warnings of the precheck do not stop the upgrade.
    #[serde(default)]
    pub accept_warnings: bool,
    /// Handling of namespaces whose label names the old revision: `relabel` them in the roll-out,
    /// make their label an `alias` of the new revision, or let them `block` the upgrade.
    #[serde(default = "default_label_policy")]
    #[schema(inline)]
    pub labels: LabelPolicy,
    /// Waves and limits of the stage that restarts the workloads; null or absent for one wave and
    /// the limits of the operator.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::object::deserialize_optional_object"
    )]
    pub rollout: Option<CreateRollout>,
}

fn default_label_policy() -> LabelPolicy {
    upgrade::LabelPolicy::Relabel.into()
}

fn default_hold_seconds() -> u32 {
    24 * 3600
}

/// Upgrade of a mesh from one version to another.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Upgrade {
    /// Id of the upgrade.
    pub id: String,
    /// Id of the mesh that is upgraded.
    pub mesh_id: String,
    /// Version that the mesh had before.
    pub from_version: String,
    /// Version that the upgrade leads to.
    pub to_version: String,
    /// Strategy of the upgrade: `in_place` or `canary`.
    #[schema(inline)]
    pub strategy: Strategy,
    /// Waves and limits of the stage that restarts the workloads, the stage `roll`.
    #[serde(default)]
    pub rollout: RolloutPolicy,
    /// State of the upgrade: `planned` (no cluster was touched), `prechecking`, `blocked` (the
    /// precheck has findings), `deploying`, `verifying` (both revisions serve and a person
    /// decides), `promoting`, `restoring` (a failed promotion is reverted), `rolling` (workloads
    /// are restarted), `holding` (complete, and the old revision is kept), `retiring` (the old
    /// revision is removed), `paused` (a person has to act), `rolling_back`, or at the end
    /// `succeeded`, `rolled_back`, `cancelled` or `abandoned`.
    #[schema(inline)]
    pub state: UpgradeState,
    /// Verbs that can be requested now: `start`, `cancel`, `acknowledge`, `retry`, `move`,
    /// `promote`, `pause`, `resume`, `rollback` or `retire`.
    #[schema(inline)]
    pub allowed_verbs: Vec<UpgradeVerb>,
    /// Findings of the last precheck. They stay readable after they were accepted.
    pub findings: Vec<Finding>,
    /// Actor that accepted the findings, as the audit log names it: the caller of `acknowledge`, or
    /// `policy` if the upgrade was planned with `accept_warnings`.
    #[serde(default)]
    pub findings_accepted_by: Option<String>,
    /// Time at which the findings were accepted; null if they were not.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub findings_accepted_at: Option<Timestamp>,
    /// Reason why the upgrade is paused or restoring, or why its last promotion failed; null at
    /// other times.
    pub problem: Option<OperationProblem>,
    /// Time at which the old revision is removed without a request; null unless the upgrade is
    /// `holding`.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub holding_until: Option<Timestamp>,
    /// Id of the operation of the present stage, or of the last one; null before the start.
    pub operation_id: Option<String>,
    /// True if the upgrade has ended.
    pub done: bool,
    /// Time at which the upgrade was planned.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Time at which the upgrade ended; null while it has not.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
}

/// Finding of a precheck or a cluster check.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// Stable identifier of the finding, for programs.
    pub code: String,
    /// Severity of the finding: `block`, `warn` or `note`. A note needs no decision.
    #[schema(inline)]
    pub severity: Severity,
    /// Object that the finding is about; empty if it is about no single object.
    pub object: String,
    /// Sentence that says what is wrong.
    pub message: String,
    /// Sentence that says what the user can do.
    pub hint: String,
}

/// Request to move namespaces to the canary.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveNamespaces {
    /// Namespaces to move, at least one.
    #[serde(deserialize_with = "crate::object::deserialize_object_list")]
    pub namespaces: Vec<NamespaceRef>,
}

/// Namespace of a member cluster.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamespaceRef {
    /// Name of the member cluster that holds the namespace.
    pub cluster: String,
    /// Name of the namespace.
    pub namespace: String,
}
