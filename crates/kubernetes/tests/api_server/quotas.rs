//! Next pods of workloads in a namespace whose quota is used up.

use std::collections::BTreeMap;

use meshwright_model::plan::{Sidecar, WorkloadKind, WorkloadRef};
use meshwright_rollout::ports::{MeshClusters, NextPod};
use serde_json::{Value, json};

use crate::fake::{Answer, FakeCluster};
use crate::looks::clusters;

const KINDS: [(WorkloadKind, &str); 3] = [
    (WorkloadKind::Deployment, "deployments"),
    (WorkloadKind::StatefulSet, "statefulsets"),
    (WorkloadKind::DaemonSet, "daemonsets"),
];

/// A workload in the namespace `shop`. `spec` adds fields to its own, beside the template.
fn workload(name: &str, annotations: Value, spec: Value) -> Value {
    let mut object = json!({
        "metadata": { "namespace": "shop", "name": name },
        "spec": spec,
    });
    object["spec"]["template"] = json!({
        "metadata": { "labels": { "app": name }, "annotations": annotations },
        "spec": { "containers": [{ "name": "app", "image": "app:1" }] },
    });
    object
}

/// A Deployment of four pods that may lose as many of them as told.
fn rolling(name: &str, unavailable: Value, annotations: Value) -> Value {
    let rolling = json!({ "maxUnavailable": unavailable, "maxSurge": "25%" });
    let strategy = json!({ "type": "RollingUpdate", "rollingUpdate": rolling });
    workload(
        name,
        annotations,
        json!({ "replicas": 4, "strategy": strategy }),
    )
}

/// The cluster of a test.
#[derive(Clone)]
struct Cluster {
    /// Lists of Deployments, `StatefulSets` and `DaemonSets`.
    workloads: [Value; 3],
    /// Labels of the namespace `shop`.
    labels: Value,
    /// Values of `istio.io/rev` whose webhooks call the revision `1-27-9`.
    served: Vec<&'static str>,
    proxy_configs: Value,
    /// Answer to the probe pod in the mesh's own namespace.
    probe: (u16, Value),
}

/// A cluster whose only workload is a Deployment that may lose a pod first.
fn shop() -> Cluster {
    let proxy = json!({ "name": "istio-proxy", "image": "hub/proxyv2:1.27.9" });
    let metadata = json!({ "annotations": { "istio.io/rev": "1-27-9" } });
    let probe = json!({ "metadata": metadata, "spec": { "containers": [proxy] } });
    Cluster {
        workloads: [
            json!([rolling("web", json!("25%"), Value::Null)]),
            json!([]),
            json!([]),
        ],
        labels: json!({ "istio.io/rev": "stable" }),
        served: vec!["1-27-9", "stable"],
        proxy_configs: json!([]),
        probe: (201, probe),
    }
}

impl Cluster {
    fn answer(&self, asked: &str) -> Answer {
        let uri = asked.split_whitespace().nth(1).unwrap_or_default();
        let list = |items: &Value| Answer::Json(200, json!({ "items": items }));
        let path = uri.split('?').next().unwrap_or_default();
        let of_kind = KINDS.iter().position(|(_, plural)| path.ends_with(plural));
        match path {
            _ if of_kind.is_some() => list(&self.workloads[of_kind.expect("a kind")]),
            "/api/v1/namespaces/shop" => {
                Answer::Json(200, json!({ "metadata": { "labels": self.labels } }))
            }
            "/api/v1/namespaces/shop/pods" => {
                let message =
                    "pods \"a-\" is forbidden: exceeded quota: compute, requested: pods=1";
                Answer::Json(403, json!({ "reason": "Forbidden", "message": message }))
            }
            "/api/v1/namespaces/mesh-a/pods" => {
                assert!(uri.contains("dryRun=All"), "nothing is created: {uri}");
                assert!(asked.contains("\"istio.io/rev\":\"1-27-9\""), "{asked}");
                Answer::Json(self.probe.0, self.probe.1.clone())
            }
            _ if path.ends_with("/mutatingwebhookconfigurations") => {
                assert!(
                    uri.contains("mesh-a"),
                    "only the mesh's own webhooks: {uri}"
                );
                let webhooks = self.served.iter().map(|value| {
                    let tag = json!({ "istio.io/rev": "1-27-9", "istio.io/tag": value });
                    json!({ "metadata": { "labels": tag } })
                });
                list(&webhooks.collect())
            }
            _ if path.ends_with("/proxyconfigs") => list(&self.proxy_configs),
            _ => list(&json!([])),
        }
    }

    /// Asks for the next pods of all workloads. Returns the answers by name, and the requests.
    async fn ask(self) -> (BTreeMap<String, NextPod>, Vec<String>) {
        let of_kind = |(kind, listed): (WorkloadKind, &Value)| -> Vec<WorkloadRef> {
            let listed = listed.as_array().expect("a list").iter();
            let named = listed.map(|object| WorkloadRef {
                namespace: "shop".into(),
                kind,
                name: object["metadata"]["name"].as_str().expect("a name").into(),
            });
            named.collect()
        };
        let kinds = KINDS.map(|(kind, _)| kind);
        let asked: Vec<_> = kinds
            .into_iter()
            .zip(&self.workloads)
            .flat_map(of_kind)
            .collect();
        let hosting = FakeCluster::start(|_, _| Answer::Json(200, json!({ "items": [] }))).await;
        let members = [FakeCluster::start(move |asked, _| self.answer(asked)).await];
        let answered = clusters(&hosting, &members)
            .ask_next_pods(&"c0".parse().expect("a name"), &asked)
            .await
            .expect("an answer");
        let named = answered
            .into_iter()
            .map(|(workload, answer)| (workload.name, answer));
        (named.collect(), members[0].asked())
    }

    /// Asks for the next pod of the Deployment `web`.
    async fn ask_web(self) -> NextPod {
        self.ask().await.0.remove("web").expect("an answer")
    }
}

fn injected() -> NextPod {
    NextPod::Injected(Sidecar {
        revision: "1-27-9".parse().expect("a name"),
        image: "hub/proxyv2:1.27.9".into(),
    })
}

fn refused() -> NextPod {
    NextPod::Refused("the quota compute is exceeded".into())
}

#[tokio::test]
async fn workloads_that_delete_a_pod_first_get_the_sidecar_that_the_labels_give() {
    let surge = json!({ "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } });
    let workloads = [
        json!([
            rolling("web", json!("25%"), Value::Null),
            rolling("surges", json!(0), Value::Null),
            workload(
                "recreated",
                Value::Null,
                json!({ "strategy": { "type": "Recreate" } })
            ),
        ]),
        json!([workload("set", Value::Null, json!({}))]),
        json!([
            workload("daemon", Value::Null, json!({})),
            workload(
                "surging-daemon",
                Value::Null,
                json!({ "updateStrategy": surge })
            ),
        ]),
    ];
    let (answers, asked) = Cluster {
        workloads,
        ..shop()
    }
    .ask()
    .await;
    let expected = [
        ("web", injected()),
        ("surges", refused()),
        ("recreated", injected()),
        ("set", injected()),
        ("daemon", injected()),
        ("surging-daemon", refused()),
    ];
    let expected = expected.map(|(name, answer)| (name.to_owned(), answer));
    assert_eq!(answers, BTreeMap::from(expected));
    for path in [
        "GET /api/v1/namespaces/shop ",
        "POST /api/v1/namespaces/mesh-a/pods?",
        "/mutatingwebhookconfigurations?",
    ] {
        let times = asked.iter().filter(|line| line.contains(path)).count();
        assert_eq!(times, 1, "{path} is asked once: {asked:#?}");
    }
}

#[tokio::test]
async fn workloads_that_create_a_pod_first_stay_refused_without_further_requests() {
    let surging = json!([rolling("web", json!(0), Value::Null)]);
    let cluster = Cluster {
        workloads: [surging, json!([]), json!([])],
        ..shop()
    };
    let (answers, asked) = cluster.ask().await;
    assert_eq!(answers["web"], refused());
    assert_eq!(asked.len(), 2, "a list and a dry run: {asked:#?}");
}

#[tokio::test]
async fn labels_that_ask_for_no_sidecar_mean_that_the_pod_gets_none() {
    for labels in [
        Value::Null,
        json!({ "istio-injection": "disabled" }),
        json!({ "istio.io/rev": "gone" }),
    ] {
        let cluster = Cluster { labels, ..shop() };
        assert_eq!(cluster.ask_web().await, NextPod::NotInjected);
    }
}

#[tokio::test]
async fn a_refusal_stays_if_the_labels_do_not_tell_the_sidecar() {
    let own_image = json!({ "sidecar.istio.io/proxyImage": "hub/proxyv2:mine" });
    let own_image = json!([rolling("web", json!(1), own_image)]);
    let config = json!({ "metadata": { "namespace": "shop" }, "spec": { "image": {} } });
    let clusters = [
        Cluster {
            served: vec!["stable", "stable"],
            ..shop()
        },
        Cluster {
            probe: (403, json!({ "reason": "Forbidden", "message": "no" })),
            ..shop()
        },
        Cluster {
            probe: (201, json!({ "metadata": {}, "spec": {} })),
            ..shop()
        },
        Cluster {
            workloads: [own_image, json!([]), json!([])],
            ..shop()
        },
        Cluster {
            proxy_configs: json!([config]),
            ..shop()
        },
    ];
    for (number, cluster) in clusters.into_iter().enumerate() {
        assert_eq!(cluster.ask_web().await, refused(), "cluster {number}");
    }
}
