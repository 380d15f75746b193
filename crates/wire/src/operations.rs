//! Bodies about operations and their steps.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Leftover, OperationKind, OperationProblem, OperationState, OperationVerb, StepState};

/// Operation: one action of the service that runs a plan and ends by itself.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Id of the operation.
    pub id: String,
    /// Kind of the operation: `register_cluster`, `renew_credential`, `deregister_cluster`,
    /// `create_mesh`, `delete_mesh`, `restart` (of workloads that are behind), `set_injection`, or
    /// as a stage of an upgrade `precheck`, `deploy`, `move`, `promote`, `restore` (tags after a
    /// failed promotion), `roll` (restart of workloads), `retire` or `rollback`.
    #[schema(inline)]
    pub kind: OperationKind,
    /// State of the operation: `queued`, `running`, `waiting`, `pausing`, `paused` (a person has to
    /// act), `cancelling`, or at the end `succeeded`, `failed`, `cancelled` or `superseded` (by a
    /// later stage of the upgrade).
    #[schema(inline)]
    pub state: OperationState,
    /// Reason why the operation is paused or failed; null in every other state.
    pub problem: Option<OperationProblem>,
    /// True if the operation has ended.
    pub done: bool,
    /// Id of the mesh that the operation changes; null if it changes none.
    pub mesh_id: Option<String>,
    /// Id of the cluster that the operation is about; null if it is about none.
    pub cluster_id: Option<String>,
    /// Id of the upgrade that the operation is a stage of; null if it is none.
    pub upgrade_id: Option<String>,
    /// Number of steps that are done, and of all steps.
    pub progress: Progress,
    /// Condition that the operation waits for now; null if it does not wait.
    pub waiting_for: Option<String>,
    /// Verbs that were requested and that no worker has taken up yet: `pause`, `resume`, `retry`,
    /// `cancel` or `skip`. While there are any, `state` and `problem` are older than the request.
    #[serde(default)]
    #[schema(inline)]
    pub pending_verbs: Vec<OperationVerb>,
    /// Reason for the force, in the words of the caller; null without force.
    pub reason: Option<String>,
    /// Objects that stay in clusters once the deletion or deregistration has succeeded. Before that
    /// they are only expected to stay: an operation that is paused or was cancelled may have removed
    /// nothing, and the commands would destroy what still runs.
    pub leftovers: Vec<Leftover>,
    /// Plan of the operation, empty until a worker has built it. Lists leave it out.
    pub waves: Vec<Wave>,
    /// Time at which the operation was requested.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Time at which the operation ended; null while it has not.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
}

/// Number of steps that are done, and of all steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Number of steps that are done.
    pub completed: i64,
    /// Number of all steps in the plan.
    pub total: i64,
}

/// Group of steps that run side by side.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Wave {
    /// Purpose of the wave, in words.
    pub title: String,
    /// Steps of the wave, in order of their numbers.
    pub steps: Vec<Step>,
}

/// Step of a plan.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// Number of the step within the plan.
    pub number: i32,
    /// Action of the step, in words.
    pub title: String,
    /// State of the step: `pending`, `started`, `done` or `failed`.
    #[schema(inline)]
    pub state: StepState,
    /// Reason why the step failed, or why it was excluded; null if it was neither.
    pub problem: Option<OperationProblem>,
}
