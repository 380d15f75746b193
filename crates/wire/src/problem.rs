//! What went wrong.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong, as RFC 9457 describes it (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Address of a page about this code, on the service itself.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// Stable identifier, for programs.
    #[schema(example = "mesh_busy")]
    pub code: String,
    /// What happened here.
    pub detail: String,
    /// What helps.
    pub hint: String,
    /// Id of the request, for whoever operates the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Single fields that are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// Where it is in the body.
    pub pointer: String,
    /// What is wrong with it.
    pub message: String,
}
