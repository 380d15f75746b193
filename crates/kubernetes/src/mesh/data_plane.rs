//! Holds the workloads and pods of one member. Lists read them once for a plan or an answer; during
//! a roll-out, watches keep them up to date.

use std::collections::{BTreeMap, BTreeSet};

use meshwright_model::plan::{WorkloadKind, WorkloadRef};
use meshwright_rollout::ports::{ClusterError, LivePod, ObservedWorkload, Readiness};

use super::MemberCluster;
use super::records::{PodRecord, WorkloadRecord};

/// Kinds whose pods are replaced when their template changes: kind, name and plural in the API.
pub(super) const WORKLOAD_KINDS: [(WorkloadKind, &str, &str); 3] = [
    (WorkloadKind::Deployment, "Deployment", "deployments"),
    (WorkloadKind::StatefulSet, "StatefulSet", "statefulsets"),
    (WorkloadKind::DaemonSet, "DaemonSet", "daemonsets"),
];

/// Workloads and pods of one member, as they were read last.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    pub(super) workloads: BTreeMap<WorkloadRef, WorkloadRecord>,
    pub(super) pods: BTreeMap<(String, String), PodRecord>,
    pods_by_workload: BTreeMap<WorkloadRef, BTreeSet<(String, String)>>,
}

impl Snapshot {
    /// Reads a member's workloads and pods, and keeps a few fields of each.
    pub(super) async fn read_member(member: &MemberCluster) -> Result<Self, ClusterError> {
        let list = |kind: WorkloadKind, plural: &'static str| async move {
            let path = format!("/apis/apps/v1/{plural}");
            member
                .client
                .list_mapped(&path, "", |object| {
                    WorkloadRecord::from_object(kind, object)
                })
                .await
        };
        let [
            (deployment, _, deployments),
            (set, _, sets),
            (daemon, _, daemons),
        ] = WORKLOAD_KINDS;
        // List Deployments first: if the credential is dead or the cluster is gone, one call fails,
        // not four.
        let first = list(deployment, deployments).await?;
        let pods = member
            .client
            .list_mapped("/api/v1/pods", "", PodRecord::from_object);
        let (sets, daemons, pods) = tokio::try_join!(list(set, sets), list(daemon, daemons), pods)?;
        let mut snapshot = Self::default();
        for record in [first, sets, daemons]
            .into_iter()
            .flat_map(|listed| listed.items)
        {
            snapshot.put_workload(record);
        }
        for record in pods.items {
            snapshot.put_pod(record);
        }
        Ok(snapshot)
    }

    pub(super) fn put_workload(&mut self, record: WorkloadRecord) {
        self.workloads.insert(record.workload.clone(), record);
    }

    pub(super) fn put_pod(&mut self, record: PodRecord) {
        if let Some(owner) = &record.owner {
            self.pods_by_workload
                .entry(owner.clone())
                .or_default()
                .insert(record.object_key());
        }
        self.pods.insert(record.object_key(), record);
    }

    pub(super) fn remove_pod(&mut self, key: &(String, String)) {
        let owner = self.pods.remove(key).and_then(|record| record.owner);
        if let Some(owned) = owner.and_then(|owner| self.pods_by_workload.get_mut(&owner)) {
            owned.remove(key);
        }
    }

    /// Returns the live pods of a workload.
    pub(super) fn live_pods(&self, workload: &WorkloadRef) -> impl Iterator<Item = &PodRecord> {
        let keys = self.pods_by_workload.get(workload).into_iter().flatten();
        keys.filter_map(|key| self.pods.get(key))
            .filter(|pod| pod.live)
    }

    /// Returns the live pods that no known workload owns.
    pub(super) fn unowned_pods(&self) -> impl Iterator<Item = &PodRecord> {
        let known = |pod: &&PodRecord| {
            pod.owner
                .as_ref()
                .is_some_and(|owner| self.workloads.contains_key(owner))
        };
        self.pods
            .values()
            .filter(|pod| pod.live)
            .filter(move |pod| !known(pod))
    }

    /// Returns the state of a workload with its live pods. A pod that is terminating, or that an
    /// older template made, counts as on its way out.
    pub(super) fn workload_state(&self, workload: &WorkloadRef) -> Option<ObservedWorkload> {
        let record = self.workloads.get(workload)?;
        Some(ObservedWorkload {
            stamp: record.stamp.clone(),
            version: record.mark.clone(),
            live: self
                .live_pods(workload)
                .map(|pod| LivePod {
                    terminating: pod.terminating || pod.stamp != record.stamp,
                    ..pod.to_live_pod()
                })
                .collect(),
            rollout: self.explain_rollout(record),
            updated: record.updated,
            takes_next_at_once: record.takes_next_at_once,
        })
    }

    /// Returns the state of a workload's rollout. If it is not complete and Kubernetes gives a
    /// reason why one of the new pods does not run, this pod and the reason are named.
    fn explain_rollout(&self, record: &WorkloadRecord) -> Readiness {
        let reason = self
            .live_pods(&record.workload)
            .filter(|pod| !pod.terminating && pod.stamp == record.stamp)
            .find_map(|pod| Some(format!("{}: {}", pod.name, pod.waiting_reason.as_ref()?)));
        match (record.rolled.clone(), reason) {
            (Readiness::Pending(missing), Some(reason)) => {
                Readiness::Pending(format!("{missing}; {reason}"))
            }
            (Readiness::Failing(mut problem), Some(reason)) => {
                problem.message = format!("{} {reason}.", problem.message);
                Readiness::Failing(problem)
            }
            (rolled, _) => rolled,
        }
    }
}
