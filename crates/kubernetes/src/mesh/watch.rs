//! Watches a member's workloads and pods. During a roll-out their state comes from these watches
//! and not from requests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use meshwright_model::Name;
use meshwright_model::plan::{WorkloadKind, WorkloadRef};
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::{ClusterError, LivePod, ObjectVersion, ObservedWorkload};
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::data_plane::{Snapshot, WORKLOAD_KINDS};
use super::records::{PodRecord, WorkloadRecord};
use super::{MemberCluster, text_at};
use crate::client::ClusterClient;

/// Timeout of the first lists.
const FIRST_LIST_TIMEOUT: Duration = Duration::from_secs(20);
/// Time without an event after which the cluster is asked whether it still answers.
const MAX_WATCH_SILENCE: Duration = Duration::from_secs(5);
/// Delay before a failed watch is opened again. It is short, because a person may be waiting for a
/// cluster to come back.
const WATCH_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Kinds that are watched: pods, and the workloads that own them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum WatchedKind {
    Pods,
    Workloads(WorkloadKind),
}

/// Last known state of a member, with the last failure of its watches and the time of their last
/// news.
#[derive(Debug, Default)]
struct WatchState {
    snapshot: Snapshot,
    /// Kinds whose first list is complete.
    complete: BTreeSet<WatchedKind>,
    failed: Option<ClusterError>,
    last_heard_at: Option<Instant>,
}

/// Watches of one member. They end when this value is dropped.
#[derive(Debug)]
pub(super) struct MemberWatch {
    state: Arc<Mutex<WatchState>>,
    changed: Arc<Notify>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// Watches of all members. Those of a member open with the first question about one of its
/// workloads.
#[derive(Debug, Default)]
pub(super) struct Watches {
    open: Mutex<BTreeMap<Name, Arc<MemberWatch>>>,
    changed: Arc<Notify>,
}

impl Watches {
    fn watch_member(&self, member: &MemberCluster) -> Arc<MemberWatch> {
        let mut open = self.open.lock().expect("no holder panics");
        open.entry(member.name.clone())
            .or_insert_with(|| Arc::new(MemberWatch::open(member, &self.changed)))
            .clone()
    }

    /// Returns the state of a workload as the watches show it.
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

    /// Returns a pod as the watches show it, unless it is gone or another one has its name.
    pub(super) async fn pod_state(
        &self,
        member: &MemberCluster,
        namespace: &str,
        pod: &ObjectVersion,
    ) -> Result<Option<LivePod>, ClusterError> {
        let live = self.watch_member(member);
        live.wait_until_listed(member).await?;
        live.check_reachable(member).await?;
        let name = pod.0.split('/').next().unwrap_or_default();
        let state = live.state.lock().expect("no holder panics");
        let record = state
            .snapshot
            .pods
            .get(&(namespace.to_owned(), name.to_owned()));
        Ok(record
            .filter(|record| record.live && record.version() == *pod)
            .map(PodRecord::to_live_pod))
    }

    /// Records the cluster's answer to our own write, so that the next check does not show the
    /// state before it.
    pub(super) fn record_written_workload(
        &self,
        member: &Name,
        kind: WorkloadKind,
        object: &Value,
    ) {
        if let Some(live) = self.open.lock().expect("no holder panics").get(member) {
            live.state
                .lock()
                .expect("no holder panics")
                .put_if_newer(WorkloadRecord::from_object(kind, object));
        }
    }

    /// Waits until a watch has brought a change. It waits for ever while no member is watched.
    pub(super) async fn wait_for_change(&self) {
        self.changed.notified().await;
    }
}

impl MemberWatch {
    fn open(member: &MemberCluster, changed: &Arc<Notify>) -> Self {
        let state = Arc::new(Mutex::new(WatchState::default()));
        let kinds = WORKLOAD_KINDS.map(|(kind, _, plural)| {
            (
                WatchedKind::Workloads(kind),
                format!("/apis/apps/v1/{plural}"),
            )
        });
        let all = kinds
            .into_iter()
            .chain([(WatchedKind::Pods, "/api/v1/pods".to_owned())]);
        let tasks = all
            .map(|(what, path)| {
                let feed = KindWatch {
                    what,
                    path,
                    client: member.client.clone(),
                    state: state.clone(),
                    changed: changed.clone(),
                };
                AbortOnDropHandle::new(tokio::spawn(feed.run_watch()))
            })
            .collect();
        Self {
            state,
            changed: changed.clone(),
            _tasks: tasks,
        }
    }

    /// Waits until the first lists are complete.
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
                // A notification that comes between the check and the wait is missed: check again
                // soon in any case.
                tokio::time::timeout(Duration::from_millis(100), notified)
                    .await
                    .ok();
            }
        };
        let waited = tokio::time::timeout(FIRST_LIST_TIMEOUT, complete).await;
        waited.map_err(|_| {
            ClusterError::unreachable(
                member.name.as_str(),
                "its workloads were not listed in time",
            )
        })?
    }

    /// Checks that the member still answers if its watches were silent for too long. Silence does
    /// not prove that nothing happens: the cluster may be gone.
    async fn check_reachable(&self, member: &MemberCluster) -> Result<(), ClusterError> {
        let (failed, quiet) = {
            let state = self.state.lock().expect("no holder panics");
            (
                state.failed.clone(),
                state
                    .last_heard_at
                    .is_none_or(|heard| heard.elapsed() > MAX_WATCH_SILENCE),
            )
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

/// List of one kind that a watch keeps up to date.
struct KindWatch {
    what: WatchedKind,
    path: String,
    client: ClusterClient,
    state: Arc<Mutex<WatchState>>,
    changed: Arc<Notify>,
}

/// Fields that are kept of a watched object.
enum WatchedObject {
    Pod(PodRecord),
    Workload(WorkloadRecord),
}

impl WatchedObject {
    fn from_object(what: WatchedKind, object: &Value) -> Self {
        match what {
            WatchedKind::Pods => Self::Pod(PodRecord::from_object(object)),
            WatchedKind::Workloads(kind) => {
                Self::Workload(WorkloadRecord::from_object(kind, object))
            }
        }
    }

    fn object_key(&self) -> (String, String) {
        match self {
            Self::Pod(pod) => pod.object_key(),
            Self::Workload(record) => (
                record.workload.namespace.clone(),
                record.workload.name.clone(),
            ),
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
                    "a watch on the cluster failed; opening it again"
                );
                self.state.lock().expect("no holder panics").failed = Some(error);
                self.changed.notify_waiters();
            }
            tokio::time::sleep(WATCH_RETRY_DELAY).await;
        }
    }

    /// Lists once and then watches. Returns if the cluster cannot continue from the last seen
    /// version.
    async fn list_and_watch(&self) -> Result<(), ClusterError> {
        let listed = self
            .client
            .list_mapped(&self.path, "", |object| {
                WatchedObject::from_object(self.what, object)
            })
            .await?;
        self.update_state(|state| state.replace_listed(self.what, listed.items));
        let mut version = listed.version;
        loop {
            let mut events = self.client.watch(&self.path, &version).await?;
            while let Some((kind, object)) = events.next_event().await? {
                match kind.as_str() {
                    "ADDED" | "MODIFIED" => self.update_state(|state| {
                        state.put_object(WatchedObject::from_object(self.what, &object));
                    }),
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
            // Without this pause, a cluster that ends every watch at once would be asked without
            // end.
            tokio::time::sleep(WATCH_RETRY_DELAY).await;
        }
    }

    /// Changes the state after news from the cluster, and wakes all that wait for a change.
    fn update_state(&self, change: impl FnOnce(&mut WatchState)) {
        {
            let mut state = self.state.lock().expect("no holder panics");
            (state.failed, state.last_heard_at) = (None, Some(Instant::now()));
            change(&mut state);
        }
        self.changed.notify_waiters();
    }

    /// Returns an error if there are more pods or workloads than a list may have.
    fn check_limits(&self) -> Result<(), ClusterError> {
        let state = self.state.lock().expect("no holder panics");
        let most = state
            .snapshot
            .pods
            .len()
            .max(state.snapshot.workloads.len());
        if most <= self.client.limits().max_list_items {
            return Ok(());
        }
        let cause = "it has more workloads or pods than are followed".to_owned();
        Err(ClusterError::Refused {
            place: self.client.cluster_name().to_owned(),
            code: ProblemCode::ListTooLong,
            cause,
        })
    }
}

impl WatchState {
    fn put_object(&mut self, record: WatchedObject) {
        match record {
            WatchedObject::Pod(pod) => self.snapshot.put_pod(pod),
            WatchedObject::Workload(record) => self.put_if_newer(record),
        }
    }

    /// Stores a workload unless the known one is newer. An event that was sent before our own write
    /// was answered must not undo that answer.
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
                self.snapshot.workloads.remove(&WorkloadRef {
                    namespace,
                    kind,
                    name,
                });
            }
        }
    }

    /// Takes over a complete list. An object that it does not contain was deleted while no watch
    /// was open.
    fn replace_listed(&mut self, what: WatchedKind, records: Vec<WatchedObject>) {
        let named: BTreeSet<_> = records.iter().map(WatchedObject::object_key).collect();
        for record in records {
            self.put_object(record);
        }
        let known: Vec<(String, String)> = match what {
            WatchedKind::Pods => self.snapshot.pods.keys().cloned().collect(),
            WatchedKind::Workloads(kind) => {
                let of_kind = self
                    .snapshot
                    .workloads
                    .keys()
                    .filter(|workload| workload.kind == kind);
                of_kind
                    .map(|workload| (workload.namespace.clone(), workload.name.clone()))
                    .collect()
            }
        };
        for key in known.iter().filter(|key| !named.contains(*key)) {
            self.remove_object(what, key);
        }
        self.complete.insert(what);
    }
}

/// Returns whether a version is older than the known one of the same object. Resource versions of
/// one object grow, and are numbers wherever etcd stores them; they are compared only for the same
/// object.
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
