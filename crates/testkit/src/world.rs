//! A mesh's clusters in memory: what the ports promise, with faults on request and a journal of every accepted write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use model::Name;
use model::injection::{Injection, Injector, NamespaceLabels, PodLabels, decide};
use model::plan::{Sidecar, Target, WorkloadKind, WorkloadRef};
use model::version::{RevisionName, Version};
use rollout::plan::data_plane::labels_of;
use rollout::ports::{Mark, Permit, WorldError};
use tokio::sync::Notify;

mod ports;

/// How a workload behaves when its template changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temper {
    /// One pod is replaced at each look.
    Well,
    /// The new pods never become ready.
    NeverReady,
}

/// One accepted write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// What was written.
    pub target: Target,
    /// The value before.
    pub from: Option<String>,
    /// The value after.
    pub to: Option<String>,
    /// By which claim.
    pub epoch: i64,
}

/// What happens at a chosen write.
#[derive(Debug, Clone)]
pub enum Cut {
    /// The call never returns, and nothing is written: the worker was killed before the effect.
    BeforeEffect,
    /// The call never returns, though it was written: the worker was killed after the effect.
    AfterEffect,
    /// The call waits until told to go on, then tries to write: the worker was stopped and continued.
    Frozen(Arc<Notify>),
}

#[derive(Debug, Clone)]
struct Cell {
    value: Option<String>,
    version: u64,
}

#[derive(Debug, Clone)]
struct Workload {
    template: PodLabels,
    pods: Vec<Option<Sidecar>>,
    /// How many of the pods are still to be replaced.
    outdated: usize,
    temper: Temper,
}

#[derive(Debug, Default)]
struct State {
    members: Vec<Name>,
    cells: BTreeMap<Target, Cell>,
    workloads: BTreeMap<(Name, WorkloadRef), Workload>,
    silent: BTreeSet<Name>,
    pinned: Vec<String>,
    foreign: BTreeMap<Name, Vec<String>>,
    refused: BTreeSet<Target>,
    refusing_probes: BTreeSet<Name>,
    journal: Vec<Write>,
    version: u64,
    calls: u64,
    cut: Option<(u64, Cut)>,
    cut_reached: bool,
    pace: Duration,
}

/// The world. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct FakeWorld {
    state: Arc<Mutex<State>>,
    reached: Arc<Notify>,
}

impl FakeWorld {
    /// Clusters of these names with nothing in them.
    pub fn new(members: &[&str]) -> Self {
        let world = Self::default();
        world.lock().members = members.iter().map(|name| name.parse().expect(name)).collect();
        world
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Adds a namespace with one workload of so many pods, not yet injected by anybody.
    pub fn workload(&self, member: &str, namespace: &str, label: Option<&str>, pods: usize) -> WorkloadRef {
        let member: Name = member.parse().expect(member);
        let workload = WorkloadRef { namespace: namespace.into(), kind: WorkloadKind::Deployment, name: "web".into() };
        let mut state = self.lock();
        let target = Target::NamespaceLabel { member: member.clone(), namespace: namespace.into() };
        state.put(target, label.map(str::to_owned));
        let born =
            Workload { template: PodLabels::default(), pods: vec![None; pods], outdated: 0, temper: Temper::Well };
        let key = (member, workload.clone());
        state.workloads.insert(key.clone(), born);
        state.create_pods(&key, pods);
        workload
    }

    /// Takes every workload away: nothing uses any revision.
    pub fn clear_workloads(&self) {
        self.lock().workloads.clear();
    }

    /// Changes how a workload behaves.
    pub fn temper(&self, member: &str, workload: &WorkloadRef, temper: Temper) {
        let key = (member.parse().expect(member), workload.clone());
        self.lock().workloads.get_mut(&key).expect("a known workload").temper = temper;
    }

    /// Creates pods anew as an eviction would, with whatever injects them now.
    pub fn evict_one(&self, member: &str, workload: &WorkloadRef) {
        let key = (member.parse().expect(member), workload.clone());
        self.lock().create_pods(&key, 1);
    }

    /// Sets how long each call takes.
    pub fn slow(&self, pace: Duration) {
        self.lock().pace = pace;
    }

    async fn pace(&self) {
        let pace = self.lock().pace;
        if !pace.is_zero() {
            tokio::time::sleep(pace).await;
        }
    }

    /// Makes a member silent, or lets it speak again.
    pub fn silence(&self, member: &str, silent: bool) {
        let member: Name = member.parse().expect(member);
        let mut state = self.lock();
        if silent {
            state.silent.insert(member)
        } else {
            state.silent.remove(&member)
        };
    }

    /// Lets a resource name the current revision.
    pub fn pin(&self, resource: &str) {
        self.lock().pinned.push(resource.to_owned());
    }

    /// Puts webhooks of another Istio into a member, as `kind/name`, or takes them all away.
    pub fn foreign(&self, member: &str, webhooks: &[&str]) {
        let webhooks = webhooks.iter().map(|webhook| (*webhook).to_owned()).collect();
        self.lock().foreign.insert(member.parse().expect(member), webhooks);
    }

    /// Makes a target refuse writes, or accept them again.
    pub fn refuse(&self, target: &Target, refused: bool) {
        let mut state = self.lock();
        if refused {
            state.refused.insert(target.clone())
        } else {
            state.refused.remove(target)
        };
    }

    /// Lets a policy of a member refuse the pods of dry runs.
    pub fn refuse_probes(&self, member: &str) {
        self.lock().refusing_probes.insert(member.parse().expect(member));
    }

    /// Somebody else changes a target.
    pub fn meddle(&self, target: Target, value: Option<&str>) {
        self.lock().put(target, value.map(str::to_owned));
    }

    /// Sets what happens at the write that comes after so many others.
    pub fn cut_at(&self, write: u64, cut: Cut) {
        let mut state = self.lock();
        (state.calls, state.cut, state.cut_reached) = (0, Some((write, cut)), false);
    }

    /// Waits until the cut was reached; `false` when it was not within the time.
    pub async fn cut_reached(&self, at_most: Duration) -> bool {
        let reached = async {
            while !self.lock().cut_reached {
                self.reached.notified().await;
            }
        };
        tokio::time::timeout(at_most, reached).await.is_ok()
    }

    /// Takes the cut away: later writes go through.
    pub fn heal(&self) {
        self.lock().cut = None;
    }

    /// Every accepted write so far, in order.
    pub fn journal(&self) -> Vec<Write> {
        self.lock().journal.clone()
    }

    /// How many writes were tried since the cut was set or the world was made.
    pub fn tried(&self) -> u64 {
        self.lock().calls
    }

    /// Everything there is, as text to compare: values, labels, stamps and what live pods carry.
    pub fn picture(&self) -> String {
        let state = self.lock();
        let named_itself = |target: &Target, value: &Option<String>| matches!(target, Target::Tag { tag, .. } if value.as_ref() == Some(tag));
        let cells = state
            .cells
            .iter()
            .filter(|(target, cell)| !named_itself(target, &cell.value))
            .filter_map(|(target, cell)| cell.value.as_ref().map(|value| format!("{target} = {value}\n")));
        let pods = state.workloads.iter().map(|((member, workload), known)| {
            let carried: Vec<&str> =
                known.pods.iter().map(|pod| pod.as_ref().map_or("-", |sidecar| sidecar.image.as_str())).collect();
            format!("{workload} in {member}: {}\n", carried.join(" "))
        });
        cells.chain(pods).collect()
    }
}

impl State {
    fn put(&mut self, target: Target, value: Option<String>) {
        self.version += 1;
        let version = self.version;
        self.cells.insert(target, Cell { value, version });
    }

    /// A revision's own webhook answers to its name until that is made an alias of another revision.
    fn value(&self, target: &Target) -> Option<String> {
        let cell = |target: &Target| self.cells.get(target).and_then(|cell| cell.value.clone());
        let own = || match target {
            Target::Tag { member, tag } => {
                let revision = tag.parse().ok()?;
                cell(&Target::MemberObjects { member: member.clone(), revision }).map(|_| tag.clone())
            }
            _ => None,
        };
        cell(target).or_else(own)
    }

    fn mark(&self, target: &Target) -> Mark {
        Mark(self.cells.get(target).map_or(0, |cell| cell.version).to_string())
    }

    fn reach(&self, member: Option<&Name>) -> Result<(), WorldError> {
        match member {
            Some(member) if self.silent.contains(member) => Err(WorldError::silent(member.as_str(), "timed out")),
            _ => Ok(()),
        }
    }

    /// The webhooks of a member, read from its tags and revisions.
    fn injectors(&self, member: &Name) -> Vec<Injector> {
        let injector = |value: &str, revision: &str| Injector {
            value: value.to_owned(),
            revision: revision.parse().expect("only revisions are pointed to"),
            serves_default: value == "default",
        };
        let aliased = |revision: &RevisionName| {
            let tag = Target::Tag { member: member.clone(), tag: revision.to_string() };
            self.cells.get(&tag).is_some_and(|cell| cell.value.is_some())
        };
        let known = self.cells.iter().filter_map(|(target, cell)| {
            let value = cell.value.as_ref()?;
            match target {
                Target::Tag { member: of, tag } if of == member => Some(injector(tag, value)),
                Target::MemberObjects { member: of, revision } if of == member && !aliased(revision) => {
                    Some(injector(revision.as_str(), revision.as_str()))
                }
                _ => None,
            }
        });
        known.collect()
    }

    fn sidecar(&self, revision: &RevisionName) -> Option<Sidecar> {
        let release: Version = self.value(&Target::ControlPlane { revision: revision.clone() })?.parse().ok()?;
        Some(Sidecar { revision: revision.clone(), image: image(&release) })
    }

    /// What a pod created now would carry; `Err` when its webhook has no istiod behind it and refuses the pod.
    fn inject(&self, member: &Name, labels: &NamespaceLabels, pod: &PodLabels) -> Result<Option<Sidecar>, String> {
        match decide(labels, pod, &self.injectors(member)) {
            Injection::By(revision) => {
                self.sidecar(&revision).map(Some).ok_or(format!("no istiod answers for {revision}"))
            }
            Injection::None(_) => Ok(None),
            Injection::Several(all) => Err(format!("{} webhooks match", all.len())),
        }
    }

    fn labels(&self, member: &Name, namespace: &str) -> NamespaceLabels {
        let target = Target::NamespaceLabel { member: member.clone(), namespace: namespace.to_owned() };
        labels_of(self.value(&target).as_deref())
    }

    /// Replaces pods; one that is refused leaves the old pod in place, as a rolling update would.
    fn create_pods(&mut self, key: &(Name, WorkloadRef), count: usize) {
        let labels = self.labels(&key.0, &key.1.namespace);
        let Some(workload) = self.workloads.get(key) else { return };
        let Ok(carried) = self.inject(&key.0, &labels, &workload.template.clone()) else { return };
        let workload = self.workloads.get_mut(key).expect("looked up above");
        let total = workload.pods.len();
        workload.pods.rotate_left(count.min(total));
        workload.pods[total - count.min(total)..].fill(carried);
        workload.outdated = workload.outdated.saturating_sub(count);
    }

    fn write(&mut self, target: &Target, to: Option<&str>, seen: &Mark, permit: &Permit) -> Result<(), WorldError> {
        self.reach(target.member())?;
        if permit.deadline.passed() {
            return Err(WorldError::Expired);
        }
        if self.refused.contains(target) {
            return Err(WorldError::Refused {
                place: target.to_string(),
                code: "permission_missing",
                cause: "patch is forbidden".into(),
            });
        }
        if self.mark(target) != *seen {
            return Err(WorldError::Changed { place: target.to_string() });
        }
        let (from, to) = (self.value(target), to.map(str::to_owned));
        self.put(target.clone(), to.clone());
        if let Target::Workload { member, workload } = target
            && from != to
            && let Some(known) = self.workloads.get_mut(&(member.clone(), workload.clone()))
        {
            known.outdated = known.pods.len();
        }
        self.journal.push(Write { target: target.clone(), from, to, epoch: permit.epoch });
        Ok(())
    }
}

/// The proxy image of a release, in every fake and test.
pub fn image(release: &Version) -> String {
    format!("lab/proxyv2:{}", release.community())
}
