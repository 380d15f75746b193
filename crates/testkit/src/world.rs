//! A mesh's clusters in memory: what the ports promise, with faults on request and a journal of every accepted write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use model::Name;
use model::ids::OperationId;
use model::injection::PodLabels;
use model::plan::{Sidecar, Target, WorkloadKind, WorkloadRef};
use model::version::Version;
use rollout::ports::{Mark, Permit, WorldError};
use tokio::sync::Notify;

mod bundle;
mod injection;
mod leaving;
mod ports;

pub use bundle::parts;

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
    /// Which object of it, where it consists of several.
    pub part: Option<&'static str>,
    /// The value before.
    pub from: Option<String>,
    /// The value after.
    pub to: Option<String>,
    /// By which operation.
    pub operation: OperationId,
    /// By which claim of it.
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
    /// An inventory that is dirty: a change has begun and not ended.
    partial: bool,
    /// The objects that an inventory names.
    union: Vec<&'static str>,
}

impl Cell {
    fn absent() -> Self {
        Self { value: None, version: 0, partial: false, union: Vec::new() }
    }
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
    /// The objects of targets that consist of several, each with the release or word that it was written with.
    objects: BTreeMap<(Target, String), String>,
    workloads: BTreeMap<(Name, WorkloadRef), Workload>,
    silent: BTreeSet<Name>,
    faults: BTreeMap<Name, WorldError>,
    pinned: Vec<String>,
    foreign: BTreeMap<Name, Vec<String>>,
    refused: BTreeSet<Target>,
    refusing_probes: BTreeSet<Name>,
    refused_parts: BTreeSet<(Target, String)>,
    journal: Vec<Write>,
    version: u64,
    calls: u64,
    pushes: u64,
    cut: Option<(u64, Cut)>,
    cut_reached: bool,
    pace: Duration,
    /// What the next fences answer instead of fencing, the last one first.
    fence_faults: Vec<WorldError>,
    fenced: Vec<Target>,
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

    /// Lets a namespace's workload have pods that a revision injected with an image, as if they had been left behind.
    pub fn carry(&self, member: &str, namespace: &str, revision: &str, image: &str) {
        let sidecar = Sidecar { revision: revision.parse().expect(revision), image: image.into() };
        let mut state = self.lock();
        let of = |(at, workload): &(Name, WorkloadRef)| at.as_str() == member && workload.namespace == namespace;
        state.workloads.iter_mut().filter(|(key, _)| of(key)).for_each(|(_, known)| {
            known.pods.fill(Some(sidecar.clone()));
        });
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

    /// Makes every call of a member end in an error, or lets it answer again.
    pub fn fail(&self, member: &str, error: Option<WorldError>) {
        let member: Name = member.parse().expect(member);
        let mut state = self.lock();
        match error {
            Some(error) => state.faults.insert(member, error),
            None => state.faults.remove(&member),
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

    /// Lets the next fence fail.
    pub fn fail_fence(&self, error: WorldError) {
        self.lock().fence_faults.push(error);
    }

    /// The targets that were fenced so far, in order.
    pub fn fenced(&self) -> Vec<Target> {
        self.lock().fenced.clone()
    }

    /// Somebody else changes a target.
    pub fn meddle(&self, target: Target, value: Option<&str>) {
        self.lock().put(target, value.map(str::to_owned));
    }

    /// Sets what happens at the write that comes after so many others.
    pub fn cut_at(&self, write: u64, cut: Cut) {
        let mut state = self.lock();
        (state.calls, state.pushes, state.cut, state.cut_reached) = (0, 0, Some((write, cut)), false);
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

    /// How many targets were pushed since then. One that consists of several objects takes several writes.
    pub fn pushed(&self) -> u64 {
        self.lock().pushes
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
        let objects = state.objects.iter().map(|((target, part), value)| format!("{target}: {part} of {value}\n"));
        let dirty = state.cells.iter().filter(|(_, cell)| cell.partial);
        let dirty = dirty.map(|(target, _)| format!("{target} was changed in part\n"));
        cells.chain(objects).chain(dirty).chain(pods).collect()
    }
}

impl State {
    fn put(&mut self, target: Target, value: Option<String>) {
        self.version += 1;
        let version = self.version;
        let cell = self.cells.entry(target).or_insert_with(Cell::absent);
        (cell.value, cell.version) = (value, version);
    }

    /// A revision's own webhook answers to its name until that is made an alias of another revision.
    fn value(&self, target: &Target) -> Option<String> {
        let cell = |target: &Target| self.cells.get(target).and_then(|cell| cell.value.clone());
        let own = || match target {
            Target::Tag { member, tag } => {
                let revision = tag.parse().ok()?;
                self.has_webhook(&Target::MemberObjects { member: member.clone(), revision }).then(|| tag.clone())
            }
            _ => None,
        };
        cell(target).or_else(own)
    }

    /// What is absent has no version: a cluster accepts its creation however long it was on its way.
    fn mark(&self, target: &Target) -> Mark {
        let kept = |cell: &&Cell| cell.value.is_some() || cell.partial || !vanishes(target);
        Mark(self.cells.get(target).filter(kept).map_or(0, |cell| cell.version).to_string())
    }

    fn reach(&self, member: Option<&Name>) -> Result<(), WorldError> {
        match member {
            Some(member) if self.faults.contains_key(member) => Err(self.faults[member].clone()),
            Some(member) if self.silent.contains(member) => Err(WorldError::silent(member.as_str(), "timed out")),
            _ => Ok(()),
        }
    }

    /// What every write must pass.
    fn admit(&self, target: &Target, permit: &Permit) -> Result<(), WorldError> {
        self.reach(target.member())?;
        if permit.deadline.passed() {
            return Err(WorldError::Expired);
        }
        if self.refused.contains(target) {
            return Err(refusal(target));
        }
        Ok(())
    }

    fn write(&mut self, target: &Target, to: Option<&str>, seen: &Mark, permit: &Permit) -> Result<(), WorldError> {
        self.admit(target, permit)?;
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
        self.note(target, None, (from, to), permit);
        Ok(())
    }
}

/// Whether an object goes with the target's value. A namespace stays when its label goes, and a workload without its stamp.
fn vanishes(target: &Target) -> bool {
    !matches!(target, Target::NamespaceLabel { .. } | Target::Workload { .. })
}

/// The proxy image of a release, in every fake and test.
pub fn image(release: &Version) -> String {
    format!("lab/proxyv2:{}", release.community())
}

fn refusal(target: &Target) -> WorldError {
    WorldError::Refused { place: target.to_string(), code: "permission_missing", cause: "patch is forbidden".into() }
}
