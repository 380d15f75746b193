//! Workloads and their pods, read once for each look of the engine, however many workloads are under way.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use model::Name;
use model::operation::Problem;
use model::plan::{Sidecar, WorkloadKind, WorkloadRef};
use rollout::ports::{Settled, WorkloadSeen, WorldError};
use serde_json::Value;

use super::single::STAMP;
use super::{MemberDoor, mark_of, number, text};

/// One reading of a member's workloads and pods.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) workloads: BTreeMap<WorkloadRef, Value>,
    pub(super) pods: Vec<Value>,
    /// The pods of each workload, by their index.
    owned: HashMap<WorkloadRef, Vec<usize>>,
}

/// The readings that are still fresh.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    fresh: Mutex<BTreeMap<Name, Arc<Snapshot>>>,
    /// One reading at a time: whoever comes second takes the first one's.
    turn: tokio::sync::Mutex<()>,
}

impl Snapshots {
    pub(super) fn forget(&self) {
        self.fresh.lock().expect("no holder panics").clear();
    }

    fn known(&self, member: &Name) -> Option<Arc<Snapshot>> {
        self.fresh.lock().expect("no holder panics").get(member).cloned()
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
        self.fresh.lock().expect("no holder panics").insert(member.name.clone(), read.clone());
        Ok(read)
    }
}

const KINDS: [(WorkloadKind, &str, &str); 3] = [
    (WorkloadKind::Deployment, "Deployment", "deployments"),
    (WorkloadKind::StatefulSet, "StatefulSet", "statefulsets"),
    (WorkloadKind::DaemonSet, "DaemonSet", "daemonsets"),
];

impl Snapshot {
    async fn read(member: &MemberDoor) -> Result<Self, WorldError> {
        let list = |plural: &'static str| async move { member.door.list(&format!("/apis/apps/v1/{plural}"), "").await };
        let pods = async { member.door.list("/api/v1/pods", "").await };
        let (deployments, sets, daemons, pods) =
            tokio::try_join!(list("deployments"), list("statefulsets"), list("daemonsets"), pods)?;
        let mut workloads = BTreeMap::new();
        for ((kind, ..), objects) in KINDS.into_iter().zip([deployments, sets, daemons]) {
            for object in objects {
                let part = |pointer: &str| text(&object, pointer).unwrap_or_default().to_owned();
                workloads.insert(
                    WorkloadRef { namespace: part("/metadata/namespace"), kind, name: part("/metadata/name") },
                    object,
                );
            }
        }
        let mut owned: HashMap<WorkloadRef, Vec<usize>> = HashMap::new();
        for (index, pod) in pods.iter().enumerate() {
            if let Some(owner) = owner(pod) {
                owned.entry(owner).or_default().push(index);
            }
        }
        Ok(Self { workloads, pods, owned })
    }

    /// The live pods of a workload. Finished ones never count; one that is ending still does, for it still runs.
    pub(super) fn live(&self, workload: &WorkloadRef) -> Vec<&Value> {
        let pods = self.owned.get(workload).map(Vec::as_slice).unwrap_or_default();
        pods.iter().map(|index| &self.pods[*index]).filter(|pod| is_live(pod)).collect()
    }

    /// Live pods that no workload of a kind that we know owns.
    pub(super) fn unowned(&self) -> impl Iterator<Item = &Value> {
        self.pods
            .iter()
            .filter(|pod| is_live(pod) && owner(pod).is_none_or(|owner| !self.workloads.contains_key(&owner)))
    }

    pub(super) fn workload(&self, workload: &WorkloadRef) -> Option<WorkloadSeen> {
        let object = self.workloads.get(workload)?;
        Some(WorkloadSeen {
            stamp: stamp(object),
            mark: mark_of(Some(object)),
            live: self.live(workload).into_iter().map(sidecar).collect(),
            rolled: rolled(workload, object),
        })
    }
}

pub(super) fn stamp(object: &Value) -> Option<String> {
    object["spec"]["template"]["metadata"]["annotations"][STAMP].as_str().map(str::to_owned)
}

/// Finished pods never count.
pub(super) fn is_live(pod: &Value) -> bool {
    !matches!(text(pod, "/status/phase"), Some("Succeeded" | "Failed"))
}

/// What a pod was injected with: its annotation and the image of its proxy. A label would only say what was asked for.
pub(super) fn sidecar(pod: &Value) -> Option<Sidecar> {
    let revision = text(pod, "/metadata/annotations/istio.io~1rev")?.parse().ok()?;
    let containers = ["/spec/containers", "/spec/initContainers"]
        .into_iter()
        .filter_map(|pointer| pod.pointer(pointer)?.as_array())
        .flatten();
    let proxy = containers.into_iter().find(|container| container["name"] == "istio-proxy")?;
    Some(Sidecar { revision, image: proxy["image"].as_str()?.to_owned() })
}

/// The workload that a pod belongs to. A `ReplicaSet`'s name is its Deployment's, a dash, and the template's hash.
fn owner(pod: &Value) -> Option<WorkloadRef> {
    let owners = pod.pointer("/metadata/ownerReferences")?.as_array()?;
    let controller = owners.iter().find(|owner| owner["controller"] == true)?;
    let (kind, name) = (controller["kind"].as_str()?, controller["name"].as_str()?);
    let (kind, name) = match kind {
        "ReplicaSet" => {
            let hash = text(pod, "/metadata/labels/pod-template-hash")?;
            (WorkloadKind::Deployment, name.strip_suffix(hash)?.strip_suffix('-')?)
        }
        "StatefulSet" => (WorkloadKind::StatefulSet, name),
        "DaemonSet" => (WorkloadKind::DaemonSet, name),
        _ => return None,
    };
    Some(WorkloadRef { namespace: text(pod, "/metadata/namespace")?.to_owned(), kind, name: name.to_owned() })
}

/// Whether the newest template runs everywhere, by the rules that `kubectl rollout status` follows.
fn rolled(workload: &WorkloadRef, object: &Value) -> Settled {
    if number(object, "/status/observedGeneration") < number(object, "/metadata/generation") {
        return Settled::NotYet("its controller has not seen the change yet".into());
    }
    let status = |field: &str| number(object, &format!("/status/{field}"));
    let (wanted, updated, ready) = match workload.kind {
        WorkloadKind::Deployment => {
            if let Some(problem) = gave_up(workload, object) {
                return Settled::Failing(problem);
            }
            if status("replicas") > status("updatedReplicas") {
                return Settled::NotYet(format!(
                    "{} old pods are still there",
                    status("replicas") - status("updatedReplicas")
                ));
            }
            (
                object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1),
                status("updatedReplicas"),
                status("availableReplicas"),
            )
        }
        WorkloadKind::StatefulSet => (
            object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1),
            status("updatedReplicas"),
            status("readyReplicas"),
        ),
        WorkloadKind::DaemonSet => {
            (status("desiredNumberScheduled"), status("updatedNumberScheduled"), status("numberAvailable"))
        }
    };
    if updated >= wanted && ready >= wanted {
        return Settled::Yes;
    }
    Settled::NotYet(format!("{updated} of {wanted} pods are new, {ready} are ready"))
}

/// Kubernetes itself gives a Deployment up after its `progressDeadlineSeconds`.
fn gave_up(workload: &WorkloadRef, object: &Value) -> Option<Problem> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    conditions
        .iter()
        .find(|condition| condition["type"] == "Progressing" && condition["reason"] == "ProgressDeadlineExceeded")?;
    let hint = "Look at the workload's pods; retry when they can become ready, or roll back.";
    Some(Problem::new("workload_not_ready", format!("{workload} exceeded its progress deadline."), hint))
}
