//! Reads the pods of a member, and compares them with what an upgrade should have made of them.

use std::collections::BTreeMap;

use anyhow::bail;
use serde_json::Value;

use super::odd_workloads::{Expectation, ODD_WORKLOADS, ProxyImage};
use super::{ZOO_CLUSTER, workload_of};
use crate::Result;
use crate::assertions::{MEMBER_CLUSTERS, MESHED_NAMESPACES, text_at};
use crate::lab::Lab;
use crate::scenario::LabRelease;

/// State of a pod as its API server shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodState {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// Revision that injected the pod; empty for a pod without a sidecar.
    pub(super) revision: String,
    /// Image of the sidecar; empty for a pod without one.
    pub(super) image: String,
    /// Whether the pod still runs. A terminating pod does.
    pub(super) live: bool,
    pub(super) ready: bool,
}

impl PodState {
    fn from_object(pod: &Value) -> Self {
        let text = |pointer: &str| text_at(pod, pointer).to_owned();
        let containers = ["/spec/initContainers", "/spec/containers"]
            .into_iter()
            .filter_map(|list| pod.pointer(list)?.as_array())
            .flatten();
        let sidecar = containers
            .filter(|container| container["name"] == "istio-proxy")
            .map(|container| text_at(container, "/image").to_owned())
            .next();
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        Self {
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
            uid: text("/metadata/uid"),
            revision: text("/metadata/annotations/istio.io~1rev"),
            image: sidecar.unwrap_or_default(),
            live: !matches!(text_at(pod, "/status/phase"), "Succeeded" | "Failed"),
            ready: conditions
                .into_iter()
                .flatten()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True"),
        }
    }

    pub(super) fn key(&self) -> (String, String) {
        (self.namespace.clone(), self.name.clone())
    }
}

/// Lists the pods of a member, in the order of their namespaces and names.
pub(super) fn list_pods(lab: &Lab, member: &str) -> Result<Vec<PodState>> {
    let mut pods: Vec<PodState> = lab
        .list_objects(member, &["pods", "-A"])?
        .iter()
        .map(PodState::from_object)
        .collect();
    pods.sort_by_key(PodState::key);
    Ok(pods)
}

/// Returns the ids of the pods that no upgrade may replace: those outside the mesh, and those that
/// have ended.
pub(super) fn list_unchangeable_pods(lab: &Lab) -> Result<BTreeMap<(String, String), String>> {
    let keep = |pod: &PodState| {
        workload_of(pod).is_some_and(|odd| {
            matches!(odd.expected, Expectation::Untouched | Expectation::Finished)
        }) || pod.namespace == "unmeshed"
    };
    let pods = list_pods(lab, ZOO_CLUSTER)?;
    let kept = pods.into_iter().filter(|pod| keep(pod));
    Ok(kept.map(|pod| (pod.key(), pod.uid)).collect())
}

/// Checks every live pod of both members: it carries this revision and the image that its template
/// asks for. Workloads that `skip` selects may carry any revision.
pub(super) fn check_revisions(
    lab: &Lab,
    release: LabRelease,
    skip: impl Fn(Expectation) -> bool,
) -> Result<()> {
    let mut wrong = Vec::new();
    for member in MEMBER_CLUSTERS {
        for pod in list_pods(lab, member)?.iter().filter(|pod| pod.live) {
            let odd = workload_of(pod).filter(|_| member == ZOO_CLUSTER);
            if odd.is_some_and(|odd| skip(odd.expected)) {
                continue;
            }
            let image = if MESHED_NAMESPACES.contains(&pod.namespace.as_str()) {
                Some(ProxyImage::Release)
            } else {
                odd.and_then(super::OddWorkload::proxy_image)
            };
            let image = image.map(|image| image.of_release(release));
            let revision = image.as_ref().map_or("", |_| release.1);
            if pod.revision != revision || pod.image != image.unwrap_or_default() {
                wrong.push(format!(
                    "{}/{} in {member} has {:?} with {:?}",
                    pod.namespace, pod.name, pod.revision, pod.image
                ));
            }
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!(
        "{} live pods are not as {} makes them: {}",
        wrong.len(),
        release.1,
        wrong.join(", ")
    )
}

/// Returns the workloads of the zoo that do not have their pods. `wanted` gives the fewest ready
/// pods of a workload.
pub(super) fn list_incomplete_workloads(
    lab: &Lab,
    wanted: impl Fn(&super::OddWorkload) -> usize,
) -> Result<Vec<String>> {
    let pods = list_pods(lab, ZOO_CLUSTER)?;
    let incomplete = ODD_WORKLOADS.iter().filter_map(|odd| {
        let owned = pods
            .iter()
            .filter(|pod| pod.namespace == odd.namespace && odd.owns_pod(&pod.name));
        // The pods of this namespace crash, so they are never ready.
        let crashes = odd.namespace == "sandbox";
        let count = owned
            .filter(|pod| pod.live && (pod.ready || crashes))
            .count();
        (count < wanted(odd)).then(|| format!("{}/{} has {count}", odd.namespace, odd.name))
    });
    Ok(incomplete.collect())
}

/// Describes the live pods of each workload of the zoo in a line, for the text of a failure.
pub(super) fn describe_zoo(lab: &Lab) -> String {
    let pods = match list_pods(lab, ZOO_CLUSTER) {
        Ok(pods) => pods,
        Err(error) => return format!("the pods cannot be listed: {error:#}"),
    };
    let mut counts: BTreeMap<(String, &str, String, String), usize> = BTreeMap::new();
    for pod in pods.into_iter().filter(|pod| pod.live) {
        if let Some(odd) = workload_of(&pod) {
            *counts
                .entry((pod.namespace, odd.name, pod.revision, pod.image))
                .or_default() += 1;
        }
    }
    let line = |((namespace, name, revision, image), count): (&(_, _, _, _), &usize)| {
        format!("{count} pods of {namespace}/{name} have {revision:?} with {image:?}")
    };
    counts.iter().map(line).collect::<Vec<_>>().join("\n")
}
