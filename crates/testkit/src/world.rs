//! Simulates the clusters of a mesh in memory, as the traits of `rollout` describe them, with
//! faults on request and a journal of every accepted write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::SignedDuration;
use meshwright_model::Name;
use meshwright_model::ids::OperationId;
use meshwright_model::injection::PodLabels;
use meshwright_model::plan::{Sidecar, Target, WorkloadKind, WorkloadRef};
use meshwright_model::problem::ProblemCode;
use meshwright_model::version::Version;
use meshwright_rollout::ports::{ClusterError, FencingToken, NextPod, ObjectVersion};
use tokio::sync::Notify;

use crate::ManualClock;

mod addresses;
mod bundle;
mod faults;
mod injection;
mod leaving;
mod other_pods;
mod ports;
mod snapshot;
mod usage;

use addresses::Addresses;
pub use bundle::target_parts;
use other_pods::OtherPods;

/// Behaviour of a workload when its template changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolloutBehaviour {
    /// One pod is replaced at each look at the workload.
    Healthy,
    /// The new pods never become ready.
    NeverReady,
}

/// Write that a cluster has accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedWrite {
    /// Target that was written.
    pub target: Target,
    /// Object of the target that was written; `None` if the target is a single object.
    pub part: Option<&'static str>,
    /// Value before the write; `None` if it was absent.
    pub from: Option<String>,
    /// Value after the write; `None` if it was removed.
    pub to: Option<String>,
    /// Operation that made the write.
    pub operation: OperationId,
    /// Epoch of the operation's claim that made the write.
    pub epoch: i64,
}

/// Fault that happens at a chosen write.
#[derive(Debug, Clone)]
pub enum Cut {
    /// The call never returns and writes nothing, as if the worker had been killed before the
    /// effect.
    BeforeEffect,
    /// The call never returns, but it has written, as if the worker had been killed after the
    /// effect.
    AfterEffect,
    /// The call waits until it is notified and then tries to write, as if the worker had been
    /// stopped and continued.
    Frozen(Arc<Notify>),
}

#[derive(Debug, Clone)]
struct TargetState {
    value: Option<String>,
    version: u64,
    /// True while the inventory is dirty: a change has begun and not ended.
    partial: bool,
    /// Objects that the inventory lists.
    inventory: Vec<&'static str>,
}

impl TargetState {
    fn empty() -> Self {
        Self {
            value: None,
            version: 0,
            partial: false,
            inventory: Vec::new(),
        }
    }
}

#[derive(Debug, Clone)]
struct Workload {
    template: PodLabels,
    pods: Vec<Option<Sidecar>>,
    /// Number of pods that are still to be replaced.
    outdated: usize,
    behaviour: RolloutBehaviour,
    /// True while another change replaces its pods in parallel, as those of a `StatefulSet`.
    replacing: bool,
}

#[derive(Debug, Default)]
struct State {
    members: Vec<Name>,
    targets: BTreeMap<Target, TargetState>,
    addresses: Addresses,
    /// Objects of the targets that consist of several, each with the release or value that it was
    /// written with.
    objects: BTreeMap<(Target, String), String>,
    workloads: BTreeMap<(Name, WorkloadRef), Workload>,
    other_pods: OtherPods,
    /// Answers of admission that differ from what the webhooks and labels give.
    next_pods: BTreeMap<(Name, WorkloadRef), NextPod>,
    unreachable: BTreeSet<Name>,
    /// Time that passes on the clock before a silent member counts as silent.
    silence: Option<(Arc<ManualClock>, SignedDuration)>,
    faults: BTreeMap<Name, ClusterError>,
    deleted_namespaces: BTreeSet<(Name, String)>,
    pinned: Vec<String>,
    foreign_webhooks: BTreeMap<Name, Vec<String>>,
    refused_targets: BTreeSet<Target>,
    refusing_dry_runs: BTreeSet<Name>,
    refused_parts: BTreeSet<(Target, String)>,
    journal: Vec<AcceptedWrite>,
    version: u64,
    write_attempts: u64,
    user_searches: usize,
    push_count: u64,
    evictions_forbidden: bool,
    /// Largest number of workloads whose pods were being replaced at one time.
    max_restarting: usize,
    cut: Option<(u64, Cut)>,
    cut_reached: bool,
    call_delay: Duration,
    /// Errors of the next fences, the last one first.
    fence_faults: Vec<ClusterError>,
    fenced_targets: Vec<Target>,
}

/// Fake clusters of one mesh. Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct FakeClusters {
    state: Arc<Mutex<State>>,
    cut_notify: Arc<Notify>,
}

impl FakeClusters {
    /// Creates member clusters with these names and without objects.
    pub fn new(members: &[&str]) -> Self {
        let world = Self::default();
        world.lock().members = members
            .iter()
            .map(|name| name.parse().expect(name))
            .collect();
        world
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Adds a namespace with one Deployment, `web`, and creates its pods with the sidecar that the
    /// webhooks inject now.
    pub fn add_workload(
        &self,
        member: &str,
        namespace: &str,
        label: Option<&str>,
        pods: usize,
    ) -> WorkloadRef {
        let member: Name = member.parse().expect(member);
        let workload = WorkloadRef {
            namespace: namespace.into(),
            kind: WorkloadKind::Deployment,
            name: "web".into(),
        };
        let mut state = self.lock();
        let target = Target::NamespaceLabel {
            member: member.clone(),
            namespace: namespace.into(),
        };
        state.set_value(target, label.map(str::to_owned));
        let born = Workload {
            template: PodLabels::default(),
            pods: vec![None; pods],
            outdated: 0,
            behaviour: RolloutBehaviour::Healthy,
            replacing: false,
        };
        let key = (member, workload.clone());
        state.workloads.insert(key.clone(), born);
        state.create_pods(&key, pods);
        workload
    }

    /// Removes every workload and every injection label, so that nothing uses any revision.
    pub fn clear_workloads(&self) {
        let mut state = self.lock();
        state.workloads.clear();
        let labelled: Vec<Target> = state
            .targets
            .keys()
            .filter(|target| matches!(target, Target::NamespaceLabel { .. }))
            .cloned()
            .collect();
        for target in labelled {
            state.set_value(target, None);
        }
    }

    /// Replaces one pod, as after an eviction: the webhooks that match now inject the new pod.
    pub fn evict_pod(&self, member: &str, workload: &WorkloadRef) {
        let key = (member.parse().expect(member), workload.clone());
        self.lock().create_pods(&key, 1);
    }

    /// Gives the pods of a namespace's workload the sidecar of a revision with this image, as if
    /// they had been left behind by an upgrade.
    pub fn set_sidecars(&self, member: &str, namespace: &str, revision: &str, image: &str) {
        let sidecar = Sidecar {
            revision: revision.parse().expect(revision),
            image: image.into(),
        };
        let mut state = self.lock();
        let of = |(at, workload): &(Name, WorkloadRef)| {
            at.as_str() == member && workload.namespace == namespace
        };
        state
            .workloads
            .iter_mut()
            .filter(|(key, _)| of(key))
            .for_each(|(_, known)| {
                known.pods.fill(Some(sidecar.clone()));
            });
    }

    /// Changes a target as another client of the cluster would.
    pub fn change_externally(&self, target: Target, value: Option<&str>) {
        self.lock().set_value(target, value.map(str::to_owned));
    }
}

impl State {
    fn set_value(&mut self, target: Target, value: Option<String>) {
        self.version += 1;
        let version = self.version;
        let cell = self
            .targets
            .entry(target)
            .or_insert_with(TargetState::empty);
        (cell.value, cell.version) = (value, version);
    }

    /// Returns the value of a target. The webhook of a revision serves the revision's name until
    /// this name is made an alias of another revision.
    fn value(&self, target: &Target) -> Option<String> {
        let cell = |target: &Target| self.targets.get(target).and_then(|cell| cell.value.clone());
        let own = || match target {
            Target::Tag { member, tag } => {
                let revision = tag.parse().ok()?;
                self.has_webhook(&Target::MemberObjects {
                    member: member.clone(),
                    revision,
                })
                .then(|| tag.clone())
            }
            _ => None,
        };
        cell(target).or_else(own)
    }

    /// Returns true if a user has deleted the object that holds the target's value.
    fn is_object_gone(&self, target: &Target) -> bool {
        match target {
            Target::NamespaceLabel { member, namespace } => self
                .deleted_namespaces
                .contains(&(member.clone(), namespace.clone())),
            _ => false,
        }
    }

    /// Returns the version of the object that holds a target's value. An absent object has no
    /// version: a cluster accepts its creation, however late the request arrives.
    fn object_version(&self, target: &Target) -> ObjectVersion {
        let kept = |cell: &&TargetState| {
            cell.value.is_some() || cell.partial || !is_deleted_without_value(target)
        };
        ObjectVersion(
            self.targets
                .get(target)
                .filter(kept)
                .map_or(0, |cell| cell.version)
                .to_string(),
        )
    }

    fn check_reachable(&self, member: Option<&Name>) -> Result<(), ClusterError> {
        match member {
            Some(member) if self.faults.contains_key(member) => Err(self.faults[member].clone()),
            Some(member) if self.unreachable.contains(member) => {
                Err(ClusterError::unreachable(member.as_str(), "timed out"))
            }
            _ => Ok(()),
        }
    }

    /// Checks what every write must pass: the member answers, the deadline of the fencing token
    /// lies ahead, and the target accepts writes.
    fn check_admission(&self, target: &Target, permit: &FencingToken) -> Result<(), ClusterError> {
        self.check_reachable(target.member())?;
        if permit.deadline.has_passed() {
            return Err(ClusterError::Expired);
        }
        if self.refused_targets.contains(target) {
            return Err(permission_error(target));
        }
        Ok(())
    }

    fn write_value(
        &mut self,
        target: &Target,
        to: Option<&str>,
        seen: &ObjectVersion,
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        self.check_admission(target, permit)?;
        if self.object_version(target) != *seen {
            return Err(ClusterError::Changed {
                place: target.to_string(),
            });
        }
        let (from, to) = (self.value(target), to.map(str::to_owned));
        self.set_value(target.clone(), to.clone());
        self.copy_address(target, to.as_deref());
        if let Target::Workload { member, workload } = target
            && from != to
            && let Some(known) = self.workloads.get_mut(&(member.clone(), workload.clone()))
        {
            known.outdated = known.pods.len();
            let restarting = self.workloads.values().filter(|of| of.outdated > 0).count();
            self.max_restarting = self.max_restarting.max(restarting);
        }
        self.record_write(target, None, (from, to), permit);
        Ok(())
    }
}

/// Returns true if the object is deleted together with the target's value. A namespace stays
/// without its label, and a workload without its stamp.
fn is_deleted_without_value(target: &Target) -> bool {
    !matches!(
        target,
        Target::NamespaceLabel { .. } | Target::Workload { .. }
    )
}

/// Returns the proxy image of a release, which all fakes and tests use.
pub fn proxy_image(release: &Version) -> String {
    format!("lab/proxyv2:{}", release.community_version())
}

fn permission_error(target: &Target) -> ClusterError {
    ClusterError::Refused {
        place: target.to_string(),
        code: ProblemCode::PermissionMissing,
        cause: "patch is forbidden".into(),
    }
}
