//! Where a mesh can go, and its upgrades.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Trouble;

/// Where a mesh can go.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UpgradeOption {
    /// The version.
    pub version: String,
    /// Each way there, allowed or refused.
    pub strategies: Vec<StrategyOption>,
    /// The stops of the shortest way, where one hop is not enough.
    pub path: Vec<String>,
}

/// One way to a version.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StrategyOption {
    /// `in_place` or `canary`.
    pub strategy: String,
    /// Whether nothing blocks.
    pub allowed: bool,
    /// Everything that blocks or warns.
    pub reasons: Vec<Reason>,
}

/// Why a version is refused or warned of.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    /// Stable identifier.
    pub code: String,
    /// `block` or `warn`.
    pub severity: String,
    /// What it means here.
    pub message: String,
}

/// An upgrade to plan.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUpgrade {
    /// The version to go to.
    #[schema(example = "1.27.9.1")]
    pub version: String,
    /// `in_place` or `canary`.
    pub strategy: String,
    /// Promote without a person.
    #[serde(default)]
    pub auto: bool,
    /// How long the old revision is kept after the roll-out.
    #[serde(default = "default_hold_seconds", deserialize_with = "crate::whole::deserialize_u32")]
    pub hold_seconds: u32,
    /// Warnings of the precheck do not stop it.
    #[serde(default)]
    pub accept_warnings: bool,
    /// What becomes of namespaces that name the old revision: `relabel` them in the roll-out, make their label an `alias` of
    /// the new revision, or let them `block` the upgrade.
    #[serde(default = "default_label_policy")]
    pub labels: String,
}

fn default_label_policy() -> String {
    "relabel".into()
}

fn default_hold_seconds() -> u32 {
    24 * 3600
}

/// An upgrade.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Upgrade {
    /// Its id.
    pub id: String,
    /// Of which mesh.
    pub mesh_id: String,
    /// From which version.
    pub from_version: String,
    /// To which version.
    pub to_version: String,
    /// `in_place` or `canary`.
    pub strategy: String,
    /// Where it stands.
    pub state: String,
    /// What a person may ask of it now.
    pub allowed_verbs: Vec<String>,
    /// What the last precheck found. Findings stay readable after they were accepted.
    pub findings: Vec<Finding>,
    /// Who accepted the findings, as the audit log names them: a caller by `acknowledge`, or `policy` where the upgrade was
    /// planned with `accept_warnings`.
    #[serde(default)]
    pub findings_accepted_by: Option<String>,
    /// When the findings were accepted.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub findings_accepted_at: Option<Timestamp>,
    /// Why it stands still.
    pub problem: Option<Trouble>,
    /// When the old revision goes by itself, while it is held.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub holding_until: Option<Timestamp>,
    /// The stage under way, or the last one.
    pub operation_id: Option<String>,
    /// True at an end.
    pub done: bool,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
}

/// What a precheck found.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// Stable identifier.
    pub code: String,
    /// `block`, `warn` or `note`; a note asks for no decision.
    pub severity: String,
    /// What it is about.
    pub object: String,
    /// What is wrong.
    pub message: String,
    /// What helps.
    pub hint: String,
}

/// Namespaces to move to the canary.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveNamespaces {
    /// Which.
    #[serde(deserialize_with = "crate::object::deserialize_object_list")]
    pub namespaces: Vec<NamespaceRef>,
}

/// A namespace of a member.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamespaceRef {
    /// The member cluster's name.
    pub cluster: String,
    /// The namespace.
    pub namespace: String,
}
