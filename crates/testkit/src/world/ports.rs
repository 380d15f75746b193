//! The ports over the imagined clusters.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use model::Name;
use model::injection::{NamespaceLabels, PodLabels};
use model::operation::Problem;
use model::plan::{Asks, Sidecar, Target, WorkloadRef};
use model::survey::{MemberSurvey, NamespaceSurvey, Survey, WorkloadSurvey};
use model::version::RevisionName;
use rollout::ports::{Deadline, Fence, LivePod, Mark, Permit, Seen, Settled, Usage, WorkloadSeen, World, WorldError};

use super::bundle::is_bundle;
use super::{Cut, FakeWorld, State, Temper, Workload, refusal, vanishes};

#[async_trait]
impl World for FakeWorld {
    async fn look(&self, target: &Target) -> Result<Seen, WorldError> {
        self.pace().await;
        let state = self.lock();
        state.reach(target.member())?;
        let (settled, partial) = (state.settled(target), state.is_partial(target));
        Ok(Seen { value: state.value(target), mark: state.mark(target), settled, partial })
    }

    async fn set(&self, target: &Target, to: Option<&str>, seen: &Mark, permit: &Permit) -> Result<(), WorldError> {
        self.pace().await;
        self.lock().pushes += 1;
        if is_bundle(target) {
            return self.set_bundle(target, to, seen, permit).await;
        }
        let has_version = |state: &State| state.value(target).is_some() || !vanishes(target);
        let write = |state: &mut State, permit: &Permit| state.write(target, to, seen, permit);
        self.send(permit, has_version, write).await
    }

    async fn fence(&self, target: &Target, goal: Option<&str>, permit: &Permit) -> Result<Fence, WorldError> {
        self.pace().await;
        let mut state = self.lock();
        if let Some(fault) = state.fence_faults.pop() {
            return Err(fault);
        }
        state.reach(target.member())?;
        if permit.deadline.passed() {
            return Err(WorldError::Expired);
        }
        // A policy that refuses writes of a target refuses an annotation, too.
        if state.refused.contains(target) {
            return Err(refusal(target));
        }
        state.fenced.push(target.clone());
        if let Target::Certificates { .. } = target {
            return Ok(Fence::UntilLeaseEnds);
        }
        if is_bundle(target) {
            state.fence_bundle(target, goal.is_some());
            return Ok(Fence::UntilLeaseEnds);
        }
        let value = state.value(target);
        if value.is_none() && vanishes(target) {
            return Ok(Fence::UntilLeaseEnds);
        }
        state.put(target.clone(), value);
        Ok(Fence::Holds)
    }

    async fn workload(&self, member: &Name, workload: &WorkloadRef) -> Result<Option<WorkloadSeen>, WorldError> {
        self.pace().await;
        let mut state = self.lock();
        state.reach(Some(member))?;
        let key = (member.clone(), workload.clone());
        let Some(known) = state.workloads.get(&key).cloned() else { return Ok(None) };
        if known.outdated > 0 && known.temper == Temper::Well {
            state.create_pods(&key, 1);
        }
        let known = state.workloads[&key].clone();
        let target = Target::Workload { member: member.clone(), workload: workload.clone() };
        let rolled = match (known.outdated, known.temper) {
            (0, _) => Settled::Yes,
            (left, Temper::Well) => Settled::NotYet(format!("{left} pods to go")),
            (_, Temper::NeverReady) => {
                Settled::Failing(Problem::new("workload_not_ready", "the new pods do not become ready", "look at them"))
            }
        };
        let live = known.pods.into_iter().map(|sidecar| LivePod { sidecar, leaving: false }).collect();
        Ok(Some(WorkloadSeen { stamp: state.value(&target), mark: state.mark(&target), live, rolled }))
    }

    async fn probe(&self, member: &Name, asks: &Asks, wanted: &Sidecar) -> Result<Result<(), String>, WorldError> {
        self.pace().await;
        let state = self.lock();
        state.reach(Some(member))?;
        let pod = match asks {
            Asks::Rev(value) => PodLabels { inject: None, rev: Some(value.clone()) },
            Asks::Default => PodLabels { inject: Some("true".into()), rev: None },
        };
        if state.refusing_probes.contains(member) {
            return Ok(Err("a policy refused the pod".into()));
        }
        Ok(match state.inject(member, &NamespaceLabels::default(), &pod) {
            Ok(Some(carried)) if carried == *wanted => Ok(()),
            other => Err(format!("came back {other:?}")),
        })
    }

    async fn takes_probes(&self, member: &Name) -> Result<bool, WorldError> {
        self.pace().await;
        let state = self.lock();
        state.reach(Some(member))?;
        Ok(!state.refusing_probes.contains(member))
    }

    async fn readiness(&self, revision: &RevisionName, members: &[Name]) -> Result<Settled, WorldError> {
        self.pace().await;
        let state = self.lock();
        for member in members {
            state.reach(Some(member))?;
        }
        Ok(if state.sidecar(revision).is_some() { Settled::Yes } else { Settled::NotYet("no replica is ready".into()) })
    }

    async fn usage(&self, revision: &RevisionName, left_behind: &[Name]) -> Result<Usage, WorldError> {
        self.pace().await;
        let state = self.lock();
        let asked = |member: &&Name| !left_behind.contains(member);
        if let Some(silent) = state.members.iter().filter(asked).find(|member| state.silent.contains(*member)) {
            return Ok(Usage::Unknown(vec![silent.to_string()]));
        }
        let carrying =
            |workload: &&Workload| workload.pods.iter().flatten().any(|sidecar| sidecar.revision == *revision);
        let mut users: Vec<String> = state
            .workloads
            .iter()
            .filter(|((member, _), known)| asked(&member) && carrying(known))
            .map(|((_, workload), _)| workload.to_string())
            .collect();
        users.extend(state.pinned.clone());
        Ok(if users.is_empty() { Usage::Unused } else { Usage::InUse(users) })
    }

    async fn pinned(&self, _revision: &RevisionName) -> Result<Vec<String>, WorldError> {
        self.pace().await;
        Ok(self.lock().pinned.clone())
    }

    async fn survey(&self) -> Result<Survey, WorldError> {
        self.pace().await;
        let state = self.lock();
        let mut survey = Survey::default();
        for member in &state.members {
            state.reach(Some(member))?;
            let namespaces =
                state.workloads.iter().filter(|((of, _), _)| of == member).map(|((_, workload), known)| {
                    NamespaceSurvey {
                        name: workload.namespace.clone(),
                        labels: state.labels(member, &workload.namespace),
                        workloads: vec![WorkloadSurvey {
                            workload: workload.clone(),
                            template: known.template.clone(),
                            live: known.pods.clone(),
                            stamp: state
                                .value(&Target::Workload { member: member.clone(), workload: workload.clone() }),
                            stuck: None,
                        }],
                        unreachable: Vec::new(),
                    }
                });
            survey.members.push(MemberSurvey {
                member: member.clone(),
                kubernetes: (1, 33),
                namespaces: namespaces.collect(),
                injectors: state.injectors(member),
                foreign: state.foreign.get(member).cloned().unwrap_or_default(),
            });
        }
        Ok(survey)
    }

    async fn changed(&self) {
        tokio::task::yield_now().await;
    }
}

impl FakeWorld {
    /// One write on its way to a cluster: here it is cut off, and here its permit is looked at, as in the last layer of a
    /// real client. `has_version` says whether the cluster would refuse it when what it looked at has moved on.
    pub(super) async fn send<T>(
        &self,
        permit: &Permit,
        has_version: impl Fn(&State) -> bool,
        write: impl Fn(&mut State, &Permit) -> Result<T, WorldError>,
    ) -> Result<T, WorldError> {
        let cut = {
            let mut state = self.lock();
            state.calls += 1;
            let due = state.cut.as_ref().is_some_and(|(at, _)| *at == state.calls);
            state.cut_reached |= due;
            if due { state.cut.clone().map(|(_, cut)| cut) } else { None }
        };
        match cut {
            None => write(&mut self.lock(), permit),
            Some(Cut::BeforeEffect) => {
                self.reached.notify_one();
                std::future::pending().await
            }
            Some(Cut::AfterEffect) => {
                write(&mut self.lock(), permit)?;
                self.reached.notify_one();
                std::future::pending().await
            }
            Some(Cut::Frozen(go_on)) => {
                self.reached.notify_one();
                go_on.notified().await;
                let mut state = self.lock();
                // A stopped process does not notice that its permit ran out before the bytes leave: the cluster must refuse.
                // No cluster can refuse a creation or a part of a bundle; there the look at the permit is all there is.
                let deadline = Deadline::at(Instant::now() + Duration::from_mins(1));
                let late = Permit { deadline, ..permit.clone() };
                let permit = if has_version(&state) { &late } else { permit };
                write(&mut state, permit)
            }
        }
    }
}
