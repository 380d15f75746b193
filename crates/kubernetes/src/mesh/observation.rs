//! Observes every member. Plans are built from these observations, and the API shows them.

use std::collections::{BTreeMap, BTreeSet};

use meshwright_model::injection::Injector;
use meshwright_model::observation::{
    MemberObservation, NamespaceObservation, Observation, WorkloadObservation,
};
use meshwright_rollout::ports::ClusterError;
use serde_json::Value;

use super::data_plane::Snapshot;
use super::records::{WorkloadRecord, namespace_labels};
use super::{KubernetesMesh, MemberCluster, text_at};
use crate::foreign;
use crate::labels::OWNER_LABEL;

/// Namespaces that belong to Kubernetes and are never part of a mesh.
const SYSTEM_NAMESPACES: [&str; 4] = [
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "local-path-storage",
];

/// Names of a member's pods in the form that proxies use: `name.namespace`.
type PodNames = BTreeSet<String>;

impl KubernetesMesh {
    /// Observes all members of the mesh, side by side.
    pub(super) async fn observe_members(&self) -> Result<Observation, ClusterError> {
        let looks = self
            .config
            .members
            .iter()
            .map(|member| self.observe_member(member));
        let (members, pods): (Vec<MemberObservation>, Vec<PodNames>) =
            futures::future::try_join_all(looks)
                .await?
                .into_iter()
                .unzip();
        let mut proxies = self.observe_proxies(&members).await;
        // A proxy's identity is only what it reports about itself. A proxy without a pod is shown,
        // and blocks, but it is marked.
        for (member, pods) in members.iter().zip(&pods) {
            for proxy in proxies
                .iter_mut()
                .filter(|proxy| proxy.member == member.member.as_str())
            {
                proxy.ghost = !pods.contains(&proxy.proxy);
            }
        }
        Ok(Observation {
            members,
            proxies,
            sidecars: Vec::new(),
        })
    }

    /// Observes one member, and returns the names of its pods as well.
    async fn observe_member(
        &self,
        member: &MemberCluster,
    ) -> Result<(MemberObservation, PodNames), ClusterError> {
        let snapshot = Snapshot::read_member(member).await?;
        let webhooks = foreign::list_admission_webhooks(&member.client).await?;
        let listed = member.client.list("/api/v1/namespaces", "").await?;
        let version = member.client.get("/version").await?.unwrap_or_default();
        let part = |pointer: &str| {
            text_at(&version, pointer)
                .and_then(|text| text.trim_end_matches('+').parse().ok())
                .unwrap_or(0)
        };
        let ours =
            |webhook: &&Value| webhook["metadata"]["labels"][OWNER_LABEL] == self.namespace();
        let injecting = webhooks
            .iter()
            .map(|(_, webhook)| webhook)
            .filter(|webhook| is_injection_webhook(webhook));
        let pods = snapshot
            .pods
            .keys()
            .map(|(namespace, name)| format!("{name}.{namespace}"))
            .collect();
        let survey = MemberObservation {
            member: member.name.clone(),
            kubernetes: (part("/major"), part("/minor")),
            namespaces: self.observe_namespaces(&listed, &snapshot),
            injectors: injecting.filter(ours).filter_map(parse_injector).collect(),
            foreign: foreign::foreign_istio_webhooks(&webhooks, Some(self.namespace())),
        };
        Ok((survey, pods))
    }

    /// Observes the namespaces of a member, except those of Kubernetes. The mesh's own namespace is
    /// one of them if it has workloads or pods in the mesh.
    fn observe_namespaces(
        &self,
        listed: &[Value],
        snapshot: &Snapshot,
    ) -> Vec<NamespaceObservation> {
        let mut namespaces: BTreeMap<String, NamespaceObservation> = listed
            .iter()
            .filter_map(|object| Some((text_at(object, "/metadata/name")?, object)))
            .filter(|(name, _)| !SYSTEM_NAMESPACES.contains(name))
            .map(|(name, object)| {
                let labels = namespace_labels(object);
                (
                    name.to_owned(),
                    NamespaceObservation {
                        name: name.into(),
                        labels,
                        workloads: Vec::new(),
                        unreachable: Vec::new(),
                        of_mesh: name == self.namespace(),
                    },
                )
            })
            .collect();
        for record in snapshot.workloads.values() {
            if let Some(namespace) = namespaces.get_mut(&record.workload.namespace) {
                let workload = workload_observation(record, snapshot);
                if !namespace.of_mesh || is_in_mesh(&workload) {
                    namespace.workloads.push(workload);
                }
            }
        }
        for pod in snapshot.unowned_pods().filter(|pod| pod.sidecar.is_some()) {
            if let Some(namespace) = namespaces.get_mut(&pod.namespace) {
                namespace.unreachable.push(pod.name.clone());
            }
        }
        let empty = |namespace: &NamespaceObservation| {
            namespace.workloads.is_empty() && namespace.unreachable.is_empty()
        };
        namespaces
            .into_values()
            .filter(|namespace| !namespace.of_mesh || !empty(namespace))
            .collect()
    }
}

/// Returns whether a workload of the mesh's own namespace is in the mesh: a pod of it has a
/// sidecar, or its pod template asks for one.
fn is_in_mesh(workload: &WorkloadObservation) -> bool {
    let asks =
        workload.template.rev.is_some() || workload.template.inject.as_deref() == Some("true");
    asks || workload.live.iter().any(Option::is_some)
}

fn workload_observation(record: &WorkloadRecord, snapshot: &Snapshot) -> WorkloadObservation {
    WorkloadObservation {
        workload: record.workload.clone(),
        template: record.template.clone(),
        live: snapshot
            .live_pods(&record.workload)
            .map(|pod| pod.sidecar.clone())
            .collect(),
        stamp: record.stamp.clone(),
        stuck: record.restart_blocker,
    }
}

/// Returns whether a webhook configuration has an entry of Istio's sidecar injector, regardless of
/// the installer.
fn is_injection_webhook(webhook: &Value) -> bool {
    let entries = webhook["webhooks"].as_array();
    entries.is_some_and(|entries| {
        entries.iter().any(|entry| {
            entry["name"]
                .as_str()
                .is_some_and(|name| name.ends_with("sidecar-injector.istio.io"))
        })
    })
}

/// Reads an injector from its webhook: the label value that it serves, and the revision that
/// injects.
pub(super) fn parse_injector(webhook: &Value) -> Option<Injector> {
    let revision = text_at(webhook, "/metadata/labels/istio.io~1rev")?;
    let value = text_at(webhook, "/metadata/labels/istio.io~1tag").unwrap_or(revision);
    Some(Injector {
        value: value.to_owned(),
        revision: revision.parse().ok()?,
        serves_default: value == "default",
    })
}
