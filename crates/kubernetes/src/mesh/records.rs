//! Defines the few fields that are kept of each workload and pod. Whole objects are never kept.

use meshwright_model::injection::{NamespaceLabels, PodLabels};
use meshwright_model::observation::RestartBlocker;
use meshwright_model::operation::Problem;
use meshwright_model::plan::{Sidecar, WorkloadKind, WorkloadRef};
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::plan::data_plane::{INJECTION_LABEL, REV_LABEL};
use meshwright_rollout::ports::{ObjectVersion, Readiness};
use serde_json::Value;

use super::{number_at, object_version, text_at};
use crate::labels::RESTART_ANNOTATION;
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
}

/// Fields of a pod as its cluster shows it.
#[derive(Debug, Clone)]
pub(super) struct PodRecord {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) owner: Option<WorkloadRef>,
    /// Whether the pod still runs. A finished pod does not; a terminating one still does.
    pub(super) live: bool,
    /// Revision that injected the pod, from the annotation `istio.io/rev`.
    pub(super) revision: Option<String>,
    pub(super) sidecar: Option<Sidecar>,
    /// Our restart stamp on the pod template that the pod was created from.
    pub(super) stamp: Option<String>,
    /// Whether the pod is being deleted.
    pub(super) terminating: bool,
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
            owner: owner_workload(object),
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
        }
    }

    pub(super) fn object_key(&self) -> (String, String) {
        (self.namespace.clone(), self.name.clone())
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
    let owned = object
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array);
    if owned.is_some_and(|owners| owners.iter().any(|owner| owner["controller"] == true)) {
        return Some(RestartBlocker::Owned);
    }
    match kind {
        WorkloadKind::Deployment => {
            (object["spec"]["paused"] == true).then_some(RestartBlocker::Paused)
        }
        WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => {
            (object["spec"]["updateStrategy"]["type"] == "OnDelete")
                .then_some(RestartBlocker::OnDelete)
        }
    }
}

/// Returns whether all pods run the newest template, by the rules of `kubectl rollout status`.
fn rollout_readiness(workload: &WorkloadRef, object: &Value) -> Readiness {
    if number_at(object, "/status/observedGeneration") < number_at(object, "/metadata/generation") {
        return Readiness::Pending("its controller has not seen the change yet".into());
    }
    let status = |field: &str| number_at(object, &format!("/status/{field}"));
    let (wanted, updated, ready) = match workload.kind {
        WorkloadKind::Deployment => {
            if let Some(problem) = deadline_problem(workload, object) {
                return Readiness::Failing(problem);
            }
            if status("replicas") > status("updatedReplicas") {
                return Readiness::Pending(format!(
                    "{} old pods are still there",
                    status("replicas") - status("updatedReplicas")
                ));
            }
            (
                object
                    .pointer("/spec/replicas")
                    .and_then(Value::as_i64)
                    .unwrap_or(1),
                status("updatedReplicas"),
                status("availableReplicas"),
            )
        }
        WorkloadKind::StatefulSet => (
            object
                .pointer("/spec/replicas")
                .and_then(Value::as_i64)
                .unwrap_or(1),
            status("updatedReplicas"),
            status("readyReplicas"),
        ),
        WorkloadKind::DaemonSet => (
            status("desiredNumberScheduled"),
            status("updatedNumberScheduled"),
            status("numberAvailable"),
        ),
    };
    if updated >= wanted && ready >= wanted {
        return Readiness::Ready;
    }
    Readiness::Pending(format!(
        "{updated} of {wanted} pods are new, {ready} are ready"
    ))
}

/// Returns a problem if Kubernetes has given a Deployment up after its `progressDeadlineSeconds`.
fn deadline_problem(workload: &WorkloadRef, object: &Value) -> Option<Problem> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|condition| {
        condition["type"] == "Progressing" && condition["reason"] == "ProgressDeadlineExceeded"
    })?;
    let hint = "Look at the workload's pods; retry when they can become ready, or roll back.";
    Some(Problem::new(
        ProblemCode::WorkloadNotReady,
        format!("{workload} exceeded its progress deadline."),
        hint,
    ))
}
