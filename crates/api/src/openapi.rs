//! Completes the `OpenAPI` document that the handlers declare.

mod closed_sets;
pub(crate) mod conventions;
pub(crate) mod deprecation;
