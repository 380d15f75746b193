//! Checks the end state of the lab with kubectl and audit logs, never with answers of our own
//! service.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::Result;
use crate::lab::{Lab, wait_until};

pub(crate) const MEMBER_CLUSTERS: [&str; 2] = ["c1", "c2"];
/// Namespaces of `deploy/samples.yaml` that have an injection label; one more has none.
pub(crate) const MESHED_NAMESPACES: [&str; 4] = ["shop", "billing", "search", "lab-canary"];

pub(crate) fn text_at<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Applies the sample workloads, and waits until each of their pods is ready.
pub(crate) fn deploy_samples(lab: &Lab) -> Result<()> {
    for member in MEMBER_CLUSTERS {
        lab.run_kubectl(member, &["apply", "-f", "deploy/samples.yaml"])?;
    }
    for member in MEMBER_CLUSTERS {
        wait_until("every sample is ready", Duration::from_secs(90), || {
            all_pods_ready(lab, member).ok().filter(|settled| *settled)
        })?;
    }
    Ok(())
}

fn all_pods_ready(lab: &Lab, member: &str) -> Result<bool> {
    let pods = lab.list_objects(member, &["pods", "-A"])?;
    let ready = |pod: &Value| {
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        conditions.is_some_and(|list| {
            list.iter()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        })
    };
    Ok(pods.len() >= 25 && pods.iter().all(ready))
}

/// Checks that every live pod of a labelled namespace carries this revision and this image, and
/// that no other pod has a sidecar. Returns the number of pods with a sidecar.
pub(crate) fn assert_sidecars(lab: &Lab, revision: &str, image: &str) -> Result<usize> {
    let mut count = 0;
    for member in MEMBER_CLUSTERS {
        for pod in lab.list_objects(member, &["pods", "-A"])? {
            let namespace = text_at(&pod, "/metadata/namespace");
            let name = format!(
                "{namespace}/{} in {member}",
                text_at(&pod, "/metadata/name")
            );
            let carried = text_at(&pod, "/metadata/annotations/istio.io~1rev");
            let meshed = MESHED_NAMESPACES.contains(&namespace);
            if !meshed && !carried.is_empty() {
                bail!("{name} carries a sidecar of {carried}");
            }
            if meshed && carried != revision {
                bail!("{name} carries {carried:?} where {revision} is wanted");
            }
            if meshed && !pod["spec"].to_string().contains(&format!("\"{image}\"")) {
                bail!("{name} does not run {image}");
            }
            count += usize::from(meshed);
        }
    }
    Ok(count)
}

/// Checks that no object in any cluster is named or labelled after a revision.
pub(crate) fn assert_revision_gone(lab: &Lab, revision: &str) -> Result<()> {
    let kinds = "mutatingwebhookconfigurations,validatingwebhookconfigurations,clusterroles,clusterrolebindings";
    let namespaced = "deployments,services,secrets,configmaps,roles,rolebindings,serviceaccounts,pods,leases,endpoints";
    for cluster in MEMBER_CLUSTERS.iter().chain(&["hosting"]) {
        for object in lab
            .list_objects(cluster, &[kinds])?
            .into_iter()
            .chain(lab.list_objects(cluster, &["-A", namespaced])?)
        {
            let name = text_at(&object, "/metadata/name");
            if name.contains(revision)
                || text_at(&object, "/metadata/labels/istio.io~1rev") == revision
            {
                bail!("{} {name} is left in {cluster}", text_at(&object, "/kind"));
            }
        }
    }
    Ok(())
}

/// Returns how often we have restarted each workload: the number of accepted patches with our stamp
/// in the API servers' audit logs.
pub(crate) fn restarts_per_workload(lab: &Lab) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for member in MEMBER_CLUSTERS {
        let log = lab.kubeconfig_path(member)?.with_file_name("audit.log");
        let log = std::fs::read_to_string(&log).with_context(|| log.display().to_string())?;
        for line in log
            .lines()
            .filter(|line| line.contains("meshwright.dev/restart"))
        {
            let Ok(entry) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let accepted = entry
                .pointer("/responseStatus/code")
                .and_then(Value::as_i64)
                == Some(200);
            if entry["verb"] == "patch"
                && accepted
                && entry["requestObject"]
                    .to_string()
                    .contains("meshwright.dev/restart")
            {
                *counts
                    .entry(format!(
                        "{} in {member}",
                        text_at(&entry, "/requestURI")
                            .split('?')
                            .next()
                            .unwrap_or_default()
                    ))
                    .or_default() += 1;
            }
        }
    }
    Ok(counts)
}

/// Kinds that a rollback may leave changed: custom resource definitions stay at the newer version,
/// and Kubernetes and istiod maintain the others themselves.
const KINDS_NOT_COMPARED: [&str; 9] = [
    "Pod",
    "ReplicaSet",
    "ControllerRevision",
    "Lease",
    "EndpointSlice",
    "Endpoints",
    "CustomResourceDefinition",
    "PodMetrics",
    "Node",
];

/// Returns a line of a dump without one annotation.
fn without_annotation(line: &str, annotation: &str) -> String {
    let (head, body) = line.split_at(line.find('{').unwrap_or(line.len()));
    let Ok(mut object) = serde_json::from_str::<Value>(body) else {
        return line.to_owned();
    };
    for place in [
        "/metadata/annotations",
        "/spec/template/metadata/annotations",
    ] {
        if let Some(annotations) = object.pointer_mut(place).and_then(Value::as_object_mut) {
            annotations.remove(annotation);
        }
    }
    format!("{head}{object}").replace("\"annotations\":{},", "")
}

/// Returns the lines that differ between two dumps, without the kinds and names that a rollback may
/// leave changed. Workloads in `stamped` may carry a stamp that they did not have before.
pub(crate) fn diff_dumps(before: &[String], after: &[String], stamped: &[&str]) -> Vec<String> {
    let compared = |line: &&String| {
        let mut words = line.split(' ').skip(1);
        let (kind, name) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        // Names that may differ: istiod's leader locks, its list of revoked certificates in each
        // namespace, which is new, and our inventory of the custom resource definitions.
        let locks = [
            "-leader",
            "-election",
            "istio-ip-autoallocate",
            "istio-ca-crl",
            "meshwright-definitions",
        ];
        !KINDS_NOT_COMPARED.contains(&kind) && !locks.iter().any(|lock| name.ends_with(lock))
    };
    let plain = |line: &String| {
        let line = without_annotation(line, "meshwright.dev/writer");
        let may_be_stamped = line
            .split(' ')
            .nth(2)
            .is_some_and(|name| stamped.contains(&name));
        if may_be_stamped {
            without_annotation(&line, "meshwright.dev/restart")
        } else {
            line
        }
    };
    let (before, after): (BTreeSet<String>, BTreeSet<String>) = (
        before.iter().filter(compared).map(plain).collect(),
        after.iter().filter(compared).map(plain).collect(),
    );
    let shown = |line: &String, mark: &str| format!("{mark} {line}");
    before
        .difference(&after)
        .map(|line| shown(line, "-"))
        .chain(after.difference(&before).map(|line| shown(line, "+")))
        .collect()
}
