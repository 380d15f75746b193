//! Watches on a member's workloads and pods: while a roll-out is under way its state comes from here and not from asking.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, utils::Backoff, watcher as watch};
use model::Name;
use model::plan::{WorkloadKind, WorkloadRef};
use rollout::ports::{Mark, WorkloadSeen, WorldError};
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::MemberDoor;
use super::data_plane::{KINDS, Snapshot};
use super::records::{PodRecord, WorkloadRecord};

/// How long the first lists may take.
const FIRST: Duration = Duration::from_secs(20);
/// After so long without an event the cluster is asked whether it is there at all.
const QUIET: Duration = Duration::from_secs(5);
/// Between two attempts to open a watch that has failed.
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
    complete: Vec<Watched>,
    /// What a list in progress has named so far; what it does not name is gone.
    listing: Vec<(Watched, Vec<(String, String)>)>,
    failed: Option<String>,
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
        let kinds = KINDS.map(|(kind, name, plural)| (Watched::Workloads(kind), "apps", name, plural));
        let all = kinds.into_iter().chain([(Watched::Pods, "", "Pod", "pods")]);
        let tasks = all
            .map(|(what, group, kind, plural)| {
                let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural);
                let api: Api<DynamicObject> = Api::all_with(member.door.client(), &resource);
                let events = watch(api, watcher::Config::default()).backoff(Steady);
                AbortOnDropHandle::new(tokio::spawn(follow(what, events, state.clone(), changed.clone())))
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
                    if let Some(cause) = &state.failed {
                        return Err(cause.clone());
                    }
                }
                // A notice that came between the look and the wait is missed: look again soon in any case.
                tokio::time::timeout(Duration::from_millis(100), notified).await.ok();
            }
        };
        let silent = |cause: String| WorldError::Unreachable { place: member.name.to_string(), cause };
        let waited = tokio::time::timeout(FIRST, complete).await;
        waited.map_err(|_| silent("its workloads were not listed in time".into()))?.map_err(silent)
    }

    /// Silence is no proof that nothing happens: the cluster may be gone.
    async fn certain(&self, member: &MemberDoor) -> Result<(), WorldError> {
        let (failed, quiet) = {
            let state = self.state.lock().expect("no holder panics");
            (state.failed.clone(), state.heard.is_none_or(|heard| heard.elapsed() > QUIET))
        };
        if let Some(cause) = failed {
            return Err(WorldError::Unreachable { place: member.name.to_string(), cause });
        }
        if quiet {
            member.door.get("/version").await?;
            self.state.lock().expect("no holder panics").heard = Some(Instant::now());
        }
        Ok(())
    }
}

async fn follow(
    what: Watched,
    events: impl Stream<Item = watcher::Result<Event<DynamicObject>>>,
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        state.lock().expect("no holder panics").take(what, event);
        changed.notify_waiters();
    }
}

impl State {
    fn take(&mut self, what: Watched, event: watcher::Result<Event<DynamicObject>>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a watch failed; it is opened again");
                self.failed = Some("its workloads cannot be watched".into());
                return;
            }
        };
        (self.failed, self.heard) = (None, Some(Instant::now()));
        match event {
            Event::Init => {
                self.listing.retain(|(other, _)| *other != what);
                self.listing.push((what, Vec::new()));
            }
            Event::InitApply(object) => {
                let key = key(&object);
                if let Some((_, named)) = self.listing.iter_mut().find(|(other, _)| *other == what) {
                    named.push(key);
                }
                self.put(what, object);
            }
            Event::InitDone => self.listed(what),
            Event::Apply(object) => self.put(what, object),
            Event::Delete(object) => self.remove(what, &key(&object)),
        }
    }

    fn put(&mut self, what: Watched, object: DynamicObject) {
        let Ok(object) = serde_json::to_value(object) else { return };
        match what {
            Watched::Pods => self.snapshot.put_pod(PodRecord::of(&object)),
            Watched::Workloads(kind) => self.put_newer(WorkloadRecord::of(kind, &object)),
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

    /// A list is complete: what it did not name went away while nobody watched.
    fn listed(&mut self, what: Watched) {
        let at = self.listing.iter().position(|(other, _)| *other == what);
        let named = at.map(|at| self.listing.swap_remove(at).1).unwrap_or_default();
        let known: Vec<(String, String)> = match what {
            Watched::Pods => self.snapshot.pods.keys().cloned().collect(),
            Watched::Workloads(kind) => {
                let of_kind = self.snapshot.workloads.keys().filter(|workload| workload.kind == kind);
                of_kind.map(|workload| (workload.namespace.clone(), workload.name.clone())).collect()
            }
        };
        let named: std::collections::BTreeSet<_> = named.into_iter().collect();
        known.iter().filter(|key| !named.contains(*key)).for_each(|key| self.remove(what, key));
        if !self.complete.contains(&what) {
            self.complete.push(what);
        }
    }
}

fn key(object: &DynamicObject) -> (String, String) {
    let metadata = &object.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
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

/// A watch that failed is opened again at this pace: a person may be waiting for a cluster to come back.
#[derive(Debug)]
struct Steady;

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(AGAIN)
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}
