//! Bodies about roll-outs, the operations that replace pods.

use jiff::Timestamp;
use meshwright_model::rollout;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    ForecastAction, ForecastReasonCode, OnFailure, OperationKind, OperationProblem, OperationState,
    OperationVerb, RolloutAction, RolloutItemKind, StepState, WorkloadKind,
};

fn default_on_failure() -> OnFailure {
    rollout::OnFailure::Pause.into()
}

/// Defines the bodies of a policy. A request refuses fields that it does not know, and a reader of
/// an answer leaves them out, because a newer service may have sent them.
macro_rules! policy_bodies {
    ($($(#[$strict:meta])* $policy:ident, $wave:ident, $workload:ident;)*) => {$(
        /// Order and limits of the restarts in a roll-out.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
        $(#[$strict])*
        pub struct $policy {
            /// Waves before the last one, at most 20. The last wave is not listed: it restarts
            /// every workload that is left.
            #[serde(default, deserialize_with = "crate::object::deserialize_object_list")]
            #[schema(max_items = 20)]
            pub waves: Vec<$wave>,
            /// Maximum number of workloads that are restarted at once, from 1 to 10000; null for
            /// the limit of the operator, which holds as well.
            #[serde(default, deserialize_with = "crate::integer::deserialize_optional_u32")]
            #[schema(minimum = 1, maximum = 10_000)]
            pub max_concurrent: Option<u32>,
            /// Maximum number of workloads that are restarted at once in each member cluster, from
            /// 1 to 10000; null for no limit.
            #[serde(default, deserialize_with = "crate::integer::deserialize_optional_u32")]
            #[schema(minimum = 1, maximum = 10_000)]
            pub max_concurrent_per_cluster: Option<u32>,
            /// Maximum number of workloads that are restarted at once in each namespace of a
            /// cluster, from 1 to 10000; null for no limit.
            #[serde(default, deserialize_with = "crate::integer::deserialize_optional_u32")]
            #[schema(minimum = 1, maximum = 10_000)]
            pub max_concurrent_per_namespace: Option<u32>,
            /// Number of failed restarts, in all waves, at which no further restart begins, from 1 to
            /// 10000; null for three, or a tenth of the workloads of a large mesh.
            #[serde(default, deserialize_with = "crate::integer::deserialize_optional_u32")]
            #[schema(minimum = 1, maximum = 10_000)]
            pub max_failures: Option<u32>,
            /// Action of a wave at its end if workloads are left that it could not restart: `pause`
            /// the roll-out for a person, or `continue` with the next wave.
            #[serde(default = "default_on_failure")]
            #[schema(inline)]
            pub on_failure: OnFailure,
            /// True if pods are evicted, within their disruption budgets, which a changed template
            /// does not replace: those of workloads that are paused, that have a partition or the
            /// strategy `OnDelete`, or that another controller owns. Otherwise such workloads are
            /// left to their owners.
            #[serde(default)]
            pub evict_pods: bool,
        }

        impl Default for $policy {
            fn default() -> Self {
                Self {
                    waves: Vec::new(),
                    max_concurrent: None,
                    max_concurrent_per_cluster: None,
                    max_concurrent_per_namespace: None,
                    max_failures: None,
                    on_failure: default_on_failure(),
                    evict_pods: false,
                }
            }
        }

        /// Wave of a roll-out. It restarts the workloads that meet every condition that is given,
        /// and needs at least one condition.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
        $(#[$strict])*
        pub struct $wave {
            /// Names of member clusters of which the workload must be in one; empty for all. At
            /// most 500.
            #[serde(default)]
            #[schema(max_items = 500)]
            pub clusters: Vec<String>,
            /// Namespaces of which the workload must be in one; empty for all. At most 500.
            #[serde(default)]
            #[schema(max_items = 500)]
            pub namespaces: Vec<String>,
            /// Workloads of which the workload must be one; empty for all. At most 500.
            #[serde(default, deserialize_with = "crate::object::deserialize_object_list")]
            #[schema(max_items = 500)]
            pub workloads: Vec<$workload>,
            /// Share of the workloads in percent, from 1 to 100; null for all. The name of a
            /// workload decides, so a workload within 10 percent is also within 20 percent. A share of
            /// few workloads may choose none.
            #[serde(default, deserialize_with = "crate::integer::deserialize_optional_u32")]
            #[schema(minimum = 1, maximum = 100)]
            pub percent: Option<u32>,
            /// Seconds between the end of the wave and the beginning of the next one, from 0 to
            /// 604800 (seven days).
            #[serde(default, deserialize_with = "crate::integer::deserialize_u32")]
            #[schema(maximum = 604_800)]
            pub soak_seconds: u32,
        }

        /// One workload of a mesh.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
        $(#[$strict])*
        pub struct $workload {
            /// Name of the member cluster that holds the workload.
            pub cluster: String,
            /// Namespace of the workload.
            pub namespace: String,
            /// Kind of the workload: `deployment`, `stateful_set` or `daemon_set`.
            #[schema(inline)]
            pub kind: WorkloadKind,
            /// Name of the workload.
            pub name: String,
        }
    )*};
}

policy_bodies! {
    #[serde(deny_unknown_fields)]
    CreateRollout, WaveChoice, WorkloadChoice;
    RolloutPolicy, RolloutWave, SelectedWorkload;
}

/// Request to do something with a roll-out or with one of its workloads.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AskRollout {
    /// Number of the only workload that `retry` or `skip` is about, from the list of items; null
    /// for the whole roll-out.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::integer::deserialize_optional_u32"
    )]
    pub item: Option<u32>,
}

/// Roll-out: an operation that replaces the pods of a mesh that carry the wrong sidecar.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    /// Id of the roll-out, which is the id of its operation.
    pub id: String,
    /// Kind of the operation: `restart`, or as a stage of an upgrade `roll`, `move` or `rollback`.
    #[schema(inline)]
    pub kind: OperationKind,
    /// Id of the mesh whose pods are replaced.
    pub mesh_id: String,
    /// Id of the upgrade that the roll-out is a stage of; null for a restart.
    pub upgrade_id: Option<String>,
    /// State of the operation: `queued`, `running`, `waiting`, `pausing`, `paused` (a person has to
    /// act), `cancelling`, or at the end `succeeded`, `failed`, `cancelled` or `superseded`.
    #[schema(inline)]
    pub state: OperationState,
    /// Reason why the roll-out is paused or failed; null in every other state.
    pub problem: Option<OperationProblem>,
    /// True if the roll-out has ended.
    pub done: bool,
    /// Condition that the roll-out waits for now; null if it does not wait.
    pub waiting_for: Option<String>,
    /// Verbs that were requested and that no worker has taken up yet.
    #[schema(inline)]
    pub pending_verbs: Vec<OperationVerb>,
    /// Waves and limits that the roll-out was started with.
    pub policy: RolloutPolicy,
    /// Numbers of workloads found so far, by their states.
    pub counts: RolloutCounts,
    /// Waves of the plan that replace pods, in order; empty until a worker has built the plan.
    pub waves: Vec<RolloutWaveProgress>,
    /// Restarts that the last observation of the mesh lets expect; null except in the answer to the
    /// request that starts a roll-out.
    pub forecast: Option<RolloutForecast>,
    /// Time at which the roll-out was requested.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Time at which the roll-out ended; null while it has not.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
}

/// Numbers of workloads of a roll-out, by their states. Workloads are found while it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutCounts {
    /// Number of workloads whose restart has not begun.
    pub pending: i64,
    /// Number of workloads that are being restarted.
    pub started: i64,
    /// Number of workloads whose pods are all as they should be.
    pub done: i64,
    /// Number of workloads whose restart failed.
    pub failed: i64,
    /// Number of workloads that no restart of the service can reach now.
    pub excluded: i64,
    /// Number of workloads that a person decided to go on without.
    pub skipped: i64,
}

/// Wave of a roll-out with its progress.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RolloutWaveProgress {
    /// Number of the wave, from 1.
    pub number: u32,
    /// Purpose of the wave, in words.
    pub title: String,
    /// Numbers of the wave's workloads found so far, by their states.
    pub counts: RolloutCounts,
}

/// Workload of a roll-out, or a pod without a workload that it evicts.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RolloutItem {
    /// Number of the item, which the verbs `retry` and `skip` take. A workload that is restarted
    /// once more gets a new number.
    pub number: i32,
    /// Number of the wave, from 1.
    pub wave: u32,
    /// Name of the member cluster that holds the workload.
    pub cluster: String,
    /// Namespace of the workload.
    pub namespace: String,
    /// Kind of the workload: `deployment`, `stateful_set` or `daemon_set`, or `pod` for a pod
    /// without one.
    #[schema(inline)]
    pub kind: RolloutItemKind,
    /// Name of the workload.
    pub name: String,
    /// Way in which the pods are replaced: `restart` or `evict` (one after the other).
    #[schema(inline)]
    pub action: RolloutAction,
    /// State of the item: `pending`, `started`, `done`, `failed`, `excluded` (no restart of the
    /// service can reach it) or `skipped` (a person decided to go on without it).
    #[schema(inline)]
    pub state: StepState,
    /// Reason why the restart failed, or why it was excluded; null if it was neither.
    pub problem: Option<OperationProblem>,
    /// Number of times that the roll-out began to replace these pods.
    pub attempts: u32,
    /// Time at which the restart began; null before.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// Time at which the item was done, failed, was excluded or was skipped; null before.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
}

/// Restarts that the last observation of a mesh lets expect. The roll-out itself asks the clusters
/// by a dry run, so it may find more.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RolloutForecast {
    /// Time of the observation; null while the mesh was not observed yet.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub observed_at: Option<Timestamp>,
    /// Waves of the policy, in order, with the last one that restarts all that is left.
    pub waves: Vec<ForecastWave>,
    /// Workloads and pods of the mesh, by wave.
    pub workloads: Vec<ForecastWorkload>,
}

/// Wave of a forecast.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ForecastWave {
    /// Number of the wave, from 1.
    pub number: u32,
    /// Workloads that the wave chooses, in words.
    pub title: String,
    /// Number of workloads that are restarted.
    pub restarts: u32,
    /// Number of live pods of the workloads that are restarted.
    pub pods: u32,
    /// Number of workloads and pods that need a restart and are left.
    pub left: u32,
    /// Seconds between the end of the wave and the beginning of the next one.
    pub soak_seconds: u32,
}

/// Workload or pod of a forecast.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ForecastWorkload {
    /// Number of the wave that the workload belongs to, from 1.
    pub wave: u32,
    /// Name of the member cluster that holds the workload.
    pub cluster: String,
    /// Namespace of the workload.
    pub namespace: String,
    /// Kind of the workload: `deployment`, `stateful_set` or `daemon_set`, or `pod` for a pod
    /// without one.
    #[schema(inline)]
    pub kind: RolloutItemKind,
    /// Name of the workload.
    pub name: String,
    /// Number of live pods; finished pods do not count.
    pub pods: u32,
    /// Action of the roll-out: `restart`, `evict` (of the pods, one after the other), `left` (it needs
    /// a restart that the service cannot make) or `none`.
    #[schema(inline)]
    pub action: ForecastAction,
    /// Reason for the action; null if nothing has to be done.
    pub reason: Option<ForecastReason>,
}

/// Reason for the action of a roll-out on a workload.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ForecastReason {
    /// Stable identifier of the reason, for programs.
    #[schema(inline)]
    pub code: ForecastReasonCode,
    /// Sentence that says what the reason means for this workload.
    pub message: String,
}
