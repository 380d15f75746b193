//! Looks at the workloads of the mesh for a step that replaces pods until none is left.

use std::collections::BTreeMap;

use meshwright_model::injection::{Injection, injected_by};
use meshwright_model::observation::{MemberObservation, NamespaceObservation, WorkloadObservation};
use meshwright_model::plan::{FormerPods, Stamp, Step};
use meshwright_model::rollout::{OnFailure, WorkloadSelection};

use super::{StepCheck, StepContext, summarize_list};
use crate::converge::{
    Candidate, Goal, NewRestart, NextMove, OtherPod, RestartHistory, WorkloadKey, next_move,
};
use crate::plan::NamespaceKey;
use crate::ports::{
    ClusterError, MeshClusters, NextPod, RevisionUser, RevisionUsers, UserKind, UserSearch,
};

/// A workload of a look, with the place where it was found.
type FoundWorkload<'a> = (
    &'a MemberObservation,
    &'a NamespaceObservation,
    &'a WorkloadObservation,
);

/// Workloads that a search looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    /// Namespaces, each with its member; `None` for all.
    pub(super) namespaces: Option<&'a [NamespaceKey]>,
    /// Workloads of the wave; `None` for all.
    pub(super) selection: Option<&'a WorkloadSelection>,
    /// What follows when only workloads are left that cannot be restarted.
    pub(super) on_failure: OnFailure,
}

impl Scope<'_> {
    /// Returns true if the search looks at every workload, and therefore also at pods that belong to
    /// none.
    fn is_whole(&self) -> bool {
        self.selection.is_none()
    }

    fn includes(&self, (member, namespace, workload): &FoundWorkload<'_>) -> bool {
        let at = &member.member;
        let listed = |(of, name): &NamespaceKey| of == at && *name == namespace.name;
        self.namespaces.is_none_or(|list| list.iter().any(listed))
            && self
                .selection
                .is_none_or(|chosen| chosen.includes(at, &workload.workload, namespace.of_mesh))
    }
}

/// Checks which workloads have to be restarted, and turns the answer into the result of the step.
pub(super) async fn check(
    place: &StepContext<'_>,
    world: &dyn MeshClusters,
    goal: &Goal<'_>,
    scope: &Scope<'_>,
) -> Result<StepCheck, ClusterError> {
    let survey = world.observe_mesh().await?;
    let histories = place.restart_histories();
    let found: Vec<FoundWorkload<'_>> = survey
        .members
        .iter()
        .flat_map(|member| {
            let namespaces = member.namespaces.iter();
            namespaces.flat_map(move |namespace| {
                let workloads = namespace.workloads.iter();
                workloads.map(move |workload| (member, namespace, workload))
            })
        })
        .filter(|found| scope.includes(found))
        .filter(|found| place.may_need_restart(goal, &histories, *found))
        .collect();
    let candidates = ask_candidates(place, world, &found).await?;
    let found = match goal.off {
        Some(former) if scope.is_whole() && !place.has_open_restart() => {
            list_other_pods(world, former).await?
        }
        _ => RevisionUsers::default(),
    };
    let others: Vec<OtherPod> = found
        .users
        .into_iter()
        .map(|pod| place.with_eviction(pod))
        .collect();
    let next = next_move(goal, &candidates, &histories, &others);
    // A workload whose pods are all gone for a moment is no candidate, but its restart is under way.
    if matches!(next, NextMove::Done | NextMove::Partial(_)) && place.has_open_restart() {
        return Ok(StepCheck::Waiting(
            "workloads are being restarted".to_owned(),
        ));
    }
    // A member that did not answer may have pods of the revision.
    if matches!(next, NextMove::Done | NextMove::Partial(_)) && !found.silent.is_empty() {
        return Ok(StepCheck::Waiting(format!(
            "unknown counts as used: {}",
            summarize_list(&found.silent)
        )));
    }
    Ok(match next {
        // Without every member's answer, the number of pods that are left proves nothing.
        NextMove::Restart(added) if evicts_only(&added) && found.silent.is_empty() => {
            StepCheck::Evictions {
                added,
                left: others.iter().map(|pod| pod.user.to_string()).collect(),
            }
        }
        NextMove::Restart(restarts) => StepCheck::Restarts(restarts),
        NextMove::Wait(reason) => StepCheck::Waiting(reason),
        NextMove::Done => StepCheck::Done,
        NextMove::Partial(problem) => StepCheck::Partial {
            problem,
            // Too many failures stop every wave: a broken release must not go on to the next one.
            goes_on: scope.on_failure == OnFailure::Continue && !goal.has_too_many_failures(),
        },
    })
}

fn evicts_only(added: &[NewRestart]) -> bool {
    added
        .iter()
        .all(|new| matches!(new.step, Step::Evict { .. }))
}

/// Asks for the next pod of each workload, one call for each member.
async fn ask_candidates(
    place: &StepContext<'_>,
    world: &dyn MeshClusters,
    found: &[FoundWorkload<'_>],
) -> Result<Vec<Candidate>, ClusterError> {
    let mut by_member: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (member, _, workload) in found {
        by_member
            .entry(&member.member)
            .or_default()
            .push(workload.workload.clone());
    }
    let mut answers: BTreeMap<WorkloadKey, NextPod> = BTreeMap::new();
    for (member, workloads) in by_member {
        let told = world.ask_next_pods(member, &workloads).await?;
        answers.extend(
            told.into_iter()
                .map(|(workload, next)| ((member.clone(), workload), next)),
        );
    }
    let candidate = |(member, namespace, workload): &FoundWorkload<'_>| {
        let key = (member.member.clone(), workload.workload.clone());
        Some(Candidate {
            next: answers.get(&key)?.clone(),
            live: workload.live.clone(),
            blocker: workload.stuck,
            of_mesh: namespace.of_mesh,
            former_stamp: place.former_stamp(&key, workload.stamp.as_ref()),
            key,
        })
    };
    Ok(found.iter().filter_map(candidate).collect())
}

/// Lists the live pods to be replaced that no workload owns which we can restart, and the members
/// that did not answer. In place, pods of both releases carry the revision, and the image of the
/// sidecar tells them apart.
async fn list_other_pods(
    world: &dyn MeshClusters,
    former: &FormerPods,
) -> Result<RevisionUsers, ClusterError> {
    let search = UserSearch {
        revision: &former.revision,
        left_behind: &[],
        own_tags: false,
        members_only: true,
    };
    let mut found = world.list_users(&search).await?;
    let included = |user: &RevisionUser| {
        let by_sidecar = user.sidecar.as_ref().map(|sidecar| former.include(sidecar));
        by_sidecar.unwrap_or(former.image.is_none())
    };
    found
        .users
        .retain(|user| user.kind == UserKind::Pod && user.workload.is_none() && included(user));
    Ok(found)
}

impl StepContext<'_> {
    /// Returns false for a workload that certainly needs no restart, so that the cluster is not
    /// asked about it.
    fn may_need_restart(
        &self,
        goal: &Goal<'_>,
        histories: &BTreeMap<WorkloadKey, RestartHistory>,
        (member, namespace, workload): FoundWorkload<'_>,
    ) -> bool {
        let key = (member.member.clone(), workload.workload.clone());
        let failed = histories
            .get(&key)
            .is_some_and(|past| past.last.failed.is_some());
        if self.former_stamp(&key, workload.stamp.as_ref()).is_some() || (goal.outdated && failed) {
            return true;
        }
        let mut sidecars = workload.live.iter().flatten();
        if sidecars.any(|pod| goal.off.is_some_and(|off| off.include(pod))) {
            return true;
        }
        let by_labels = injected_by(&namespace.labels, &workload.template, &member.injectors);
        goal.outdated
            && !workload.live.is_empty()
            && (!matches!(by_labels, Injection::NotInjected(_))
                || workload.live.iter().any(Option::is_some))
    }

    /// Returns the stamp that a rollback restores, if the workload carries a stamp of the upgrade.
    fn former_stamp(&self, key: &WorkloadKey, found: Option<&String>) -> Option<Option<String>> {
        let former = self.former_stamps.get(key)?;
        // Without a stamp there is nothing to take back: the owner has replaced the template since.
        (found.is_some() && former.as_ref() != found).then(|| former.clone())
    }

    /// Sums up the restarts of each workload that the step has added so far.
    fn restart_histories(&self) -> BTreeMap<WorkloadKey, RestartHistory> {
        let mut histories: BTreeMap<WorkloadKey, RestartHistory> = BTreeMap::new();
        for (step, progress) in self.restarts {
            if let Step::Restart {
                member,
                workload,
                stamp,
                ..
            } = step
            {
                let key = (member.clone(), workload.clone());
                let history = histories.entry(key).or_default();
                history.last = (*progress).clone();
                history.evicted |= *stamp == Stamp::Evict && progress.excluded.is_none();
                history.count += usize::from(progress.excluded.is_none());
            }
        }
        histories
    }

    /// Returns a pod with the progress of its eviction.
    fn with_eviction(&self, user: RevisionUser) -> OtherPod {
        let evicts = |step: &Step| match step {
            Step::Evict { member, pod, .. } => {
                *member.as_str() == user.member
                    && user.evictable.as_ref().is_some_and(|of| of.0 == *pod)
            }
            _ => false,
        };
        let eviction = self.restarts.iter().find(|(step, _)| evicts(step));
        OtherPod {
            eviction: eviction.map(|(_, progress)| (*progress).clone()),
            user,
        }
    }

    /// Counts the restarts that have failed and that no person has asked to try again.
    pub(super) fn count_failures(&self) -> usize {
        self.restarts
            .iter()
            .filter(|(_, progress)| progress.failed.is_some() && !progress.is_closed())
            .count()
    }

    fn has_open_restart(&self) -> bool {
        self.restarts.iter().any(|(step, progress)| {
            matches!(step, Step::Restart { .. })
                && !progress.is_closed()
                && progress.failed.is_none()
        })
    }
}

#[cfg(test)]
mod tests;
