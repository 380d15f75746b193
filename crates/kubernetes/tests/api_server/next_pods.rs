//! Dry runs of pods of the workloads' own templates.

use std::collections::BTreeMap;

use meshwright_model::plan::{Sidecar, WorkloadKind, WorkloadRef};
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::{ClusterError, MeshClusters, NextPod};
use serde_json::{Value, json};

use crate::fake::{Answer, FakeCluster};
use crate::looks::clusters;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/shop/deployments";
const PODS: &str = "/api/v1/namespaces/shop/pods";

fn deployment(name: &str, annotations: Value) -> Value {
    json!({
        "metadata": { "namespace": "shop", "name": name },
        "spec": { "template": {
            "metadata": { "labels": { "app": name }, "annotations": annotations },
            "spec": { "containers": [{ "name": "app", "image": "app:1" }] },
        } },
    })
}

fn workload(name: &str) -> WorkloadRef {
    WorkloadRef {
        namespace: "shop".into(),
        kind: WorkloadKind::Deployment,
        name: name.into(),
    }
}

/// A cluster with these Deployments and `ProxyConfigs`, whose admission answers as told.
async fn cluster(
    deployments: Value,
    proxy_configs: Value,
    admit: impl Fn(Value) -> Answer + Send + Sync + 'static,
) -> FakeCluster {
    FakeCluster::start(move |asked, _| {
        let uri = asked.split_whitespace().nth(1).unwrap_or_default();
        let list = |items: &Value| Answer::Json(200, json!({ "items": items }));
        match uri.split('?').next().unwrap_or_default() {
            DEPLOYMENTS => list(&deployments),
            PODS => {
                assert!(uri.contains("dryRun=All"), "nothing is created: {uri}");
                let body = asked.split_once("\r\n\r\n").expect("a body").1;
                admit(serde_json::from_str(body).expect("a pod"))
            }
            path if path.ends_with("/proxyconfigs") => list(&proxy_configs),
            _ => list(&json!([])),
        }
    })
    .await
}

/// Admission of a cluster with Istio's injector.
fn inject(mut pod: Value) -> Answer {
    if pod["metadata"]["annotations"]["sidecar.istio.io/inject"] != "false" {
        pod["metadata"]["annotations"]["istio.io/rev"] = "1-27-9".into();
        let proxy = json!({ "name": "istio-proxy", "image": "hub/proxyv2:1.27.9" });
        let containers = pod["spec"]["containers"].as_array_mut();
        containers.expect("containers").push(proxy);
    }
    Answer::Json(201, pod)
}

fn injected() -> NextPod {
    NextPod::Injected(Sidecar {
        revision: "1-27-9".parse().expect("a name"),
        image: "hub/proxyv2:1.27.9".into(),
    })
}

async fn ask(
    member: FakeCluster,
    names: &[&str],
) -> (
    Result<BTreeMap<WorkloadRef, NextPod>, ClusterError>,
    Vec<String>,
) {
    let hosting = FakeCluster::start(|_, _| Answer::Json(200, json!({ "items": [] }))).await;
    let members = [member];
    let asked: Vec<WorkloadRef> = names.iter().map(|name| workload(name)).collect();
    let answered = clusters(&hosting, &members)
        .ask_next_pods(&"c0".parse().expect("a name"), &asked)
        .await;
    let [member] = &members;
    let mut sent = member.asked();
    sent.retain(|line| line.starts_with("POST "));
    (answered, sent)
}

#[tokio::test]
async fn workloads_whose_templates_agree_are_asked_once_and_one_that_opts_out_for_itself() {
    let deployments = json!([
        deployment("a", Value::Null),
        deployment("b", json!({ "example.com/team": "b" })),
        deployment("out", json!({ "sidecar.istio.io/inject": "false" })),
        deployment("not-asked", Value::Null),
    ]);
    let member = cluster(deployments, json!([]), inject).await;
    let (answered, sent) = ask(member, &["a", "b", "out", "gone"]).await;
    let expected = BTreeMap::from([
        (workload("a"), injected()),
        (workload("b"), injected()),
        (workload("out"), NextPod::NotInjected),
    ]);
    assert_eq!(answered, Ok(expected));
    assert_eq!(sent.len(), 2, "one for each class: {sent:#?}");
}

#[tokio::test]
async fn workloads_that_a_proxy_config_tells_apart_are_asked_one_by_one() {
    let deployments = json!([deployment("a", Value::Null), deployment("b", Value::Null)]);
    let config = json!({ "spec": { "selector": { "matchLabels": { "app": "b" } } } });
    let member = cluster(deployments, json!([config]), inject).await;
    let (answered, sent) = ask(member, &["a", "b"]).await;
    assert_eq!(answered.map(|answers| answers.len()), Ok(2));
    assert_eq!(sent.len(), 2, "{sent:#?}");
}

#[tokio::test]
async fn a_refusal_is_not_shared_by_the_workloads_of_a_class() {
    let deployments = json!([
        deployment("a", Value::Null),
        deployment("b", Value::Null),
        deployment("c", Value::Null),
    ]);
    let refuse = |pod: Value| match pod["metadata"]["generateName"].as_str() {
        Some("a-") => {
            let message = "pods \"a-\" is forbidden: exceeded quota: compute, requested: pods=1";
            Answer::Json(403, json!({ "reason": "Forbidden", "message": message }))
        }
        Some("b-") => {
            let message = "Internal error occurred: failed calling webhook \"scan.example.com\": x";
            Answer::Json(
                500,
                json!({ "reason": "InternalError", "message": message }),
            )
        }
        _ => inject(pod),
    };
    let member = cluster(deployments, json!([]), refuse).await;
    let (answered, sent) = ask(member, &["a", "b", "c"]).await;
    let expected = BTreeMap::from([
        (
            workload("a"),
            NextPod::Refused("the quota compute is exceeded".into()),
        ),
        (
            workload("b"),
            NextPod::Refused("the webhook scan.example.com did not answer".into()),
        ),
        (workload("c"), injected()),
    ]);
    assert_eq!(answered, Ok(expected));
    assert_eq!(sent.len(), 3);
}

#[tokio::test]
async fn a_cluster_that_refuses_the_credential_or_fails_gives_no_answer_about_a_pod() {
    for (status, expected) in [
        (401, ProblemCode::CredentialExpired),
        (503, ProblemCode::ClusterUnreachable),
    ] {
        let deployments = json!([deployment("a", Value::Null)]);
        let member = cluster(deployments, json!([]), move |_| {
            Answer::Json(status, json!({ "message": "no" }))
        })
        .await;
        let (answered, _) = ask(member, &["a"]).await;
        let Err(ClusterError::Refused { code, .. } | ClusterError::Unreachable { code, .. }) =
            answered
        else {
            panic!("{status}: {answered:?}")
        };
        assert_eq!(code, expected);
    }
}
