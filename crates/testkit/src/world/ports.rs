//! Implements the trait `MeshClusters` of `rollout` for the fake clusters.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use meshwright_model::Name;
use meshwright_model::injection::{NamespaceLabels, PodLabels};
use meshwright_model::observation::{
    MemberObservation, NamespaceObservation, Observation, WorkloadObservation,
};
use meshwright_model::operation::Problem;
use meshwright_model::plan::{InjectionRequest, Sidecar, Target, WorkloadRef};
use meshwright_model::problem::ProblemCode;
use meshwright_model::version::RevisionName;
use meshwright_rollout::ports::{
    ClusterError, Deadline, Fence, FencingToken, LivePod, MeshClusters, NextPod, ObjectVersion,
    Observed, ObservedWorkload, PodReadiness, Readiness, RevisionUsers, UserSearch,
};

use super::bundle::is_bundle;
use super::{
    Cut, FakeClusters, RolloutBehaviour, State, is_deleted_without_value, permission_error,
};

#[async_trait]
impl MeshClusters for FakeClusters {
    async fn observe_target(&self, target: &Target) -> Result<Observed, ClusterError> {
        self.delay_call().await;
        let state = self.lock();
        state.check_reachable(target.member())?;
        let (settled, partial) = (state.readiness(target), state.is_partial(target));
        Ok(Observed {
            value: state.value(target),
            version: state.object_version(target),
            readiness: settled,
            partial,
            gone: state.is_object_gone(target),
        })
    }

    async fn names_former_address(
        &self,
        target: &Target,
        _value: &str,
    ) -> Result<bool, ClusterError> {
        self.delay_call().await;
        let state = self.lock();
        state.check_reachable(target.member())?;
        Ok(state.names_former_address(target))
    }

    async fn write_target(
        &self,
        target: &Target,
        to: Option<&str>,
        seen: &ObjectVersion,
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        self.delay_call().await;
        self.lock().push_count += 1;
        if is_bundle(target) {
            return self.set_bundle(target, to, seen, permit).await;
        }
        let has_version =
            |state: &State| state.value(target).is_some() || !is_deleted_without_value(target);
        let write =
            |state: &mut State, permit: &FencingToken| state.write_value(target, to, seen, permit);
        self.send_write(permit, has_version, write).await
    }

    async fn fence_target(
        &self,
        target: &Target,
        goal: Option<&str>,
        permit: &FencingToken,
    ) -> Result<Fence, ClusterError> {
        self.delay_call().await;
        let mut state = self.lock();
        if let Some(fault) = state.fence_faults.pop() {
            return Err(fault);
        }
        state.check_reachable(target.member())?;
        if permit.deadline.has_passed() {
            return Err(ClusterError::Expired);
        }
        // A policy that refuses writes of a target refuses a write of its annotations, too.
        if state.refused_targets.contains(target) {
            return Err(permission_error(target));
        }
        state.fenced_targets.push(target.clone());
        if let Target::Certificates { .. } = target {
            return Ok(Fence::UntilLeaseEnds);
        }
        if is_bundle(target) {
            state.fence_bundle(target, goal.is_some());
            return Ok(Fence::UntilLeaseEnds);
        }
        let value = state.value(target);
        if value.is_none() && is_deleted_without_value(target) {
            return Ok(Fence::UntilLeaseEnds);
        }
        state.set_value(target.clone(), value);
        Ok(Fence::Holds)
    }

    async fn observe_workload(
        &self,
        member: &Name,
        workload: &WorkloadRef,
    ) -> Result<Option<ObservedWorkload>, ClusterError> {
        self.delay_call().await;
        let mut state = self.lock();
        state.check_reachable(Some(member))?;
        let key = (member.clone(), workload.clone());
        let Some(known) = state.workloads.get(&key).cloned() else {
            return Ok(None);
        };
        if known.outdated > 0 && known.behaviour == RolloutBehaviour::Healthy {
            state.create_pods(&key, 1);
        }
        let known = state.workloads[&key].clone();
        let target = Target::Workload {
            member: member.clone(),
            workload: workload.clone(),
        };
        let rolled = match (known.outdated, known.behaviour) {
            (0, _) => Readiness::Ready,
            (left, RolloutBehaviour::Healthy) => Readiness::Pending(format!("{left} pods to go")),
            (_, RolloutBehaviour::NeverReady) => Readiness::Failing(Problem::new(
                ProblemCode::WorkloadNotReady,
                "the new pods do not become ready",
                "look at them",
            )),
        };
        let updated = known.pods.len().saturating_sub(known.outdated);
        let live = known
            .pods
            .into_iter()
            .enumerate()
            .map(|(number, sidecar)| LivePod {
                version: ObjectVersion(format!("{}-{number}", workload.name)),
                readiness: match number {
                    0 if known.replacing => PodReadiness::Starting,
                    _ => PodReadiness::Ready,
                },
                deleted: false,
                sidecar,
                terminating: false,
            })
            .collect();
        Ok(Some(ObservedWorkload {
            stamp: state.value(&target),
            version: state.object_version(&target),
            live,
            rollout: rolled,
            updated,
            takes_next_at_once: known.replacing,
        }))
    }

    async fn probe_injection(
        &self,
        member: &Name,
        asks: &InjectionRequest,
        wanted: &Sidecar,
    ) -> Result<Result<(), String>, ClusterError> {
        self.delay_call().await;
        let state = self.lock();
        state.check_reachable(Some(member))?;
        let pod = match asks {
            InjectionRequest::Rev(value) => PodLabels {
                inject: None,
                rev: Some(value.clone()),
            },
            InjectionRequest::Default => PodLabels {
                inject: Some("true".into()),
                rev: None,
            },
        };
        if state.refusing_dry_runs.contains(member) {
            return Ok(Err("a policy refused the pod".into()));
        }
        Ok(
            match state.inject_pod(member, &NamespaceLabels::default(), &pod) {
                Ok(Some(carried)) if carried == *wanted => Ok(()),
                other => Err(format!("came back {other:?}")),
            },
        )
    }

    async fn ask_next_pods(
        &self,
        member: &Name,
        workloads: &[WorkloadRef],
    ) -> Result<BTreeMap<WorkloadRef, NextPod>, ClusterError> {
        self.delay_call().await;
        let state = self.lock();
        state.check_reachable(Some(member))?;
        let asked = workloads
            .iter()
            .filter_map(|workload| Some((workload.clone(), state.next_pod(member, workload)?)));
        Ok(asked.collect())
    }

    async fn observe_pod(
        &self,
        member: &Name,
        namespace: &str,
        pod: &ObjectVersion,
    ) -> Result<Option<LivePod>, ClusterError> {
        self.delay_call().await;
        let state = self.lock();
        state.check_reachable(Some(member))?;
        Ok(state.observe_other_pod(member, namespace, pod))
    }

    async fn evict_pod(
        &self,
        member: &Name,
        namespace: &str,
        pod: &ObjectVersion,
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        self.delay_call().await;
        let evict = |state: &mut State, permit: &FencingToken| {
            state.evict(member, namespace, &pod.0, permit)
        };
        self.send_write(permit, |_| true, evict).await
    }

    async fn accepts_probes(&self, member: &Name) -> Result<bool, ClusterError> {
        self.delay_call().await;
        let state = self.lock();
        state.check_reachable(Some(member))?;
        Ok(!state.refusing_dry_runs.contains(member))
    }

    async fn check_readiness(
        &self,
        revision: &RevisionName,
        members: &[Name],
    ) -> Result<Readiness, ClusterError> {
        self.delay_call().await;
        let state = self.lock();
        for member in members {
            state.check_reachable(Some(member))?;
        }
        Ok(if state.revision_sidecar(revision).is_some() {
            Readiness::Ready
        } else {
            Readiness::Pending("no replica is ready".into())
        })
    }

    async fn list_users(&self, search: &UserSearch<'_>) -> Result<RevisionUsers, ClusterError> {
        self.delay_call().await;
        let mut state = self.lock();
        state.user_searches += 1;
        state.find_users(search)
    }

    async fn list_pinned_resources(
        &self,
        _revision: &RevisionName,
    ) -> Result<Vec<String>, ClusterError> {
        self.delay_call().await;
        Ok(self.lock().pinned.clone())
    }

    async fn observe_mesh(&self) -> Result<Observation, ClusterError> {
        self.delay_call().await;
        let state = self.lock();
        let mut survey = Observation::default();
        for member in &state.members {
            state.check_reachable(Some(member))?;
            let namespaces = state
                .workloads
                .iter()
                .filter(|((of, _), _)| of == member)
                .map(|((_, workload), known)| NamespaceObservation {
                    name: workload.namespace.clone(),
                    labels: state.namespace_labels(member, &workload.namespace),
                    workloads: vec![WorkloadObservation {
                        workload: workload.clone(),
                        template: known.template.clone(),
                        live: known.pods.clone(),
                        stamp: state.value(&Target::Workload {
                            member: member.clone(),
                            workload: workload.clone(),
                        }),
                        stuck: None,
                    }],
                    unreachable: Vec::new(),
                    of_mesh: false,
                });
            survey.members.push(MemberObservation {
                member: member.clone(),
                kubernetes: (1, 33),
                namespaces: namespaces.collect(),
                injectors: state.injectors(member),
                foreign: state
                    .foreign_webhooks
                    .get(member)
                    .cloned()
                    .unwrap_or_default(),
            });
        }
        Ok(survey)
    }

    async fn wait_for_change(&self) {
        tokio::task::yield_now().await;
    }
}

impl FakeClusters {
    /// Sends one write to a cluster. Cuts happen here, and the fencing token is checked here, as in
    /// the last layer of a real client. `has_version` returns true if the cluster would refuse the
    /// write of an object that has changed since the look.
    pub(super) async fn send_write<T>(
        &self,
        permit: &FencingToken,
        has_version: impl Fn(&State) -> bool,
        write: impl Fn(&mut State, &FencingToken) -> Result<T, ClusterError>,
    ) -> Result<T, ClusterError> {
        let cut = {
            let mut state = self.lock();
            state.write_attempts += 1;
            let due = state
                .cut
                .as_ref()
                .is_some_and(|(at, _)| *at == state.write_attempts);
            state.cut_reached |= due;
            if due {
                state.cut.clone().map(|(_, cut)| cut)
            } else {
                None
            }
        };
        match cut {
            None => write(&mut self.lock(), permit),
            Some(Cut::BeforeEffect) => {
                self.cut_notify.notify_one();
                std::future::pending().await
            }
            Some(Cut::AfterEffect) => {
                write(&mut self.lock(), permit)?;
                self.cut_notify.notify_one();
                std::future::pending().await
            }
            Some(Cut::Frozen(go_on)) => {
                self.cut_notify.notify_one();
                go_on.notified().await;
                let mut state = self.lock();
                // A stopped process does not notice that its token has expired before it sends the
                // bytes, so the cluster must refuse the write. No cluster can refuse a creation, or
                // the object of a target with several objects. In these cases the check of the
                // token is the only protection.
                let deadline = Deadline::at(Instant::now() + Duration::from_mins(1));
                let late = FencingToken {
                    deadline,
                    ..permit.clone()
                };
                let permit = if has_version(&state) { &late } else { permit };
                write(&mut state, permit)
            }
        }
    }
}
