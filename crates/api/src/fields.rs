//! Single values of paths and bodies.

use model::Name;
use model::name::InvalidName;

use crate::problem::{ApiError, Result};

/// Reads an id of a path; a malformed one is as absent as an unknown one.
pub(crate) fn id<T: std::str::FromStr>(text: &str, what: &str) -> Result<T> {
    text.parse().map_err(|_| ApiError::not_found(what))
}

/// Reads the field `/name`: a DNS label.
pub(crate) fn name_field(text: &str) -> Result<Name> {
    text.parse().map_err(|error: InvalidName| ApiError::field("/name", error.to_string()))
}
