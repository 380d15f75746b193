use serde_json::json;

use super::*;

fn event(cluster: &str, object: Value) -> Value {
    json!({ "cluster": cluster, "type": "MODIFIED", "object": object })
}

fn webhook(name: &str, tag: Option<&str>, revision: &str) -> Value {
    json!({ "kind": "MutatingWebhookConfiguration", "metadata": { "name": name, "labels": { "istio.io/rev": revision, "istio.io/tag": tag } } })
}

fn namespace(label: &str) -> Value {
    json!({ "kind": "Namespace", "metadata": { "name": "shop", "labels": { "istio.io/rev": label } } })
}

fn deployment(available: i64) -> Value {
    json!({ "kind": "Deployment", "metadata": { "name": "web", "namespace": "shop" }, "spec": { "replicas": 4 }, "status": { "availableReplicas": available } })
}

fn istiod(available: i64) -> Value {
    json!({ "kind": "Deployment", "metadata": { "name": "istiod-1-25-1" }, "status": { "availableReplicas": available } })
}

/// Counts the breaches in the events of a healthy mesh that are followed by planted events.
fn count_breaches(planted: Vec<Value>) -> usize {
    let mut judge = AvailabilityJudge::default();
    let healthy = [
        event("hosting", istiod(2)),
        event("c1", webhook("canonical", None, "1-25-1")),
        event("c1", webhook("default", Some("default"), "1-25-1")),
        event("c1", webhook("stable", Some("stable"), "1-25-1")),
        event("c1", namespace("stable")),
        event("c1", deployment(4)),
        json!({ "cluster": "c1", "type": "SYNCED", "object": {} }),
        event("c1", deployment(3)),
    ];
    healthy
        .iter()
        .chain(&planted)
        .for_each(|event| judge.observe_event(event));
    judge.breaches.len()
}

#[test]
fn a_healthy_mesh_has_no_breach() {
    assert_eq!(count_breaches(Vec::new()), 0);
}

#[test]
fn planted_a_workload_below_its_allowed_availability_is_found() {
    assert!(count_breaches(vec![event("c1", deployment(2))]) > 0);
}

#[test]
fn a_workload_may_be_as_far_below_as_its_strategy_allows() {
    let strategy = |strategy: Value, available: i64| {
        let mut object = deployment(available);
        object["spec"]["strategy"] = strategy;
        count_breaches(vec![event("c1", object)])
    };
    let one = json!({ "rollingUpdate": { "maxSurge": 0, "maxUnavailable": 1 } });
    assert_eq!(strategy(one.clone(), 3), 0);
    assert_eq!(strategy(one, 2), 1);
    let half = json!({ "rollingUpdate": { "maxUnavailable": "50%" } });
    assert_eq!(strategy(half.clone(), 2), 0);
    assert_eq!(strategy(half, 1), 1);
    assert_eq!(strategy(json!({ "type": "Recreate" }), 0), 0);
}

#[test]
fn planted_a_revision_that_is_removed_while_a_pod_uses_it_is_found() {
    let pod = |phase: &str| {
        let metadata = json!({ "name": "web-1", "namespace": "shop", "annotations": { "istio.io/rev": "1-24-0" } });
        event(
            "c1",
            json!({ "kind": "Pod", "metadata": metadata, "status": { "phase": phase } }),
        )
    };
    let removed = json!({ "cluster": "hosting", "type": "DELETED", "object": { "kind": "Deployment", "metadata": { "name": "istiod-1-24-0" } } });
    let injector =
        json!({ "cluster": "c1", "type": "DELETED", "object": webhook("old", None, "1-24-0") });
    assert_eq!(count_breaches(vec![pod("Running"), removed.clone()]), 1);
    assert_eq!(count_breaches(vec![pod("Running"), injector]), 1);
    assert_eq!(
        count_breaches(vec![pod("Running"), pod("Succeeded"), removed]),
        0
    );
}

#[test]
fn planted_a_label_that_no_webhook_or_two_match_is_found() {
    assert!(count_breaches(vec![event("c1", namespace("1-24-0"))]) > 0);
    assert!(
        count_breaches(vec![event(
            "c1",
            webhook("second", Some("stable"), "1-25-1")
        )]) > 0
    );
}

#[test]
fn planted_a_webhook_whose_istiod_is_dead_is_found() {
    assert!(
        count_breaches(vec![
            event("hosting", istiod(0)),
            event("c1", deployment(4))
        ]) > 0
    );
}
