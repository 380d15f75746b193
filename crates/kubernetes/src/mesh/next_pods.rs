//! Asks admission which sidecar new pods of workloads would get. A pod of the workload's own
//! template is sent through admission without being created, because only the cluster knows all
//! that decides: annotations that opt out, a pinned proxy image, quotas, policies, other webhooks.
//!
//! Workloads of one namespace whose templates agree in everything that injection depends on are one
//! class, and one pod is sent for all of them. A refusal may have a cause that the others do not
//! share, so the rest of a refused class is asked one by one. A refusal by a quota that the restart
//! would free itself is replaced by what the labels tell (module `quota`).

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _};
use meshwright_model::Name;
use meshwright_model::plan::{WorkloadKind, WorkloadRef};
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::{ClusterError, NextPod};
use serde_json::{Map, Value, json};

use super::data_plane::WORKLOAD_KINDS;
use super::{KubernetesMesh, text_at};
use crate::client::ClusterClient;
use crate::probe::injected_sidecar;

mod quota;

/// Maximum number of requests at once. A dry run holds a worker of the API server until all
/// webhooks have answered.
const MAX_CONCURRENT_REQUESTS: usize = 8;
/// Maximum number of namespaces of which the workloads are listed one namespace after the other.
/// With more of them, one list of the whole cluster takes fewer requests.
const MAX_LISTED_NAMESPACES: usize = 8;
/// Part of the keys of all labels and annotations that Istio's injection reads.
const ISTIO_KEY_PART: &str = "istio.io/";
/// Istio's resources that set the proxy image of the pods that they select.
const PROXY_CONFIGS_PATH: &str = "/apis/networking.istio.io/v1beta1/proxyconfigs";

/// Workload with a pod of its own template.
struct TemplatePod {
    workload: WorkloadRef,
    pod: Value,
    /// Whether a restart deletes a pod before it creates one.
    deletes_first: bool,
}

/// All that injection depends on in a pod template, in one namespace.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct InjectionClass {
    namespace: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    host_network: bool,
    /// Containers named `istio-proxy` in the template, with which the injector merges its own.
    proxies: Vec<String>,
}

/// Asks which sidecar a new pod of each workload would get.
pub(super) async fn ask_next_pods(
    mesh: &KubernetesMesh,
    member: &Name,
    workloads: &[WorkloadRef],
) -> Result<BTreeMap<WorkloadRef, NextPod>, ClusterError> {
    let client = &mesh.find_member(member)?.client;
    let pods = read_template_pods(client, workloads).await?;
    let selecting = if pods.len() > 1 {
        list_selecting_labels(client).await?
    } else {
        BTreeSet::new()
    };
    let mut classes: BTreeMap<InjectionClass, Vec<&TemplatePod>> = BTreeMap::new();
    for asked in &pods {
        let class = InjectionClass::of_pod(asked, &selecting);
        classes.entry(class).or_default().push(asked);
    }
    let first = classes.values().map(|members| members[0]);
    let mut answers = ask_admission(client, first).await?;
    let mut unshared = Vec::new();
    for members in classes.values() {
        let (first, rest) = (members[0], &members[1..]);
        match answers[&first.workload].clone() {
            NextPod::Refused(_) => unshared.extend(rest.iter().copied()),
            shared => answers.extend(
                rest.iter()
                    .map(|asked| (asked.workload.clone(), shared.clone())),
            ),
        }
    }
    answers.extend(ask_admission(client, unshared).await?);
    quota::replace_quota_refusals(mesh, member, &pods, &mut answers).await?;
    Ok(answers)
}

/// Sends pods through admission, several at once.
async fn ask_admission(
    client: &ClusterClient,
    pods: impl IntoIterator<Item = &TemplatePod>,
) -> Result<BTreeMap<WorkloadRef, NextPod>, ClusterError> {
    let asked: Vec<_> = pods
        .into_iter()
        .map(|asked| async move {
            let answer = dry_run_pod(client, &asked.pod).await?;
            Ok((asked.workload.clone(), answer))
        })
        .collect();
    futures::stream::iter(asked)
        .buffer_unordered(MAX_CONCURRENT_REQUESTS)
        .try_collect()
        .await
}

/// Sends one pod through admission.
async fn dry_run_pod(client: &ClusterClient, pod: &Value) -> Result<NextPod, ClusterError> {
    let namespace = text_at(pod, "/metadata/namespace").unwrap_or_default();
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    match client.dry_run(&path, pod).await {
        Ok(admitted) => {
            Ok(injected_sidecar(&admitted).map_or(NextPod::NotInjected, NextPod::Injected))
        }
        Err(ClusterError::Refused { code, cause, .. }) if is_answer_about_pod(code) => {
            Ok(NextPod::Refused(cause))
        }
        Err(error) => Err(error),
    }
}

/// Returns whether a refusal is the cluster's answer to the pod. All other refusals are about our
/// credential, the cluster's address or the answer itself.
fn is_answer_about_pod(code: ProblemCode) -> bool {
    matches!(
        code,
        ProblemCode::PermissionMissing | ProblemCode::ClusterRefused | ProblemCode::WebhookFailed
    )
}

/// Reads the templates of workloads and builds a pod of each. Our account may list workloads and
/// not get them, so each kind is read by lists.
async fn read_template_pods(
    client: &ClusterClient,
    workloads: &[WorkloadRef],
) -> Result<Vec<TemplatePod>, ClusterError> {
    let wanted: BTreeSet<&WorkloadRef> = workloads.iter().collect();
    let lists = WORKLOAD_KINDS.iter().flat_map(|(kind, _, plural)| {
        let of_kind = wanted.iter().filter(|workload| workload.kind == *kind);
        let queries = list_queries(plural, of_kind.copied());
        queries.into_iter().map(|query| (*kind, query))
    });
    let listed = lists.map(|(kind, (path, query))| {
        let wanted = &wanted;
        async move {
            let keep = |object: &Value| template_pod(kind, object, wanted);
            Ok::<_, ClusterError>(client.list_mapped(&path, &query, keep).await?.items)
        }
    });
    let listed: Vec<_> = listed.collect();
    let found: Vec<Vec<Option<TemplatePod>>> = futures::stream::iter(listed)
        .buffer_unordered(MAX_CONCURRENT_REQUESTS)
        .try_collect()
        .await?;
    Ok(found.into_iter().flatten().flatten().collect())
}

/// Returns the paths and queries of the lists that show these workloads of one kind.
fn list_queries<'a>(
    plural: &str,
    workloads: impl Iterator<Item = &'a WorkloadRef>,
) -> Vec<(String, String)> {
    let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for workload in workloads {
        names
            .entry(&workload.namespace)
            .or_default()
            .push(&workload.name);
    }
    if names.len() > MAX_LISTED_NAMESPACES {
        return vec![(format!("/apis/apps/v1/{plural}"), String::new())];
    }
    let query = |(namespace, names): (&str, Vec<&str>)| {
        let path = format!("/apis/apps/v1/namespaces/{namespace}/{plural}");
        let query = match names.as_slice() {
            [only] => format!("fieldSelector=metadata.name%3D{only}"),
            _ => String::new(),
        };
        (path, query)
    };
    names.into_iter().map(query).collect()
}

/// Builds a pod of a workload's own template, if the workload is one of the wanted ones.
fn template_pod(
    kind: WorkloadKind,
    object: &Value,
    wanted: &BTreeSet<&WorkloadRef>,
) -> Option<TemplatePod> {
    let workload = WorkloadRef {
        namespace: text_at(object, "/metadata/namespace")?.to_owned(),
        kind,
        name: text_at(object, "/metadata/name")?.to_owned(),
    };
    if !wanted.contains(&workload) {
        return None;
    }
    let template = &object["spec"]["template"];
    let mut spec = template["spec"].clone();
    add_claimed_volumes(&mut spec, object);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": format!("{}-", workload.name),
            "namespace": workload.namespace,
            "labels": template["metadata"]["labels"],
            "annotations": template["metadata"]["annotations"],
        },
        "spec": spec,
    });
    Some(TemplatePod {
        workload,
        pod,
        deletes_first: quota::deletes_first(kind, object),
    })
}

/// Adds an empty volume for each volume claim of a `StatefulSet`. Its controller adds these volumes
/// to each pod; without them the API server refuses a pod that mounts one.
fn add_claimed_volumes(spec: &mut Value, object: &Value) {
    let claims = object
        .pointer("/spec/volumeClaimTemplates")
        .and_then(Value::as_array);
    let names: Vec<&str> = claims
        .into_iter()
        .flatten()
        .filter_map(|claim| text_at(claim, "/metadata/name"))
        .collect();
    if names.is_empty() {
        return;
    }
    if !spec["volumes"].is_array() {
        spec["volumes"] = json!([]);
    }
    if let Some(volumes) = spec["volumes"].as_array_mut() {
        // The claim of a name takes the place of the template's volume.
        volumes.retain(|volume| !names.iter().any(|name| volume["name"] == *name));
        volumes.extend(
            names
                .iter()
                .map(|name| json!({ "name": name, "emptyDir": {} })),
        );
    }
}

/// Lists the labels by which Istio's `ProxyConfig` resources select pods. They set the proxy image
/// of the selected pods, so pods that differ in such a label may get different sidecars.
async fn list_selecting_labels(client: &ClusterClient) -> Result<BTreeSet<String>, ClusterError> {
    let keys = |config: &Value| -> Vec<String> {
        let labels = config.pointer("/spec/selector/matchLabels");
        let labels = labels.and_then(Value::as_object);
        labels.map_or_else(Vec::new, |labels| labels.keys().cloned().collect())
    };
    let listed = client.list_mapped(PROXY_CONFIGS_PATH, "", keys).await?;
    Ok(listed.items.into_iter().flatten().collect())
}

impl InjectionClass {
    /// Reads the class of a pod. Labels whose keys are in `selecting` count besides Istio's own.
    fn of_pod(asked: &TemplatePod, selecting: &BTreeSet<String>) -> Self {
        let (metadata, spec) = (&asked.pod["metadata"], &asked.pod["spec"]);
        let containers = ["containers", "initContainers"]
            .into_iter()
            .filter_map(|list| spec[list].as_array())
            .flatten();
        Self {
            namespace: asked.workload.namespace.clone(),
            labels: texts_of(&metadata["labels"], |key| {
                key.contains(ISTIO_KEY_PART) || selecting.contains(key)
            }),
            annotations: texts_of(&metadata["annotations"], |key| key.contains(ISTIO_KEY_PART)),
            host_network: spec["hostNetwork"] == true,
            proxies: containers
                .filter(|container| container["name"] == "istio-proxy")
                .map(Value::to_string)
                .collect(),
        }
    }
}

/// Returns the entries of a map of texts whose key fulfils a condition.
fn texts_of(map: &Value, counts: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    let entries = map.as_object().into_iter().flat_map(Map::iter);
    entries
        .filter(|(key, _)| counts(key))
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stateful_set_gets_the_volumes_that_its_controller_adds() {
        let set = json!({
            "spec": {
                "volumeClaimTemplates": [{ "metadata": { "name": "data" } }],
                "template": { "spec": { "volumes": [{ "name": "config" }] } },
            },
        });
        let mut spec = set["spec"]["template"]["spec"].clone();
        add_claimed_volumes(&mut spec, &set);
        assert_eq!(
            spec["volumes"],
            json!([{ "name": "config" }, { "name": "data", "emptyDir": {} }])
        );
        let mut bare = json!({});
        add_claimed_volumes(&mut bare, &json!({}));
        assert_eq!(bare, json!({}));
    }
}
