//! A fresh look at every member: what plans are built from and the API shows.

use std::collections::{BTreeMap, BTreeSet};

use model::injection::{Injector, NamespaceLabels};
use model::survey::{MemberSurvey, NamespaceSurvey, Survey, WorkloadSurvey};
use rollout::plan::data_plane::{INJECTION_LABEL, REV_LABEL};
use rollout::ports::WorldError;
use serde_json::Value;

use super::bundle::OWNER_LABEL;
use super::data_plane::Snapshot;
use super::records::WorkloadRecord;
use super::{MemberDoor, MeshWorld, text};
use crate::foreign;

/// Namespaces that are Kubernetes' own and never part of a mesh.
const SYSTEM: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

/// A member's pods, as proxies name themselves: `name.namespace`.
type Pods = BTreeSet<String>;

impl MeshWorld {
    /// Reads each member once, all of them side by side.
    pub(super) async fn look_around(&self) -> Result<Survey, WorldError> {
        let looks = self.config.members.iter().map(|member| self.look_at(member));
        let (members, pods): (Vec<MemberSurvey>, Vec<Pods>) =
            futures::future::try_join_all(looks).await?.into_iter().unzip();
        let mut proxies = self.proxies(&members).await;
        // All of a proxy's identity is what it says of itself: one without a pod is shown, and blocks, but is marked.
        for (member, pods) in members.iter().zip(&pods) {
            for proxy in proxies.iter_mut().filter(|proxy| proxy.member == member.member.as_str()) {
                proxy.ghost = !pods.contains(&proxy.proxy);
            }
        }
        Ok(Survey { members, proxies, sidecars: Vec::new() })
    }

    async fn look_at(&self, member: &MemberDoor) -> Result<(MemberSurvey, Pods), WorldError> {
        let snapshot = Snapshot::read(member).await?;
        let webhooks = foreign::webhooks(&member.door).await?;
        let listed = member.door.list("/api/v1/namespaces", "").await?;
        let version = member.door.get("/version").await?.unwrap_or_default();
        let part = |pointer: &str| {
            text(&version, pointer).and_then(|text| text.trim_end_matches('+').parse().ok()).unwrap_or(0)
        };
        let ours = |webhook: &&Value| webhook["metadata"]["labels"][OWNER_LABEL] == self.namespace();
        let injecting = webhooks.iter().map(|(_, webhook)| webhook).filter(|webhook| injects_sidecars(webhook));
        let pods = snapshot.pods.keys().map(|(namespace, name)| format!("{name}.{namespace}")).collect();
        let survey = MemberSurvey {
            member: member.name.clone(),
            kubernetes: (part("/major"), part("/minor")),
            namespaces: self.namespaces(&listed, &snapshot),
            injectors: injecting.filter(ours).filter_map(injector).collect(),
            foreign: foreign::of_another_istio(&webhooks, Some(self.namespace())),
        };
        Ok((survey, pods))
    }

    fn namespaces(&self, listed: &[Value], snapshot: &Snapshot) -> Vec<NamespaceSurvey> {
        let mut namespaces: BTreeMap<String, NamespaceSurvey> = listed
            .iter()
            .filter_map(|object| Some((text(object, "/metadata/name")?, object)))
            .filter(|(name, _)| *name != self.namespace() && !SYSTEM.contains(name))
            .map(|(name, object)| {
                let labels = namespace_labels(object);
                (
                    name.to_owned(),
                    NamespaceSurvey { name: name.into(), labels, workloads: Vec::new(), unreachable: Vec::new() },
                )
            })
            .collect();
        for record in snapshot.workloads.values() {
            if let Some(namespace) = namespaces.get_mut(&record.workload.namespace) {
                namespace.workloads.push(workload_survey(record, snapshot));
            }
        }
        for pod in snapshot.unowned().filter(|pod| pod.sidecar.is_some()) {
            if let Some(namespace) = namespaces.get_mut(&pod.namespace) {
                namespace.unreachable.push(pod.name.clone());
            }
        }
        namespaces.into_values().collect()
    }
}

fn workload_survey(record: &WorkloadRecord, snapshot: &Snapshot) -> WorkloadSurvey {
    WorkloadSurvey {
        workload: record.workload.clone(),
        template: record.template.clone(),
        live: snapshot.live(&record.workload).map(|pod| pod.sidecar.clone()).collect(),
        stamp: record.stamp.clone(),
        stuck: record.stuck,
    }
}

pub(super) fn namespace_labels(object: &Value) -> NamespaceLabels {
    let label = |key: &str| object["metadata"]["labels"][key].as_str().map(str::to_owned);
    NamespaceLabels { injection: label(INJECTION_LABEL), rev: label(REV_LABEL) }
}

/// True for a webhook configuration with an entry of Istio's sidecar injector, whoever made it.
fn injects_sidecars(webhook: &Value) -> bool {
    let entries = webhook["webhooks"].as_array();
    entries.is_some_and(|entries| {
        entries
            .iter()
            .any(|entry| entry["name"].as_str().is_some_and(|name| name.ends_with("sidecar-injector.istio.io")))
    })
}

pub(super) fn injector(webhook: &Value) -> Option<Injector> {
    let revision = text(webhook, "/metadata/labels/istio.io~1rev")?;
    let value = text(webhook, "/metadata/labels/istio.io~1tag").unwrap_or(revision);
    Some(Injector { value: value.to_owned(), revision: revision.parse().ok()?, serves_default: value == "default" })
}
