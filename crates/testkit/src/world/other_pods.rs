//! Simulates pods that no workload owns which a restart of ours reaches: pods of other controllers,
//! and bare pods.

use std::collections::BTreeMap;

use meshwright_model::Name;
use meshwright_model::injection::PodLabels;
use meshwright_model::plan::Sidecar;
use meshwright_model::version::RevisionName;
use meshwright_rollout::ports::{LivePod, ObjectVersion, PodReadiness, RevisionUser, UserKind};

use super::{FakeClusters, State};

/// Pods by member, namespace and name.
pub(super) type OtherPods = BTreeMap<(Name, String, String), OtherPod>;

/// Pod that is no workload's.
#[derive(Debug, Clone)]
pub(super) struct OtherPod {
    uid: u64,
    sidecar: Option<Sidecar>,
    /// True if a controller creates the pod again after an eviction.
    recreated: bool,
}

impl FakeClusters {
    /// Creates a pod in a namespace, with the sidecar that the webhooks inject now. `recreated` is
    /// true if a controller creates it again after an eviction.
    pub fn add_other_pod(&self, member: &str, namespace: &str, name: &str, recreated: bool) {
        let key = (
            member.parse().expect(member),
            namespace.to_owned(),
            name.to_owned(),
        );
        self.lock().create_other_pod(key, recreated);
    }
}

impl State {
    fn create_other_pod(&mut self, key: (Name, String, String), recreated: bool) {
        self.version += 1;
        let labels = self.namespace_labels(&key.0, &key.1);
        let injected = self.inject_pod(&key.0, &labels, &PodLabels::default());
        let pod = OtherPod {
            uid: self.version,
            sidecar: injected.expect("a webhook that answers"),
            recreated,
        };
        self.other_pods.insert(key, pod);
    }

    /// Returns the key of the pod that has this version, if the pod is still there.
    fn find_other_pod(
        &self,
        member: &Name,
        namespace: &str,
        version: &str,
    ) -> Option<(&(Name, String, String), &OtherPod)> {
        self.other_pods.iter().find(|((at, of, name), pod)| {
            at == member && of == namespace && version_of(name, pod).0 == version
        })
    }

    pub(super) fn observe_other_pod(
        &self,
        member: &Name,
        namespace: &str,
        version: &ObjectVersion,
    ) -> Option<LivePod> {
        let (_, pod) = self.find_other_pod(member, namespace, &version.0)?;
        Some(LivePod {
            version: version.clone(),
            readiness: PodReadiness::Ready,
            deleted: false,
            sidecar: pod.sidecar.clone(),
            terminating: false,
        })
    }

    /// Evicts the pod with this version, which its controller then creates again. Returns false if
    /// there is none.
    pub(super) fn replace_other_pod(
        &mut self,
        member: &Name,
        namespace: &str,
        version: &str,
    ) -> bool {
        let found = self.find_other_pod(member, namespace, version);
        let Some((key, recreated)) = found.map(|(key, pod)| (key.clone(), pod.recreated)) else {
            return false;
        };
        self.other_pods.remove(&key);
        if recreated {
            self.create_other_pod(key, recreated);
        }
        true
    }

    pub(super) fn other_pod_users(
        &self,
        member: &Name,
        revision: &RevisionName,
    ) -> Vec<RevisionUser> {
        let carries = |pod: &OtherPod| {
            pod.sidecar
                .as_ref()
                .is_some_and(|sidecar| sidecar.revision == *revision)
        };
        self.other_pods
            .iter()
            .filter(|((at, ..), pod)| at == member && carries(pod))
            .map(|((_, namespace, name), pod)| RevisionUser {
                member: member.to_string(),
                kind: UserKind::Pod,
                name: format!("{namespace}/{name}"),
                sidecar: pod.sidecar.clone(),
                workload: None,
                evictable: pod.recreated.then(|| version_of(name, pod)),
            })
            .collect()
    }

    /// Describes each pod with its identity and its image in a line.
    pub(super) fn describe_other_pods(&self) -> impl Iterator<Item = String> {
        self.other_pods
            .iter()
            .map(|((member, namespace, name), pod)| {
                let image = pod.sidecar.as_ref().map_or("-", |of| of.image.as_str());
                let version = version_of(name, pod).0;
                format!("pod {namespace}/{version} in {member}: {image}\n")
            })
    }
}

fn version_of(name: &str, pod: &OtherPod) -> ObjectVersion {
    ObjectVersion(format!("{name}/{}", pod.uid))
}
