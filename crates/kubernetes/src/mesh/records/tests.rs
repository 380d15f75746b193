//! Checks what is read from workloads and pods that do not move.

use serde_json::json;

use super::super::data_plane::Snapshot;
use super::*;

fn stateful_set(spec: Value, status: Value) -> WorkloadRecord {
    let object = json!({
        "metadata": { "namespace": "shop", "name": "db", "generation": 2 },
        "spec": spec, "status": status,
    });
    WorkloadRecord::from_object(WorkloadKind::StatefulSet, &object)
}

fn deployment(conditions: Value) -> WorkloadRecord {
    let object = json!({
        "metadata": { "namespace": "shop", "name": "web", "generation": 2 },
        "spec": { "replicas": 3 },
        "status": {
            "observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2,
            "conditions": conditions,
        },
    });
    WorkloadRecord::from_object(WorkloadKind::Deployment, &object)
}

#[test]
fn a_partition_blocks_a_restart_only_if_it_keeps_some_ordinals() {
    let blocker = |replicas: i64, start: i64, partition: i64| {
        let spec = json!({
            "replicas": replicas, "ordinals": { "start": start },
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": partition } },
        });
        stateful_set(spec, json!({})).restart_blocker
    };
    assert_eq!(blocker(3, 0, 1), Some(RestartBlocker::Partition));
    assert_eq!(blocker(3, 0, 5), Some(RestartBlocker::Partition));
    assert_eq!(blocker(3, 0, 0), None);
    assert_eq!(blocker(3, 2, 2), None, "the lowest ordinal is 2");
    assert_eq!(blocker(0, 0, 1), None, "there is no pod to keep");
}

#[test]
fn only_a_stateful_set_in_order_and_a_deployment_wait_for_pods_of_an_earlier_template() {
    let object = |policy: &str| json!({ "spec": { "podManagementPolicy": policy } });
    let takes =
        |kind, policy| WorkloadRecord::from_object(kind, &object(policy)).takes_next_at_once;
    assert!(takes(WorkloadKind::StatefulSet, "Parallel"));
    assert!(takes(WorkloadKind::DaemonSet, ""));
    assert!(!takes(WorkloadKind::StatefulSet, "OrderedReady"));
    assert!(!takes(WorkloadKind::Deployment, ""));
}

#[test]
fn a_pod_is_broken_if_a_container_of_it_does_not_start() {
    let readiness = |status: Value| PodRecord::from_object(&json!({ "status": status })).readiness;
    let waiting = |reason: &str| json!({ "containerStatuses": [{ "state": { "waiting": { "reason": reason } } }] });
    assert_eq!(readiness(waiting("CrashLoopBackOff")), PodReadiness::Broken);
    assert_eq!(
        readiness(waiting("ContainerCreating")),
        PodReadiness::Starting
    );
    // A pod may wait a moment for its volume or for room on a node.
    let unscheduled = json!({ "conditions": [
        { "type": "PodScheduled", "status": "False", "reason": "Unschedulable" },
    ] });
    assert_eq!(readiness(unscheduled), PodReadiness::Starting);
}

#[test]
fn a_deployment_that_cannot_create_pods_says_why_in_known_words() {
    let failure = |message: &str| {
        let condition = json!({
            "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
            "message": message,
        });
        deployment(json!([condition])).rolled
    };
    assert_eq!(
        failure("pods \"web-x\" is forbidden: exceeded quota: compute, requested: pods=1"),
        Readiness::Pending(
            "2 of 3 pods are new, 2 are ready; FailedCreate: the quota compute is exceeded".into()
        )
    );
    assert_eq!(
        failure("call <script>"),
        Readiness::Pending("2 of 3 pods are new, 2 are ready; FailedCreate".into())
    );
    let over = json!([{ "type": "ReplicaFailure", "status": "False", "reason": "FailedCreate" }]);
    assert_eq!(
        deployment(over).rolled,
        Readiness::Pending("2 of 3 pods are new, 2 are ready".into())
    );
}

#[test]
fn a_rollout_that_stands_still_names_the_new_pod_that_does_not_run() {
    let pod = |name: &str, stamp: &str, status: Value| {
        PodRecord::from_object(&json!({
            "metadata": {
                "namespace": "shop", "name": name, "annotations": { RESTART_ANNOTATION: stamp },
                "ownerReferences": [{ "kind": "StatefulSet", "name": "db", "controller": true }],
            },
            "status": status,
        }))
    };
    let waiting = |reason: &str| {
        json!({ "containerStatuses": [
            { "state": { "running": {} } }, { "state": { "waiting": { "reason": reason } } },
        ] })
    };
    let unscheduled = json!({ "conditions": [
        { "type": "PodScheduled", "status": "False", "reason": "Unschedulable" },
    ] });
    let rollout = |old: Value, new: Value| {
        let mut snapshot = Snapshot::default();
        let template = json!({ "metadata": { "annotations": { RESTART_ANNOTATION: "new" } } });
        let record = stateful_set(
            json!({ "replicas": 2, "template": template }),
            json!({ "observedGeneration": 2, "updatedReplicas": 1, "readyReplicas": 1 }),
        );
        let workload = record.workload.clone();
        snapshot.put_workload(record);
        snapshot.put_pod(pod("db-0", "old", old));
        snapshot.put_pod(pod("db-1", "new", new));
        snapshot.workload_state(&workload).map(|seen| seen.rollout)
    };
    let pending = |text: &str| Some(Readiness::Pending(text.into()));
    let counts = "1 of 2 pods are new, 1 are ready";
    assert_eq!(
        rollout(json!({}), waiting("ImagePullBackOff")),
        pending(&format!("{counts}; db-1: ImagePullBackOff"))
    );
    assert_eq!(
        rollout(json!({}), unscheduled),
        pending(&format!("{counts}; db-1: Unschedulable"))
    );
    for quiet in [waiting("ContainerCreating"), waiting("<b>")] {
        assert_eq!(
            rollout(waiting("CrashLoopBackOff"), quiet),
            pending(counts),
            "the old pod does not hold the rollout up"
        );
    }
}
