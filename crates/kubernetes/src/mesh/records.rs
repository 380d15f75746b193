//! Defines the few fields that are kept of each workload and pod. Whole objects are never kept.

use meshwright_model::injection::{NamespaceLabels, PodLabels};
use meshwright_model::observation::RestartBlocker;
use meshwright_model::operation::Problem;
use meshwright_model::plan::{Sidecar, WorkloadKind, WorkloadRef};
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::plan::data_plane::{INJECTION_LABEL, REV_LABEL};
use meshwright_rollout::ports::{LivePod, ObjectVersion, PodReadiness, Readiness};
use serde_json::Value;

use super::{number_at, object_version, text_at};
use crate::client::{explain_message, is_plain_name};
use crate::labels::RESTART_ANNOTATION;
use crate::object_fields::has_controller;
use crate::probe::injected_sidecar;

/// Fields of a workload as its cluster shows it.
#[derive(Debug, Clone)]
pub(super) struct WorkloadRecord {
    pub(super) workload: WorkloadRef,
    pub(super) mark: ObjectVersion,
    pub(super) stamp: Option<String>,
    pub(super) template: PodLabels,
    pub(super) restart_blocker: Option<RestartBlocker>,
    pub(super) rolled: Readiness,
    /// Number of pods that the newest template has made.
    pub(super) updated: usize,
    /// Whether a changed template makes the controller take the next pod at once, although an
    /// earlier one does not serve yet.
    pub(super) takes_next_at_once: bool,
}

/// Fields of a pod as its cluster shows it.
#[derive(Debug, Clone)]
pub(super) struct PodRecord {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) readiness: PodReadiness,
    pub(super) owner: Option<WorkloadRef>,
    /// Kind of the controller that created the pod.
    pub(super) controller: Option<String>,
    /// Whether the pod still runs. A finished pod does not; a terminating one still does.
    pub(super) live: bool,
    /// Revision that injected the pod, from the annotation `istio.io/rev`.
    pub(super) revision: Option<String>,
    pub(super) sidecar: Option<Sidecar>,
    /// Our restart stamp on the pod template that the pod was created from.
    pub(super) stamp: Option<String>,
    /// Whether the pod is being deleted.
    pub(super) terminating: bool,
    /// Kubernetes' reason why the pod does not run, such as `ImagePullBackOff`.
    pub(super) waiting_reason: Option<String>,
}

impl WorkloadRecord {
    pub(super) fn from_object(kind: WorkloadKind, object: &Value) -> Self {
        let part = |pointer: &str| text_at(object, pointer).unwrap_or_default().to_owned();
        let label = |pointer: &str| text_at(object, pointer).map(str::to_owned);
        let workload = WorkloadRef {
            namespace: part("/metadata/namespace"),
            kind,
            name: part("/metadata/name"),
        };
        Self {
            mark: object_version(Some(object)),
            stamp: object["spec"]["template"]["metadata"]["annotations"][RESTART_ANNOTATION]
                .as_str()
                .map(str::to_owned),
            template: PodLabels {
                inject: label("/spec/template/metadata/labels/sidecar.istio.io~1inject"),
                rev: label("/spec/template/metadata/labels/istio.io~1rev"),
            },
            restart_blocker: restart_blocker_of(kind, object),
            rolled: rollout_readiness(&workload, object),
            updated: updated_pods(kind, object),
            takes_next_at_once: takes_next_at_once(kind, object),
            workload,
        }
    }
}

impl PodRecord {
    pub(super) fn from_object(object: &Value) -> Self {
        let part = |pointer: &str| text_at(object, pointer).unwrap_or_default().to_owned();
        Self {
            namespace: part("/metadata/namespace"),
            name: part("/metadata/name"),
            uid: part("/metadata/uid"),
            readiness: pod_readiness(object),
            owner: owner_workload(object),
            controller: controller_kind(object),
            live: !matches!(
                text_at(object, "/status/phase"),
                Some("Succeeded" | "Failed")
            ),
            revision: text_at(object, "/metadata/annotations/istio.io~1rev").map(str::to_owned),
            sidecar: injected_sidecar(object),
            stamp: object["metadata"]["annotations"][RESTART_ANNOTATION]
                .as_str()
                .map(str::to_owned),
            terminating: object["metadata"].get("deletionTimestamp").is_some(),
            waiting_reason: waiting_reason(object),
        }
    }

    /// Returns the identity of the pod, as `name/uid`.
    pub(super) fn version(&self) -> ObjectVersion {
        ObjectVersion(format!("{}/{}", self.name, self.uid))
    }

    /// Returns true if a controller creates the pod again after an eviction. The eviction of a Job's
    /// pod may fail the Job, and a node creates only the pods of its own files.
    pub(super) fn is_recreated(&self) -> bool {
        let kind = self.controller.as_deref();
        kind.is_some_and(|kind| !matches!(kind, "Job" | "Node"))
    }

    /// Returns the pod in the terms of the domain.
    pub(super) fn to_live_pod(&self) -> LivePod {
        LivePod {
            version: self.version(),
            readiness: self.readiness,
            deleted: self.terminating,
            sidecar: self.sidecar.clone(),
            terminating: self.terminating,
        }
    }

    pub(super) fn object_key(&self) -> (String, String) {
        (self.namespace.clone(), self.name.clone())
    }
}

/// Returns the kind of a pod's controller.
fn controller_kind(pod: &Value) -> Option<String> {
    let owners = pod.pointer("/metadata/ownerReferences")?.as_array()?;
    let controller = owners.iter().find(|owner| owner["controller"] == true)?;
    controller["kind"].as_str().map(str::to_owned)
}

/// Returns whether a pod serves, from its condition `Ready` and the states of its containers.
fn pod_readiness(pod: &Value) -> PodReadiness {
    let mut conditions = conditions(pod);
    if conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True") {
        PodReadiness::Ready
    } else if waiting_containers(pod).next().is_some() {
        PodReadiness::Broken
    } else {
        PodReadiness::Starting
    }
}

/// Returns the labels of a namespace that decide on injection.
pub(super) fn namespace_labels(object: &Value) -> NamespaceLabels {
    let label = |key: &str| {
        object["metadata"]["labels"][key]
            .as_str()
            .map(str::to_owned)
    };
    NamespaceLabels {
        injection: label(INJECTION_LABEL),
        rev: label(REV_LABEL),
    }
}

/// Returns the workload that owns a pod. The name of a `ReplicaSet` is that of its Deployment, a
/// dash, and the hash of the template.
fn owner_workload(pod: &Value) -> Option<WorkloadRef> {
    let owners = pod.pointer("/metadata/ownerReferences")?.as_array()?;
    let controller = owners.iter().find(|owner| owner["controller"] == true)?;
    let (kind, name) = (controller["kind"].as_str()?, controller["name"].as_str()?);
    let (kind, name) = match kind {
        "ReplicaSet" => {
            let hash = text_at(pod, "/metadata/labels/pod-template-hash")?;
            (
                WorkloadKind::Deployment,
                name.strip_suffix(hash)?.strip_suffix('-')?,
            )
        }
        "StatefulSet" => (WorkloadKind::StatefulSet, name),
        "DaemonSet" => (WorkloadKind::DaemonSet, name),
        _ => return None,
    };
    Some(WorkloadRef {
        namespace: text_at(pod, "/metadata/namespace")?.to_owned(),
        kind,
        name: name.to_owned(),
    })
}

/// Returns the reason why a changed template would not replace the pods, if there is one.
fn restart_blocker_of(kind: WorkloadKind, object: &Value) -> Option<RestartBlocker> {
    if object["metadata"]["labels"]
        .get("gateway.networking.k8s.io/gateway-name")
        .is_some()
    {
        return Some(RestartBlocker::SelfRolling);
    }
    if has_controller(object) {
        return Some(RestartBlocker::Owned);
    }
    let on_delete = object["spec"]["updateStrategy"]["type"] == "OnDelete";
    match kind {
        WorkloadKind::Deployment => {
            (object["spec"]["paused"] == true).then_some(RestartBlocker::Paused)
        }
        WorkloadKind::StatefulSet | WorkloadKind::DaemonSet if on_delete => {
            Some(RestartBlocker::OnDelete)
        }
        WorkloadKind::StatefulSet => {
            keeps_old_ordinals(object).then_some(RestartBlocker::Partition)
        }
        WorkloadKind::DaemonSet => None,
    }
}

/// Returns whether a `StatefulSet` keeps pods of the old template: those whose ordinal is below the
/// partition of its rolling update.
fn keeps_old_ordinals(object: &Value) -> bool {
    number_at(object, "/spec/updateStrategy/rollingUpdate/partition")
        > number_at(object, "/spec/ordinals/start")
        && wanted_replicas(object) > 0
}

/// Returns whether a changed template makes the controller of a workload take the next pod although
/// an earlier one does not serve. A `DaemonSet` replaces pods of an earlier template that do not
/// serve beside those that its limit allows, and a `StatefulSet` in parallel takes the pod with the
/// highest ordinal first. A `StatefulSet` in order waits for each of its pods.
fn takes_next_at_once(kind: WorkloadKind, object: &Value) -> bool {
    match kind {
        WorkloadKind::Deployment => false,
        WorkloadKind::StatefulSet => object["spec"]["podManagementPolicy"] == "Parallel",
        WorkloadKind::DaemonSet => true,
    }
}

/// Returns the number of pods that the newest template has made, from the status of the workload.
fn updated_pods(kind: WorkloadKind, object: &Value) -> usize {
    let field = match kind {
        WorkloadKind::Deployment | WorkloadKind::StatefulSet => "/status/updatedReplicas",
        WorkloadKind::DaemonSet => "/status/updatedNumberScheduled",
    };
    usize::try_from(number_at(object, field)).unwrap_or(0)
}

/// Returns the number of pods that a Deployment or `StatefulSet` asks for.
fn wanted_replicas(object: &Value) -> i64 {
    let replicas = object.pointer("/spec/replicas").and_then(Value::as_i64);
    replicas.unwrap_or(1)
}

/// Returns whether all pods run the newest template, by the rules of `kubectl rollout status`. A
/// reason that Kubernetes gives for standing still follows the numbers.
fn rollout_readiness(workload: &WorkloadRef, object: &Value) -> Readiness {
    if number_at(object, "/status/observedGeneration") < number_at(object, "/metadata/generation") {
        return Readiness::Pending("its controller has not seen the change yet".into());
    }
    let failure = replica_failure(object);
    if has_exceeded_deadline(object) {
        return Readiness::Failing(deadline_problem(workload, failure));
    }
    match (missing_pods(workload.kind, object), failure) {
        (None, _) => Readiness::Ready,
        (Some(missing), None) => Readiness::Pending(missing),
        (Some(missing), Some(failure)) => Readiness::Pending(format!("{missing}; {failure}")),
    }
}

/// Returns what is missing until all pods run the newest template, as text for people.
fn missing_pods(kind: WorkloadKind, object: &Value) -> Option<String> {
    let status = |field: &str| number_at(object, &format!("/status/{field}"));
    let (wanted, updated, ready) = match kind {
        WorkloadKind::Deployment => {
            let old = status("replicas") - status("updatedReplicas");
            if old > 0 {
                return Some(format!("{old} old pods are still there"));
            }
            (
                wanted_replicas(object),
                status("updatedReplicas"),
                status("availableReplicas"),
            )
        }
        WorkloadKind::StatefulSet => (
            wanted_replicas(object),
            status("updatedReplicas"),
            status("readyReplicas"),
        ),
        WorkloadKind::DaemonSet => (
            status("desiredNumberScheduled"),
            status("updatedNumberScheduled"),
            status("numberAvailable"),
        ),
    };
    (updated < wanted || ready < wanted)
        .then(|| format!("{updated} of {wanted} pods are new, {ready} are ready"))
}

/// Returns why the controller of a workload cannot create or delete pods: Kubernetes' own reason,
/// with the cause in our words if its message has a known form.
fn replica_failure(object: &Value) -> Option<String> {
    let failure = conditions(object)
        .find(|condition| condition["type"] == "ReplicaFailure" && condition["status"] == "True")?;
    let reason = failure["reason"]
        .as_str()
        .filter(|reason| is_plain_name(reason))
        .unwrap_or("ReplicaFailure");
    let cause = failure["message"].as_str().and_then(explain_message);
    Some(match cause {
        Some(cause) => format!("{reason}: {cause}"),
        None => reason.to_owned(),
    })
}

/// Returns whether Kubernetes has given a Deployment up after its `progressDeadlineSeconds`.
fn has_exceeded_deadline(object: &Value) -> bool {
    conditions(object).any(|condition| {
        condition["type"] == "Progressing" && condition["reason"] == "ProgressDeadlineExceeded"
    })
}

/// Builds the problem of a Deployment that Kubernetes has given up.
fn deadline_problem(workload: &WorkloadRef, failure: Option<String>) -> Problem {
    let failure = failure.map_or_else(String::new, |failure| format!(" ({failure})"));
    Problem::new(
        ProblemCode::WorkloadNotReady,
        format!("{workload} exceeded its progress deadline{failure}."),
        "Look at the workload's pods; retry when they can become ready, or roll back.",
    )
}

/// Returns Kubernetes' reason why a pod does not run: it has no node, or a container waits for
/// something other than its start.
fn waiting_reason(pod: &Value) -> Option<String> {
    let unscheduled = conditions(pod)
        .filter(|condition| condition["type"] == "PodScheduled" && condition["status"] == "False")
        .filter_map(|condition| condition["reason"].as_str());
    unscheduled
        .chain(waiting_containers(pod))
        .find(|reason| is_plain_name(reason))
        .map(str::to_owned)
}

/// Returns the reasons of the containers that wait for something other than their start.
fn waiting_containers(pod: &Value) -> impl Iterator<Item = &str> {
    /// Reasons of every start.
    const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];
    ["initContainerStatuses", "containerStatuses"]
        .into_iter()
        .filter_map(|list| pod["status"][list].as_array())
        .flatten()
        .filter_map(|container| text_at(container, "/state/waiting/reason"))
        .filter(|reason| !STARTING.contains(reason))
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    let conditions = object.pointer("/status/conditions");
    conditions.and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests;
