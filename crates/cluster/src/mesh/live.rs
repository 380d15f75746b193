//! Watches on a member's workloads and pods: while a roll-out is under way its state comes from here and not from asking.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use model::Name;
use model::plan::{WorkloadKind, WorkloadRef};
use rollout::ports::{ObjectVersion, ObservedWorkload, ClusterError};
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::data_plane::{WORKLOAD_KINDS, Snapshot};
use super::records::{PodRecord, WorkloadRecord};
use super::{MemberCluster, text_at};
use crate::door::ClusterClient;

/// How long the first lists may take.
const FIRST_LIST_TIMEOUT: Duration = Duration::from_secs(20);
/// After so long without an event the cluster is asked whether it is there at all.
const MAX_WATCH_SILENCE: Duration = Duration::from_secs(5);
/// Pause before a watch that failed is opened again: a person may be waiting for a cluster to come back.
const WATCH_RETRY_DELAY: Duration = Duration::from_secs(1);

/// What is watched: pods, and the kinds that own them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum WatchedKind {
    Pods,
    Workloads(WorkloadKind),
}

#[derive(Debug, Default)]
struct WatchState {
    snapshot: Snapshot,
    /// Which lists are complete.
    complete: BTreeSet<WatchedKind>,
    failed: Option<ClusterError>,
    last_heard_at: Option<Instant>,
}

/// One member's watches; they end when this is dropped.
#[derive(Debug)]
pub(super) struct MemberWatch {
    state: Arc<Mutex<WatchState>>,
    changed: Arc<Notify>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// The members that are watched, from the first question about a workload on.
#[derive(Debug, Default)]
pub(super) struct Watches {
    open: Mutex<BTreeMap<Name, Arc<MemberWatch>>>,
    changed: Arc<Notify>,
}

impl Watches {
    fn watch_member(&self, member: &MemberCluster) -> Arc<MemberWatch> {
        let mut open = self.open.lock().expect("no holder panics");
        open.entry(member.name.clone()).or_insert_with(|| Arc::new(MemberWatch::open(member, &self.changed))).clone()
    }

    /// A workload as the watches show it.
    pub(super) async fn workload_state(
        &self,
        member: &MemberCluster,
        workload: &WorkloadRef,
    ) -> Result<Option<ObservedWorkload>, ClusterError> {
        let live = self.watch_member(member);
        live.wait_until_listed(member).await?;
        live.check_reachable(member).await?;
        let state = live.state.lock().expect("no holder panics");
        Ok(state.snapshot.workload_state(workload))
    }

    /// Takes in what the cluster answered to a write, so that the next look does not show the time before it.
    pub(super) fn record_written_workload(&self, member: &Name, kind: WorkloadKind, object: &Value) {
        if let Some(live) = self.open.lock().expect("no holder panics").get(member) {
            live.state.lock().expect("no holder panics").put_if_newer(WorkloadRecord::from_object(kind, object));
        }
    }

    /// Returns when a watch has brought something; never, while nothing is watched.
    pub(super) async fn wait_for_change(&self) {
        self.changed.notified().await;
    }
}

impl MemberWatch {
    fn open(member: &MemberCluster, changed: &Arc<Notify>) -> Self {
        let state = Arc::new(Mutex::new(WatchState::default()));
        let kinds = WORKLOAD_KINDS.map(|(kind, _, plural)| (WatchedKind::Workloads(kind), format!("/apis/apps/v1/{plural}")));
        let all = kinds.into_iter().chain([(WatchedKind::Pods, "/api/v1/pods".to_owned())]);
        let tasks = all
            .map(|(what, path)| {
                let feed =
                    KindWatch { what, path, door: member.client.clone(), state: state.clone(), changed: changed.clone() };
                AbortOnDropHandle::new(tokio::spawn(feed.run_watch()))
            })
            .collect();
        Self { state, changed: changed.clone(), _tasks: tasks }
    }

    /// Waits for the first lists.
    async fn wait_until_listed(&self, member: &MemberCluster) -> Result<(), ClusterError> {
        let complete = async {
            loop {
                let notified = self.changed.notified();
                {
                    let state = self.state.lock().expect("no holder panics");
                    if state.complete.len() == WORKLOAD_KINDS.len() + 1 {
                        return Ok(());
                    }
                    if let Some(error) = &state.failed {
                        return Err(error.clone());
                    }
                }
                // A notice that came between the look and the wait is missed: look again soon in any case.
                tokio::time::timeout(Duration::from_millis(100), notified).await.ok();
            }
        };
        let waited = tokio::time::timeout(FIRST_LIST_TIMEOUT, complete).await;
        waited.map_err(|_| ClusterError::unreachable(member.name.as_str(), "its workloads were not listed in time"))?
    }

    /// Silence is no proof that nothing happens: the cluster may be gone.
    async fn check_reachable(&self, member: &MemberCluster) -> Result<(), ClusterError> {
        let (failed, quiet) = {
            let state = self.state.lock().expect("no holder panics");
            (state.failed.clone(), state.last_heard_at.is_none_or(|heard| heard.elapsed() > MAX_WATCH_SILENCE))
        };
        if let Some(error) = failed {
            return Err(error);
        }
        if quiet {
            member.client.get("/version").await?;
            self.state.lock().expect("no holder panics").last_heard_at = Some(Instant::now());
        }
        Ok(())
    }
}

/// One list that is kept up to date by a watch.
struct KindWatch {
    what: WatchedKind,
    path: String,
    door: ClusterClient,
    state: Arc<Mutex<WatchState>>,
    changed: Arc<Notify>,
}

/// An object as far as it is kept.
enum WatchedObject {
    Pod(PodRecord),
    Workload(WorkloadRecord),
}

impl WatchedObject {
    fn from_object(what: WatchedKind, object: &Value) -> Self {
        match what {
            WatchedKind::Pods => Self::Pod(PodRecord::from_object(object)),
            WatchedKind::Workloads(kind) => Self::Workload(WorkloadRecord::from_object(kind, object)),
        }
    }

    fn object_key(&self) -> (String, String) {
        match self {
            Self::Pod(pod) => pod.object_key(),
            Self::Workload(record) => (record.workload.namespace.clone(), record.workload.name.clone()),
        }
    }
}

impl KindWatch {
    /// Lists and watches until the task is aborted.
    async fn run_watch(self) {
        loop {
            if let Err(error) = self.list_and_watch().await {
                tracing::debug!(
                    path = self.path,
                    error = &error as &dyn std::error::Error,
                    "a watch failed; it is opened again"
                );
                self.state.lock().expect("no holder panics").failed = Some(error);
                self.changed.notify_waiters();
            }
            tokio::time::sleep(WATCH_RETRY_DELAY).await;
        }
    }

    /// Returns when the cluster cannot go on from the version that was seen last.
    async fn list_and_watch(&self) -> Result<(), ClusterError> {
        let listed = self.door.list_mapped(&self.path, "", |object| WatchedObject::from_object(self.what, object)).await?;
        self.update_state(|state| state.replace_listed(self.what, listed.items));
        let mut version = listed.version;
        loop {
            let mut events = self.door.watch(&self.path, &version).await?;
            while let Some((kind, object)) = events.next_event().await? {
                match kind.as_str() {
                    "ADDED" | "MODIFIED" => self.update_state(|state| state.put_object(WatchedObject::from_object(self.what, &object))),
                    "DELETED" => {
                        let key = WatchedObject::from_object(self.what, &object).object_key();
                        self.update_state(|state| state.remove_object(self.what, &key));
                    }
                    "BOOKMARK" => {}
                    _ => return Ok(()),
                }
                if let Some(seen) = text_at(&object, "/metadata/resourceVersion") {
                    seen.clone_into(&mut version);
                }
                self.check_limits()?;
            }
            // A cluster that ends every watch at once is not asked without a pause.
            tokio::time::sleep(WATCH_RETRY_DELAY).await;
        }
    }

    fn update_state(&self, change: impl FnOnce(&mut WatchState)) {
        {
            let mut state = self.state.lock().expect("no holder panics");
            (state.failed, state.last_heard_at) = (None, Some(Instant::now()));
            change(&mut state);
        }
        self.changed.notify_waiters();
    }

    fn check_limits(&self) -> Result<(), ClusterError> {
        let state = self.state.lock().expect("no holder panics");
        let most = state.snapshot.pods.len().max(state.snapshot.workloads.len());
        if most <= self.door.limits().max_list_items {
            return Ok(());
        }
        let cause = "it has more workloads or pods than are followed".to_owned();
        Err(ClusterError::Refused { place: self.door.cluster_name().to_owned(), code: "list_too_long", cause })
    }
}

impl WatchState {
    fn put_object(&mut self, record: WatchedObject) {
        match record {
            WatchedObject::Pod(pod) => self.snapshot.put_pod(pod),
            WatchedObject::Workload(record) => self.put_if_newer(record),
        }
    }

    /// An event that was sent before our own write was answered must not undo the answer.
    fn put_if_newer(&mut self, record: WorkloadRecord) {
        let known = self.snapshot.workloads.get(&record.workload);
        if known.is_none_or(|known| !is_older(&record.mark, &known.mark)) {
            self.snapshot.put_workload(record);
        }
    }

    fn remove_object(&mut self, what: WatchedKind, key: &(String, String)) {
        match what {
            WatchedKind::Pods => self.snapshot.remove_pod(key),
            WatchedKind::Workloads(kind) => {
                let (namespace, name) = key.clone();
                self.snapshot.workloads.remove(&WorkloadRef { namespace, kind, name });
            }
        }
    }

    /// A list is complete: what it does not name went away while no watch was open.
    fn replace_listed(&mut self, what: WatchedKind, records: Vec<WatchedObject>) {
        let named: BTreeSet<_> = records.iter().map(WatchedObject::object_key).collect();
        for record in records {
            self.put_object(record);
        }
        let known: Vec<(String, String)> = match what {
            WatchedKind::Pods => self.snapshot.pods.keys().cloned().collect(),
            WatchedKind::Workloads(kind) => {
                let of_kind = self.snapshot.workloads.keys().filter(|workload| workload.kind == kind);
                of_kind.map(|workload| (workload.namespace.clone(), workload.name.clone())).collect()
            }
        };
        for key in known.iter().filter(|key| !named.contains(*key)) {
            self.remove_object(what, key);
        }
        self.complete.insert(what);
    }
}

/// Resource versions of one object grow; they are numbers wherever etcd keeps them, and only compared for the same object.
fn is_older(this: &ObjectVersion, known: &ObjectVersion) -> bool {
    let parts = |mark: &ObjectVersion| {
        let (uid, version) = mark.0.split_once('/')?;
        Some((uid.to_owned(), version.parse::<u64>().ok()?))
    };
    match (parts(this), parts(known)) {
        (Some((uid, this)), Some((known_uid, known))) => uid == known_uid && this < known,
        _ => false,
    }
}
