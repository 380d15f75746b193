//! Completes the `OpenAPI` document that the handlers declare.

pub(crate) mod conventions;
pub(crate) mod deprecation;
