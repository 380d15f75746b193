//! Defines the editions that the operator grants to tenants and meshes.

use serde::{Deserialize, Serialize};

use crate::closed_set;

/// Edition of a mesh, which decides the strategies and releases that it may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edition {
    /// Allows upgrades in place.
    #[default]
    Standard,
    /// Allows upgrades in place and by canary.
    Enterprise,
    /// Allows upgrades in place and by canary.
    Ultimate,
}

closed_set!(Edition {
    Standard = "standard",
    Enterprise = "enterprise",
    Ultimate = "ultimate",
});
