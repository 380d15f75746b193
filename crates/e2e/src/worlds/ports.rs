//! Implements the port to clusters for a small world.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use meshwright_model::Name;
use meshwright_model::injection::{Injector, NamespaceLabels, PodLabels};
use meshwright_model::leftover::Leftover;
use meshwright_model::observation::{
    MemberObservation, NamespaceObservation, Observation, WorkloadObservation,
};
use meshwright_model::plan::{InjectionRequest, Sidecar, Target, WorkloadRef};
use meshwright_model::version::RevisionName;
use meshwright_rollout::plan::ControlPlane;
use meshwright_rollout::plan::data_plane::parse_labels;
use meshwright_rollout::ports::{
    ClusterError, Fence, FencingToken, LivePod, MeshClusters, NextPod, ObjectVersion, Observed,
    ObservedWorkload, PodReadiness, Readiness, RevisionUser, RevisionUsers, TeardownInspection,
    UserKind, UserSearch,
};

use super::cells::{
    MEMBER_NAMES, MEMBERS, NAMESPACE, NEW, OLD, REVISIONS, Value, cell_of, istiod, label,
    member_name, member_of, member_of_cell, slot_of, stamp, tag, tag_name, workload,
};
use super::clusters::{Clusters, DEFAULT_TAG, Pod, StrayPod, Template};
use super::world::{Place, World, place_name};

#[async_trait]
impl TeardownInspection for World {
    async fn list_injectors(&self, member: &Name) -> Result<Vec<Injector>, ClusterError> {
        let member = member_of(member.as_str());
        let seen = self.lock().look(Some(member), "injectors")?;
        Ok(injectors(&seen, member))
    }

    async fn list_remaining_objects(&self, _: &Name) -> Result<Vec<String>, ClusterError> {
        Ok(Vec::new())
    }

    async fn list_leftovers(
        &self,
        _: &Name,
        _: &ControlPlane,
        _: Option<&BTreeSet<String>>,
    ) -> Result<Vec<Leftover>, ClusterError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl MeshClusters for World {
    async fn observe_target(&self, target: &Target) -> Result<Observed, ClusterError> {
        let cell = cell_of(target);
        let seen = self.lock().look(member_of_cell(cell), "target")?;
        let starts = [OLD, NEW]
            .into_iter()
            .any(|slot| cell == istiod(slot) && !seen.value(cell).is_absent() && !seen.up[slot]);
        Ok(Observed {
            value: seen.value(cell).text(),
            version: ObjectVersion(seen.version(cell).to_string()),
            readiness: if starts {
                Readiness::Pending("istiod is not ready".to_owned())
            } else {
                Readiness::Ready
            },
            partial: seen.cells[cell].partial,
            gone: false,
        })
    }

    async fn names_former_address(&self, target: &Target, _: &str) -> Result<bool, ClusterError> {
        let place = member_of_cell(cell_of(target));
        self.lock().look(place, "address").map(|_| false)
    }

    async fn write_target(
        &self,
        target: &Target,
        to: Option<&str>,
        seen: &ObjectVersion,
        _: &FencingToken,
    ) -> Result<(), ClusterError> {
        self.lock().write(cell_of(target), Value::read(to), seen)
    }

    async fn fence_target(
        &self,
        target: &Target,
        _: Option<&str>,
        _: &FencingToken,
    ) -> Result<Fence, ClusterError> {
        self.lock().fence(cell_of(target))
    }

    async fn observe_workload(
        &self,
        member: &Name,
        _: &WorkloadRef,
    ) -> Result<Option<ObservedWorkload>, ClusterError> {
        let member = member_of(member.as_str());
        let seen = self.lock().look(Some(member), "workload")?;
        let known = &seen.workloads[member];
        let pods = known.pods.iter().enumerate();
        let live =
            pods.filter_map(|(index, pod)| Some(live_pod(format!("web-{index}/{pod:?}"), (*pod)?)));
        Ok(Some(ObservedWorkload {
            stamp: seen.value(stamp(member)).text(),
            version: ObjectVersion(seen.version(stamp(member)).to_string()),
            live: live.collect(),
            rollout: match known.outdated {
                0 => Readiness::Ready,
                left => Readiness::Pending(format!("{left} pods to go")),
            },
            updated: known.pods.len().saturating_sub(known.outdated.into()),
            takes_next_at_once: false,
        }))
    }

    async fn probe_injection(
        &self,
        member: &Name,
        asks: &InjectionRequest,
        wanted: &Sidecar,
    ) -> Result<Result<(), String>, ClusterError> {
        let member = member_of(member.as_str());
        let seen = self.lock().look(Some(member), "dry run")?;
        let slot = match asks {
            InjectionRequest::Default => seen.value(tag(member, DEFAULT_TAG)).slot(),
            InjectionRequest::Rev(value) => match (0..3).find(|index| tag_name(*index) == value) {
                Some(index) => seen.value(tag(member, index)).slot(),
                None => Some(slot_of(value)),
            },
        };
        let carried = slot.filter(|slot| seen.serves(*slot) && seen.has_webhook(member, *slot));
        let carried = carried.and_then(|slot| Pod::Of(slot).sidecar());
        Ok(if carried.as_ref() == Some(wanted) {
            Ok(())
        } else {
            Err(format!("came back {carried:?}"))
        })
    }

    async fn ask_next_pods(
        &self,
        member: &Name,
        workloads: &[WorkloadRef],
    ) -> Result<BTreeMap<WorkloadRef, NextPod>, ClusterError> {
        let member = member_of(member.as_str());
        let seen = self.lock().look(Some(member), "next pods")?;
        let next = match seen.admit(member, seen.workloads[member].template) {
            Ok(pod) => pod
                .sidecar()
                .map_or(NextPod::NotInjected, NextPod::Injected),
            Err(reason) => NextPod::Refused(reason.to_owned()),
        };
        Ok(workloads
            .iter()
            .map(|known| (known.clone(), next.clone()))
            .collect())
    }

    async fn accepts_probes(&self, member: &Name) -> Result<bool, ClusterError> {
        let member = member_of(member.as_str());
        self.lock().look(Some(member), "policies").map(|_| true)
    }

    async fn observe_pod(
        &self,
        member: &Name,
        _: &str,
        pod: &ObjectVersion,
    ) -> Result<Option<LivePod>, ClusterError> {
        let member = member_of(member.as_str());
        let seen = self.lock().look(Some(member), "pod")?;
        let stray = seen.workloads[member].stray;
        let same = stray.filter(|stray| stray_version(*stray) == pod.0);
        Ok(same.map(|stray| live_pod(stray_version(stray), stray.pod)))
    }

    async fn evict_pod(
        &self,
        member: &Name,
        _: &str,
        pod: &ObjectVersion,
        _: &FencingToken,
    ) -> Result<(), ClusterError> {
        let member = member_of(member.as_str());
        self.lock()
            .evict(member, &pod.0, |clusters| evict(clusters, member, &pod.0))
    }

    async fn check_readiness(
        &self,
        revision: &RevisionName,
        _: &[Name],
    ) -> Result<Readiness, ClusterError> {
        let seen = self.lock().look(None, "readiness")?;
        Ok(if seen.serves(slot_of(revision.as_str())) {
            Readiness::Ready
        } else {
            Readiness::Pending("no replica is ready".to_owned())
        })
    }

    async fn list_users(&self, search: &UserSearch<'_>) -> Result<RevisionUsers, ClusterError> {
        let mut state = self.lock();
        let mut found = RevisionUsers::default();
        // A list that cannot be read hides users, so its cluster counts as silent.
        let last: Place = Some(MEMBERS - 1);
        let seen = match state.look(last, "users") {
            Ok(seen) => seen,
            Err(ClusterError::Expired) => return Err(ClusterError::Expired),
            Err(error) => {
                found.silent.push(error.to_string());
                state.clusters
            }
        };
        for member in 0..MEMBERS {
            if state.is_silent(Some(member)) {
                found.silent.push(place_name(Some(member)).to_owned());
            } else {
                found.users.extend(users_in(&seen, member, search));
            }
        }
        Ok(found)
    }

    async fn list_pinned_resources(&self, _: &RevisionName) -> Result<Vec<String>, ClusterError> {
        Ok(Vec::new())
    }

    async fn observe_mesh(&self) -> Result<Observation, ClusterError> {
        let mut state = self.lock();
        let mut survey = Observation::default();
        for member in 0..MEMBERS {
            let seen = state.look(Some(member), "mesh")?;
            survey.members.push(observe_member(&seen, member));
        }
        Ok(survey)
    }

    async fn wait_for_change(&self) {}
}

fn live_pod(version: String, pod: Pod) -> LivePod {
    LivePod {
        version: ObjectVersion(version),
        readiness: PodReadiness::Ready,
        deleted: false,
        sidecar: pod.sidecar(),
        terminating: false,
    }
}

fn stray_version(stray: StrayPod) -> String {
    format!("stray/{}", stray.generation)
}

/// Evicts the pod with this version. Returns false if it is gone.
fn evict(clusters: &mut Clusters, member: usize, version: &str) -> bool {
    let known = &clusters.workloads[member];
    if known
        .stray
        .is_some_and(|stray| stray_version(stray) == version)
    {
        clusters.replace_stray(member);
        return true;
    }
    let mut pods = known.pods.iter().enumerate();
    let found = pods.find(|(index, pod)| format!("web-{index}/{pod:?}") == version);
    let Some((index, _)) = found else {
        return false;
    };
    clusters.workloads[member].pods[index] = None;
    clusters.replace_pod(member, index);
    true
}

fn injectors(seen: &Clusters, member: usize) -> Vec<Injector> {
    let injector = |value: &str, slot: usize| Injector {
        value: value.to_owned(),
        revision: REVISIONS[slot].parse().expect("a revision name"),
        serves_default: value == tag_name(DEFAULT_TAG),
    };
    let tags = (0..3).filter_map(|index| {
        let slot = seen.value(tag(member, index)).slot()?;
        Some(injector(tag_name(index), slot))
    });
    let own = [OLD, NEW]
        .into_iter()
        .filter(|slot| seen.has_webhook(member, *slot));
    tags.chain(own.map(|slot| injector(REVISIONS[slot], slot)))
        .collect()
}

fn observe_member(seen: &Clusters, member: usize) -> MemberObservation {
    let known = &seen.workloads[member];
    let inject = match known.template {
        Template::Plain => None,
        Template::Asks => Some("true".to_owned()),
        Template::OptsOut => Some("false".to_owned()),
    };
    let labels: NamespaceLabels = parse_labels(seen.value(label(member)).text().as_deref());
    MemberObservation {
        member: member_name(member),
        kubernetes: (1, 33),
        namespaces: vec![NamespaceObservation {
            name: NAMESPACE.to_owned(),
            labels,
            workloads: vec![WorkloadObservation {
                workload: workload(),
                template: PodLabels { inject, rev: None },
                live: known
                    .pods
                    .iter()
                    .flatten()
                    .map(|pod| pod.sidecar())
                    .collect(),
                stamp: seen.value(stamp(member)).text(),
                stuck: None,
            }],
            unreachable: Vec::new(),
            of_mesh: false,
        }],
        injectors: injectors(seen, member),
        foreign: Vec::new(),
    }
}

fn users_in(seen: &Clusters, member: usize, search: &UserSearch<'_>) -> Vec<RevisionUser> {
    let slot = slot_of(search.revision.as_str());
    let user = |kind: UserKind, name: &str| RevisionUser {
        member: MEMBER_NAMES[member].to_owned(),
        kind,
        name: name.to_owned(),
        workload: None,
        sidecar: None,
        evictable: None,
    };
    let known = &seen.workloads[member];
    let mut users = Vec::new();
    let of = |pod: &Pod| pod.slot() == Some(slot);
    for _ in known.pods.iter().flatten().filter(|pod| of(pod)) {
        users.push(RevisionUser {
            workload: Some(workload()),
            ..user(UserKind::Pod, "shop/web")
        });
    }
    if let Some(stray) = known.stray.filter(|stray| of(&stray.pod)) {
        let evictable = stray.evictable.then(|| ObjectVersion(stray_version(stray)));
        users.push(RevisionUser {
            evictable,
            sidecar: stray.pod.sidecar(),
            ..user(UserKind::Pod, "shop/stray")
        });
    }
    if seen.value(label(member)) == Value::label_of(slot) {
        users.push(user(UserKind::Namespace, NAMESPACE));
    }
    let points = |index: &usize| seen.value(tag(member, *index)).slot() == Some(slot);
    if search.own_tags {
        users.extend(
            (0..3)
                .filter(points)
                .map(|index| user(UserKind::Tag, tag_name(index))),
        );
    }
    users
}
