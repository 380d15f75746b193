//! Answers for workloads whose new pod is refused only because a `ResourceQuota` is used up.
//!
//! Such a refusal does not prove that a restart would fail: most workloads delete an old pod before
//! they create a new one, and the new pod gets the part of the quota that the old one leaves. For
//! these workloads the labels tell which revision injects, and a probe pod in the mesh's own
//! namespace, for which we set no quota, shows that revision's image.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _};
use meshwright_model::Name;
use meshwright_model::injection::{Injection, NamespaceLabels, PodLabels, injected_by};
use meshwright_model::plan::{Sidecar, WorkloadKind, WorkloadRef};
use meshwright_model::version::RevisionName;
use meshwright_rollout::plan::data_plane::REV_LABEL;
use meshwright_rollout::ports::{ClusterError, NextPod, TeardownInspection as _};
use serde_json::Value;

use super::{InjectionClass, MAX_CONCURRENT_REQUESTS, PROXY_CONFIGS_PATH, TemplatePod};
use crate::client::{ClusterClient, is_exceeded_quota};
use crate::labels::SIDECAR_INJECT_LABEL;
use crate::mesh::records::namespace_labels;
use crate::mesh::{KubernetesMesh, text_at};
use crate::probe::probe_sidecar;

/// Percentage of its pods that a Deployment may lose first if it does not say so.
const DEFAULT_UNAVAILABLE_PERCENT: i64 = 25;
/// Annotations of a pod by which the injector gives it no sidecar or another image.
const DECIDING_ANNOTATIONS: [&str; 4] = [
    "sidecar.istio.io/inject",
    "sidecar.istio.io/proxyImage",
    "sidecar.istio.io/proxyImageType",
    "inject.istio.io/templates",
];
/// Annotation with the settings of a pod's proxy. One of them is the type of its image.
const PROXY_CONFIG_ANNOTATION: &str = "proxy.istio.io/config";

/// Returns whether a restart of a workload deletes a pod before it creates one.
pub(super) fn deletes_first(kind: WorkloadKind, object: &Value) -> bool {
    let spec = &object["spec"];
    match kind {
        WorkloadKind::StatefulSet => true,
        WorkloadKind::DaemonSet => {
            !is_zero(&spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"])
        }
        WorkloadKind::Deployment => {
            let (strategy, replicas) = (&spec["strategy"], spec["replicas"].as_i64().unwrap_or(1));
            let rolling = &strategy["rollingUpdate"];
            // Without a surge, Kubernetes deletes one pod first even if `maxUnavailable` is rounded
            // down to zero.
            strategy["type"] == "Recreate"
                || is_zero(&rolling["maxSurge"])
                || round_down(&rolling["maxUnavailable"], replicas) >= 1
        }
    }
}

/// Returns whether a number or percentage of pods is zero.
fn is_zero(bound: &Value) -> bool {
    bound.as_i64() == Some(0) || bound.as_str() == Some("0%")
}

/// Converts `maxUnavailable` of a Deployment into a number of pods, as Kubernetes does.
fn round_down(bound: &Value, replicas: i64) -> i64 {
    let percent = |text: &str| text.strip_suffix('%')?.parse().ok();
    let percent = match bound {
        Value::Number(pods) => return pods.as_i64().unwrap_or(0),
        Value::String(text) => percent(text).unwrap_or(0),
        _ => DEFAULT_UNAVAILABLE_PERCENT,
    };
    replicas.saturating_mul(percent) / 100
}

/// Replaces the refusals by a quota that a restart would free itself by the sidecars that the
/// labels give. A refusal stays if the labels do not tell the sidecar.
pub(super) async fn replace_quota_refusals(
    mesh: &KubernetesMesh,
    member: &Name,
    pods: &[TemplatePod],
    answers: &mut BTreeMap<WorkloadRef, NextPod>,
) -> Result<(), ClusterError> {
    let refused: Vec<&TemplatePod> = pods
        .iter()
        .filter(|asked| asked.deletes_first)
        .filter(|asked| is_quota_refusal(&answers[&asked.workload]))
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    let client = &mesh.find_member(member)?.client;
    let (injectors, labels) = tokio::try_join!(
        mesh.list_injectors(member),
        read_namespaces(client, &refused)
    )?;
    let mut by_revision: BTreeMap<RevisionName, Vec<&TemplatePod>> = BTreeMap::new();
    for asked in refused {
        let Some(namespace) = &labels[&asked.workload.namespace] else {
            continue;
        };
        match injected_by(namespace, &pod_labels(&asked.pod), &injectors) {
            Injection::NotInjected(_) => {
                answers.insert(asked.workload.clone(), NextPod::NotInjected);
            }
            Injection::Injected(revision) => by_revision.entry(revision).or_default().push(asked),
            Injection::Ambiguous(_) => {}
        }
    }
    answers.extend(ask_revisions(mesh, client, by_revision).await?);
    Ok(())
}

fn is_quota_refusal(answer: &NextPod) -> bool {
    matches!(answer, NextPod::Refused(cause) if is_exceeded_quota(cause))
}

/// Reads the labels of the pods' namespaces. A namespace that is gone has none.
async fn read_namespaces(
    client: &ClusterClient,
    pods: &[&TemplatePod],
) -> Result<BTreeMap<String, Option<NamespaceLabels>>, ClusterError> {
    let names: BTreeSet<String> = pods
        .iter()
        .map(|asked| asked.workload.namespace.clone())
        .collect();
    let reads = names.into_iter().map(|name| async move {
        let namespace = client.get(&format!("/api/v1/namespaces/{name}")).await?;
        Ok((name, namespace.as_ref().map(namespace_labels)))
    });
    let reads: Vec<_> = reads.collect();
    futures::stream::iter(reads)
        .buffer_unordered(MAX_CONCURRENT_REQUESTS)
        .try_collect()
        .await
}

/// Asks each revision for the sidecar of the pods that it injects. Pods that may get another image
/// than a probe pod have no answer here.
async fn ask_revisions(
    mesh: &KubernetesMesh,
    client: &ClusterClient,
    by_revision: BTreeMap<RevisionName, Vec<&TemplatePod>>,
) -> Result<BTreeMap<WorkloadRef, NextPod>, ClusterError> {
    let mut answers = BTreeMap::new();
    if by_revision.is_empty() {
        return Ok(answers);
    }
    let imaged = list_namespaces_with_images(client).await?;
    for (revision, pods) in by_revision {
        let plain = |asked: &&TemplatePod| {
            gets_usual_sidecar(asked) && !imaged.contains(&asked.workload.namespace)
        };
        let pods: Vec<&TemplatePod> = pods.into_iter().filter(plain).collect();
        if pods.is_empty() {
            continue;
        }
        let Some(sidecar) = probe_sidecar(client, mesh.namespace(), &revision).await? else {
            continue;
        };
        let injected = |sidecar: &Sidecar| NextPod::Injected(sidecar.clone());
        answers.extend(
            pods.iter()
                .map(|asked| (asked.workload.clone(), injected(&sidecar))),
        );
    }
    Ok(answers)
}

/// Lists the namespaces in which a `ProxyConfig` sets the image of proxies.
async fn list_namespaces_with_images(
    client: &ClusterClient,
) -> Result<BTreeSet<String>, ClusterError> {
    let namespace = |config: &Value| {
        config.pointer("/spec/image")?;
        text_at(config, "/metadata/namespace").map(str::to_owned)
    };
    let listed = client
        .list_mapped(PROXY_CONFIGS_PATH, "", namespace)
        .await?;
    Ok(listed.items.into_iter().flatten().collect())
}

/// Returns whether a pod gets the same sidecar as any other pod of its revision: nothing in its
/// template opts out or changes the image.
fn gets_usual_sidecar(asked: &TemplatePod) -> bool {
    let class = InjectionClass::of_pod(asked, &BTreeSet::new());
    let decides = |(key, value): (&String, &String)| {
        DECIDING_ANNOTATIONS.contains(&key.as_str())
            || (key == PROXY_CONFIG_ANNOTATION && value.contains("image"))
    };
    !class.host_network && class.proxies.is_empty() && !class.annotations.iter().any(decides)
}

fn pod_labels(pod: &Value) -> PodLabels {
    let label = |key: &str| pod["metadata"]["labels"][key].as_str().map(str::to_owned);
    PodLabels {
        inject: label(SIDECAR_INJECT_LABEL),
        rev: label(REV_LABEL),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_deployment_deletes_first_if_it_may_lose_a_pod() {
        let rolling = |replicas: i64, unavailable: Value, surge: Value| {
            let rolling = json!({ "maxUnavailable": unavailable, "maxSurge": surge });
            let strategy = json!({ "type": "RollingUpdate", "rollingUpdate": rolling });
            let object = json!({ "spec": { "replicas": replicas, "strategy": strategy } });
            deletes_first(WorkloadKind::Deployment, &object)
        };
        assert!(rolling(4, json!("25%"), json!("25%")));
        assert!(rolling(4, Value::Null, Value::Null));
        assert!(rolling(1, json!(1), json!(1)));
        assert!(rolling(3, json!("25%"), json!(0)), "Kubernetes takes one");
        assert!(!rolling(3, json!("25%"), json!("25%")));
        assert!(!rolling(9, json!(0), json!(1)));
        assert!(!rolling(9, json!("0%"), json!(1)));
        assert!(!deletes_first(WorkloadKind::Deployment, &json!({})));
        let recreate = json!({ "spec": { "strategy": { "type": "Recreate" } } });
        assert!(deletes_first(WorkloadKind::Deployment, &recreate));
    }

    #[test]
    fn a_set_deletes_first_unless_it_surges() {
        assert!(deletes_first(WorkloadKind::StatefulSet, &json!({})));
        assert!(deletes_first(WorkloadKind::DaemonSet, &json!({})));
        let surge = json!({ "maxUnavailable": 0, "maxSurge": 1 });
        let surge = json!({ "spec": { "updateStrategy": { "rollingUpdate": surge } } });
        assert!(!deletes_first(WorkloadKind::DaemonSet, &surge));
    }
}
