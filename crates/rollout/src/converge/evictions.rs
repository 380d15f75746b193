//! Chooses the pods that a rollback evicts, because no restart of ours replaces them.

use std::collections::BTreeSet;

use meshwright_model::operation::Progress;
use meshwright_model::plan::Step;

use super::NewRestart;
use crate::ports::RevisionUser;

/// Live pod that no workload owns which we can restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherPod {
    /// Pod, as a user of the revision that the roll-out moves off.
    pub user: RevisionUser,
    /// Progress of its eviction; `None` if the plan has none.
    pub eviction: Option<Progress>,
}

impl OtherPod {
    pub(super) fn is_under_way(&self) -> bool {
        self.eviction
            .as_ref()
            .is_some_and(|progress| !progress.is_closed() && progress.failed.is_none())
    }

    /// Returns true if a person decided to go on without the pod.
    pub(super) fn is_skipped(&self) -> bool {
        self.eviction
            .as_ref()
            .is_some_and(|progress| progress.skipped)
    }

    /// Returns the place within which one pod is evicted at a time.
    pub(super) fn place(&self) -> (&str, &str) {
        let namespace = self.user.name.split('/').next().unwrap_or_default();
        (&self.user.member, namespace)
    }
}

/// Returns the evictions to begin, one at a time in each namespace.
pub(super) fn new_evictions(others: &[OtherPod]) -> Vec<NewRestart> {
    let mut taken: BTreeSet<(&str, &str)> = others
        .iter()
        .filter(|other| other.is_under_way())
        .map(OtherPod::place)
        .collect();
    let mut added = Vec::new();
    for other in others.iter().filter(|other| other.eviction.is_none()) {
        let (Some(version), Ok(member)) = (&other.user.evictable, other.user.member.parse()) else {
            continue;
        };
        if taken.insert(other.place()) {
            let step = Step::Evict {
                member,
                namespace: other.place().1.to_owned(),
                pod: version.0.clone(),
            };
            added.push(NewRestart {
                step,
                excluded: None,
            });
        }
    }
    added
}
