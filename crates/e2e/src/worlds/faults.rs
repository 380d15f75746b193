//! Defines the faults of a run. Each run has at most one, at one call to a cluster.

use std::fmt;

use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::ClusterError;

use super::cells::{CellIndex, Value};

/// Kind of a call to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallKind {
    Read,
    /// Write of a target; true for a target of several objects.
    Write {
        bundle: bool,
    },
    Eviction,
    Fence,
}

/// Call of a run without a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) kind: CallKind,
    /// True for each number of writes ago of which a stale look could show the state.
    pub(super) stale: [bool; 2],
}

/// Fault that happens at one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Fault {
    /// The write is done, but its answer is lost.
    LostAnswer,
    /// Only a part of the objects is written, and the answer is lost.
    PartialWrite,
    /// The call reaches nothing, and there is no answer.
    Unanswered,
    /// The look shows the clusters as they were this number of writes ago.
    StaleLook(usize),
    /// The cluster refuses the call.
    Refused,
    /// The cluster of the call is silent from this call on.
    Silence,
    /// The worker dies before the call reaches the cluster, and another one takes over.
    DiesBefore,
    /// The worker dies after the call was done, and another one takes over.
    DiesAfter,
    /// The worker is taken over, and its write arrives this number of calls later.
    LateWrite(u32),
    /// A write of an operation before this one arrives this number of calls after the beginning.
    EarlierWrite(u32),
}

impl Fault {
    /// Returns the name under which runs are counted.
    pub(super) fn family(self) -> &'static str {
        match self {
            Self::LostAnswer | Self::PartialWrite | Self::Unanswered => "lost answer",
            Self::StaleLook(_) => "stale look",
            Self::Refused => "refusal",
            Self::Silence => "silence",
            Self::DiesBefore | Self::DiesAfter => "takeover",
            Self::LateWrite(_) | Self::EarlierWrite(_) => "late write",
        }
    }

    /// Returns the faults that can happen at a call of this kind.
    pub(super) fn at(call: CallKind) -> &'static [Self] {
        match call {
            CallKind::Read => &[
                Self::Unanswered,
                Self::StaleLook(1),
                Self::StaleLook(2),
                Self::Refused,
                Self::Silence,
                Self::DiesBefore,
            ],
            CallKind::Write { bundle: false } => &[
                Self::LostAnswer,
                Self::Unanswered,
                Self::Refused,
                Self::Silence,
                Self::DiesBefore,
                Self::DiesAfter,
                Self::LateWrite(0),
                Self::LateWrite(1),
                Self::LateWrite(2),
                Self::LateWrite(5),
                Self::LateWrite(12),
            ],
            CallKind::Write { bundle: true } => &[
                Self::LostAnswer,
                Self::PartialWrite,
                Self::Unanswered,
                Self::Refused,
                Self::Silence,
                Self::DiesBefore,
                Self::DiesAfter,
                Self::LateWrite(0),
                Self::LateWrite(2),
            ],
            CallKind::Eviction => &[
                Self::LostAnswer,
                Self::Unanswered,
                Self::Refused,
                Self::Silence,
                Self::DiesBefore,
                Self::DiesAfter,
            ],
            CallKind::Fence => &[
                Self::Unanswered,
                Self::Refused,
                Self::Silence,
                Self::DiesBefore,
            ],
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Write that is still on its way to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PendingWrite {
    pub(super) cell: CellIndex,
    pub(super) value: Value,
    pub(super) version: u32,
    /// Number of the call before which the write arrives.
    pub(super) arrives: u32,
}

/// Builds the error of a cluster that does not answer.
pub(super) fn unreachable_error(place: &str) -> ClusterError {
    ClusterError::unreachable(place, "timed out")
}

/// Builds the error of a cluster that refuses a call.
pub(super) fn refused_error(place: &str) -> ClusterError {
    ClusterError::Refused {
        place: place.to_owned(),
        code: ProblemCode::PermissionMissing,
        cause: "patch is forbidden".to_owned(),
    }
}
