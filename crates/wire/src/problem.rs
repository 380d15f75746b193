//! Body of an error: the problem document.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Problem document of RFC 9457 (`application/problem+json`), which says why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Address of the page about this code, on the service itself: `/problems/` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// Code in words, for people.
    pub title: String,
    /// HTTP status of the response.
    pub status: u16,
    /// Stable identifier of the problem, for programs.
    #[schema(example = "mesh_busy")]
    pub code: String,
    /// Sentence that says what happened to this request.
    pub detail: String,
    /// Sentence that says what the caller can do.
    pub hint: String,
    /// Id of the request, for questions to the operator of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// True if the same request may succeed later.
    pub retryable: bool,
    /// Fields of the request that are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// Field of a request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// Place of the field: a JSON pointer into the body, or the name of a parameter or header.
    pub pointer: String,
    /// Sentence that says what is wrong with the field.
    pub message: String,
}

impl FieldError {
    /// Builds the error for a field from its place and the sentence about it.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            message: message.into(),
        }
    }
}
