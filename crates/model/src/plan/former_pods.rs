//! Defines the pods that a roll-out or a rollback replaces.

use serde::{Deserialize, Serialize};

use super::Sidecar;
use crate::RevisionName;

/// Pods that an operation replaces, by the sidecar that they carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerPods {
    /// Revision that injected the pods.
    pub revision: RevisionName,
    /// Image of their proxies; `None` for any image. In place, the image tells the pods of one
    /// release from those of the other, because both have one revision name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

impl FormerPods {
    /// Returns true if a pod with this sidecar is one of the pods.
    pub fn include(&self, sidecar: &Sidecar) -> bool {
        sidecar.revision == self.revision
            && self
                .image
                .as_ref()
                .is_none_or(|image| *image == sidecar.image)
    }
}

impl std::fmt::Display for FormerPods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.image {
            Some(image) => write!(f, "{} with {image}", self.revision),
            None => write!(f, "{}", self.revision),
        }
    }
}
