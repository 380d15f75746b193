//! Operations and their steps.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Leftover, Trouble};

/// One machine action.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Its id.
    pub id: String,
    /// What it does.
    pub kind: String,
    /// Where it stands.
    pub state: String,
    /// Why it stands still or failed.
    pub problem: Option<Trouble>,
    /// True at an end.
    pub done: bool,
    /// In which mesh.
    pub mesh_id: Option<String>,
    /// With which cluster.
    pub cluster_id: Option<String>,
    /// As a stage of which upgrade.
    pub upgrade_id: Option<String>,
    /// Steps done, and how many there are.
    pub progress: Progress,
    /// What it waits for right now.
    pub waiting_for: Option<String>,
    /// Verbs that people asked for and no worker has taken up yet. While there are any, `state` and `problem` are older than
    /// the request.
    #[serde(default)]
    pub pending_verbs: Vec<String>,
    /// Why it was forced, in the caller's words.
    pub reason: Option<String>,
    /// Objects that stay in clusters once a deletion or deregistration is over.
    pub leftovers: Vec<Leftover>,
    /// Its plan, once a worker has built it. Lists leave it out.
    pub waves: Vec<Wave>,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
}

/// How far something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Steps done.
    pub completed: i64,
    /// Steps there are.
    pub total: i64,
}

/// Steps that run side by side.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Wave {
    /// What it is for.
    pub title: String,
    /// Its steps.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// Its number within the plan.
    pub number: i32,
    /// What it does.
    pub title: String,
    /// `pending`, `started`, `done` or `failed`.
    pub state: String,
    /// Why it failed.
    pub problem: Option<Trouble>,
}
