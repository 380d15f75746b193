//! Workloads and their pods in one member: read once by lists for a plan or an answer, kept by watches while a roll-out is
//! under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use model::Name;
use model::plan::{WorkloadKind, WorkloadRef};
use rollout::ports::{LivePod, WorkloadSeen, WorldError};

use super::MemberDoor;
use super::records::{PodRecord, WorkloadRecord};

/// Kinds whose pods a template change replaces, as the API names them.
pub(super) const KINDS: [(WorkloadKind, &str, &str); 3] = [
    (WorkloadKind::Deployment, "Deployment", "deployments"),
    (WorkloadKind::StatefulSet, "StatefulSet", "statefulsets"),
    (WorkloadKind::DaemonSet, "DaemonSet", "daemonsets"),
];

/// What is known of a member's workloads and pods.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    pub(super) workloads: BTreeMap<WorkloadRef, WorkloadRecord>,
    pub(super) pods: BTreeMap<(String, String), PodRecord>,
    owned: BTreeMap<WorkloadRef, BTreeSet<(String, String)>>,
}

impl Snapshot {
    async fn read(member: &MemberDoor) -> Result<Self, WorldError> {
        let list = |plural: &'static str| async move { member.door.list(&format!("/apis/apps/v1/{plural}"), "").await };
        let pods = async { member.door.list("/api/v1/pods", "").await };
        let [(deployment, _, deployments), (set, _, sets), (daemon, _, daemons)] = KINDS;
        // Alone: a credential that is dead, or a cluster that is gone, is tried once and not four times.
        let first = list(deployments).await?;
        let lists = tokio::try_join!(list(sets), list(daemons), pods)?;
        let mut snapshot = Self::default();
        for (kind, objects) in [(deployment, first), (set, lists.0), (daemon, lists.1)] {
            for object in &objects {
                snapshot.put_workload(WorkloadRecord::of(kind, object));
            }
        }
        for object in &lists.2 {
            snapshot.put_pod(PodRecord::of(object));
        }
        Ok(snapshot)
    }

    pub(super) fn put_workload(&mut self, record: WorkloadRecord) {
        self.workloads.insert(record.workload.clone(), record);
    }

    pub(super) fn put_pod(&mut self, record: PodRecord) {
        if let Some(owner) = &record.owner {
            self.owned.entry(owner.clone()).or_default().insert(record.key());
        }
        self.pods.insert(record.key(), record);
    }

    pub(super) fn remove_pod(&mut self, key: &(String, String)) {
        let owner = self.pods.remove(key).and_then(|record| record.owner);
        if let Some(owned) = owner.and_then(|owner| self.owned.get_mut(&owner)) {
            owned.remove(key);
        }
    }

    /// The live pods of a workload.
    pub(super) fn live(&self, workload: &WorkloadRef) -> impl Iterator<Item = &PodRecord> {
        let keys = self.owned.get(workload).into_iter().flatten();
        keys.filter_map(|key| self.pods.get(key)).filter(|pod| pod.live)
    }

    /// Live pods that no workload of a kind that we know owns.
    pub(super) fn unowned(&self) -> impl Iterator<Item = &PodRecord> {
        let known = |pod: &&PodRecord| pod.owner.as_ref().is_some_and(|owner| self.workloads.contains_key(owner));
        self.pods.values().filter(|pod| pod.live).filter(move |pod| !known(pod))
    }

    pub(super) fn workload(&self, workload: &WorkloadRef) -> Option<WorkloadSeen> {
        let record = self.workloads.get(workload)?;
        Some(WorkloadSeen {
            stamp: record.stamp.clone(),
            mark: record.mark.clone(),
            live: self
                .live(workload)
                .map(|pod| LivePod { sidecar: pod.sidecar.clone(), leaving: pod.ending || pod.stamp != record.stamp })
                .collect(),
            rolled: record.rolled.clone(),
        })
    }
}

/// How long a reading is good for: one look, and no second one.
const FRESH: Duration = Duration::from_millis(200);

/// The readings that are still fresh: what is asked several times within one look is read once.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    fresh: Mutex<BTreeMap<Name, (Instant, Arc<Snapshot>)>>,
    /// One reading at a time: whoever comes second takes the first one's.
    turn: tokio::sync::Mutex<()>,
}

impl Snapshots {
    pub(super) fn forget(&self) {
        self.fresh.lock().expect("no holder panics").clear();
    }

    fn known(&self, member: &Name) -> Option<Arc<Snapshot>> {
        let fresh = self.fresh.lock().expect("no holder panics");
        fresh.get(member).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, known)| known.clone())
    }

    pub(super) async fn of(&self, member: &MemberDoor) -> Result<Arc<Snapshot>, WorldError> {
        if let Some(known) = self.known(&member.name) {
            return Ok(known);
        }
        let _turn = self.turn.lock().await;
        if let Some(known) = self.known(&member.name) {
            return Ok(known);
        }
        let read = Arc::new(Snapshot::read(member).await?);
        self.fresh.lock().expect("no holder panics").insert(member.name.clone(), (Instant::now(), read.clone()));
        Ok(read)
    }
}
