//! Watches on a member's workloads and pods: while a roll-out is under way its state comes from here and not from asking.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use model::Name;
use model::plan::{WorkloadKind, WorkloadRef};
use rollout::ports::{Mark, WorkloadSeen, WorldError};
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::data_plane::{KINDS, Snapshot};
use super::records::{PodRecord, WorkloadRecord};
use super::{MemberDoor, text};
use crate::door::Door;

/// How long the first lists may take.
const FIRST: Duration = Duration::from_secs(20);
/// After so long without an event the cluster is asked whether it is there at all.
const QUIET: Duration = Duration::from_secs(5);
/// Pause before a watch that failed is opened again: a person may be waiting for a cluster to come back.
const AGAIN: Duration = Duration::from_secs(1);

/// What is watched: pods, and the kinds that own them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Watched {
    Pods,
    Workloads(WorkloadKind),
}

#[derive(Debug, Default)]
struct State {
    snapshot: Snapshot,
    /// Which lists are complete.
    complete: BTreeSet<Watched>,
    failed: Option<WorldError>,
    heard: Option<Instant>,
}

/// One member's watches; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Live {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// The members that are watched, from the first question about a workload on.
#[derive(Debug, Default)]
pub(super) struct Watches {
    open: Mutex<BTreeMap<Name, Arc<Live>>>,
    changed: Arc<Notify>,
}

impl Watches {
    fn of(&self, member: &MemberDoor) -> Arc<Live> {
        let mut open = self.open.lock().expect("no holder panics");
        open.entry(member.name.clone()).or_insert_with(|| Arc::new(Live::open(member, &self.changed))).clone()
    }

    /// A workload as the watches show it.
    pub(super) async fn workload(
        &self,
        member: &MemberDoor,
        workload: &WorkloadRef,
    ) -> Result<Option<WorkloadSeen>, WorldError> {
        let live = self.of(member);
        live.ready(member).await?;
        live.certain(member).await?;
        let state = live.state.lock().expect("no holder panics");
        Ok(state.snapshot.workload(workload))
    }

    /// Takes in what the cluster answered to a write, so that the next look does not show the time before it.
    pub(super) fn answered(&self, member: &Name, kind: WorkloadKind, object: &Value) {
        if let Some(live) = self.open.lock().expect("no holder panics").get(member) {
            live.state.lock().expect("no holder panics").put_newer(WorkloadRecord::of(kind, object));
        }
    }

    /// Returns when a watch has brought something; never, while nothing is watched.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Live {
    fn open(member: &MemberDoor, changed: &Arc<Notify>) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let kinds = KINDS.map(|(kind, _, plural)| (Watched::Workloads(kind), format!("/apis/apps/v1/{plural}")));
        let all = kinds.into_iter().chain([(Watched::Pods, "/api/v1/pods".to_owned())]);
        let tasks = all
            .map(|(what, path)| {
                let feed =
                    Feed { what, path, door: member.door.clone(), state: state.clone(), changed: changed.clone() };
                AbortOnDropHandle::new(tokio::spawn(feed.follow()))
            })
            .collect();
        Self { state, changed: changed.clone(), _tasks: tasks }
    }

    /// Waits for the first lists.
    async fn ready(&self, member: &MemberDoor) -> Result<(), WorldError> {
        let complete = async {
            loop {
                let notified = self.changed.notified();
                {
                    let state = self.state.lock().expect("no holder panics");
                    if state.complete.len() == KINDS.len() + 1 {
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
        let waited = tokio::time::timeout(FIRST, complete).await;
        waited.map_err(|_| WorldError::silent(member.name.as_str(), "its workloads were not listed in time"))?
    }

    /// Silence is no proof that nothing happens: the cluster may be gone.
    async fn certain(&self, member: &MemberDoor) -> Result<(), WorldError> {
        let (failed, quiet) = {
            let state = self.state.lock().expect("no holder panics");
            (state.failed.clone(), state.heard.is_none_or(|heard| heard.elapsed() > QUIET))
        };
        if let Some(error) = failed {
            return Err(error);
        }
        if quiet {
            member.door.get("/version").await?;
            self.state.lock().expect("no holder panics").heard = Some(Instant::now());
        }
        Ok(())
    }
}

/// One list that is kept up to date by a watch.
struct Feed {
    what: Watched,
    path: String,
    door: Door,
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

/// An object as far as it is kept.
enum Record {
    Pod(PodRecord),
    Workload(WorkloadRecord),
}

impl Record {
    fn of(what: Watched, object: &Value) -> Self {
        match what {
            Watched::Pods => Self::Pod(PodRecord::of(object)),
            Watched::Workloads(kind) => Self::Workload(WorkloadRecord::of(kind, object)),
        }
    }

    fn key(&self) -> (String, String) {
        match self {
            Self::Pod(pod) => pod.key(),
            Self::Workload(record) => (record.workload.namespace.clone(), record.workload.name.clone()),
        }
    }
}

impl Feed {
    /// Lists and watches until the task is aborted.
    async fn follow(self) {
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
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Returns when the cluster cannot go on from the version that was seen last.
    async fn list_and_watch(&self) -> Result<(), WorldError> {
        let listed = self.door.list_as(&self.path, "", |object| Record::of(self.what, object)).await?;
        self.take(|state| state.listed(self.what, listed.items));
        let mut version = listed.version;
        loop {
            let mut events = self.door.watch(&self.path, &version).await?;
            while let Some((kind, object)) = events.next().await? {
                match kind.as_str() {
                    "ADDED" | "MODIFIED" => self.take(|state| state.put(Record::of(self.what, &object))),
                    "DELETED" => {
                        let key = Record::of(self.what, &object).key();
                        self.take(|state| state.remove(self.what, &key));
                    }
                    "BOOKMARK" => {}
                    _ => return Ok(()),
                }
                if let Some(seen) = text(&object, "/metadata/resourceVersion") {
                    seen.clone_into(&mut version);
                }
                self.within_limits()?;
            }
            // A cluster that ends every watch at once is not asked without a pause.
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn take(&self, change: impl FnOnce(&mut State)) {
        {
            let mut state = self.state.lock().expect("no holder panics");
            (state.failed, state.heard) = (None, Some(Instant::now()));
            change(&mut state);
        }
        self.changed.notify_waiters();
    }

    fn within_limits(&self) -> Result<(), WorldError> {
        let state = self.state.lock().expect("no holder panics");
        let most = state.snapshot.pods.len().max(state.snapshot.workloads.len());
        if most <= self.door.limits().items {
            return Ok(());
        }
        let cause = "it has more workloads or pods than are followed".to_owned();
        Err(WorldError::Refused { place: self.door.place().to_owned(), code: "list_too_long", cause })
    }
}

impl State {
    fn put(&mut self, record: Record) {
        match record {
            Record::Pod(pod) => self.snapshot.put_pod(pod),
            Record::Workload(record) => self.put_newer(record),
        }
    }

    /// An event that was sent before our own write was answered must not undo the answer.
    fn put_newer(&mut self, record: WorkloadRecord) {
        let known = self.snapshot.workloads.get(&record.workload);
        if known.is_none_or(|known| !is_older(&record.mark, &known.mark)) {
            self.snapshot.put_workload(record);
        }
    }

    fn remove(&mut self, what: Watched, key: &(String, String)) {
        match what {
            Watched::Pods => self.snapshot.remove_pod(key),
            Watched::Workloads(kind) => {
                let (namespace, name) = key.clone();
                self.snapshot.workloads.remove(&WorkloadRef { namespace, kind, name });
            }
        }
    }

    /// A list is complete: what it does not name went away while no watch was open.
    fn listed(&mut self, what: Watched, records: Vec<Record>) {
        let named: BTreeSet<_> = records.iter().map(Record::key).collect();
        for record in records {
            self.put(record);
        }
        let known: Vec<(String, String)> = match what {
            Watched::Pods => self.snapshot.pods.keys().cloned().collect(),
            Watched::Workloads(kind) => {
                let of_kind = self.snapshot.workloads.keys().filter(|workload| workload.kind == kind);
                of_kind.map(|workload| (workload.namespace.clone(), workload.name.clone())).collect()
            }
        };
        for key in known.iter().filter(|key| !named.contains(*key)) {
            self.remove(what, key);
        }
        self.complete.insert(what);
    }
}

/// Resource versions of one object grow; they are numbers wherever etcd keeps them, and only compared for the same object.
fn is_older(this: &Mark, known: &Mark) -> bool {
    let parts = |mark: &Mark| {
        let (uid, version) = mark.0.split_once('/')?;
        Some((uid.to_owned(), version.parse::<u64>().ok()?))
    };
    match (parts(this), parts(known)) {
        (Some((uid, this)), Some((known_uid, known))) => uid == known_uid && this < known,
        _ => false,
    }
}
