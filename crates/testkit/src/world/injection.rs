//! Computes the sidecars of pods in the fake clusters from the tags and revisions of the mesh.

use meshwright_model::Name;
use meshwright_model::injection::{Injection, Injector, NamespaceLabels, PodLabels, injected_by};
use meshwright_model::plan::{Sidecar, Target, WorkloadRef};
use meshwright_model::version::RevisionName;
use meshwright_rollout::plan::data_plane::parse_labels;
use meshwright_rollout::ports::{ClusterError, FencingToken, NextPod};

use super::{State, proxy_image};

impl State {
    /// Returns the webhooks of a member, as its tags and revisions define them.
    pub(super) fn injectors(&self, member: &Name) -> Vec<Injector> {
        let injector = |value: &str, revision: &str| Injector {
            value: value.to_owned(),
            revision: revision.parse().expect("only revisions are pointed to"),
            serves_default: value == "default",
        };
        let aliased = |revision: &RevisionName| {
            let tag = Target::Tag {
                member: member.clone(),
                tag: revision.to_string(),
            };
            self.targets
                .get(&tag)
                .is_some_and(|cell| cell.value.is_some())
        };
        let known = self
            .targets
            .iter()
            .filter_map(|(target, cell)| match target {
                Target::Tag { member: of, tag } if of == member => {
                    Some(injector(tag, cell.value.as_ref()?))
                }
                Target::MemberObjects {
                    member: of,
                    revision,
                } if of == member && self.has_webhook(target) && !aliased(revision) => {
                    Some(injector(revision.as_str(), revision.as_str()))
                }
                _ => None,
            });
        known.collect()
    }

    pub(super) fn revision_sidecar(&self, revision: &RevisionName) -> Option<Sidecar> {
        let release = self.injecting_release(&Target::ControlPlane {
            revision: revision.clone(),
        })?;
        Some(Sidecar {
            revision: revision.clone(),
            image: proxy_image(&release),
        })
    }

    /// Returns the sidecar of a pod that is created now. Returns `Err` if the pod is refused,
    /// because its webhook has no istiod or because several webhooks match.
    pub(super) fn inject_pod(
        &self,
        member: &Name,
        labels: &NamespaceLabels,
        pod: &PodLabels,
    ) -> Result<Option<Sidecar>, String> {
        let mut injectors = self.injectors(member);
        let injection = injected_by(labels, pod, &injectors);
        injectors.retain(|injector| self.calls_present_address(member, injector));
        if injected_by(labels, pod, &injectors) != injection {
            return Err("no istiod answers at the address of the webhook".into());
        }
        match injection {
            Injection::Injected(revision) => self
                .revision_sidecar(&revision)
                .map(Some)
                .ok_or(format!("no istiod answers for {revision}")),
            Injection::NotInjected(_) => Ok(None),
            Injection::Ambiguous(all) => Err(format!("{} webhooks match", all.len())),
        }
    }

    pub(super) fn namespace_labels(&self, member: &Name, namespace: &str) -> NamespaceLabels {
        let target = Target::NamespaceLabel {
            member: member.clone(),
            namespace: namespace.to_owned(),
        };
        parse_labels(self.value(&target).as_deref())
    }

    /// Replaces the pod of this name, as an eviction does.
    pub(super) fn evict(
        &mut self,
        member: &Name,
        namespace: &str,
        pod: &str,
        permit: &FencingToken,
    ) -> Result<(), ClusterError> {
        self.check_reachable(Some(member))?;
        if permit.deadline.has_passed() {
            return Err(ClusterError::Expired);
        }
        if self.evictions_forbidden {
            return Err(ClusterError::Delayed {
                place: format!("pod {namespace}/{pod} in {member}"),
                cause: "a disruption budget allows no eviction".into(),
            });
        }
        if self.replace_other_pod(member, namespace, pod) {
            return Ok(());
        }
        let gone = || ClusterError::Changed {
            place: format!("pod {namespace}/{pod}"),
        };
        let (name, number) = pod.rsplit_once('-').ok_or_else(gone)?;
        let number: usize = number.parse().map_err(|_| gone())?;
        let owner = self
            .workloads
            .keys()
            .find(|(at, of)| at == member && of.namespace == namespace && of.name == name)
            .cloned()
            .ok_or_else(gone)?;
        let carried = match self.next_pod(member, &owner.1) {
            Some(NextPod::Injected(sidecar)) => Some(sidecar),
            Some(NextPod::NotInjected) => None,
            Some(NextPod::Refused(_)) | None => return Ok(()),
        };
        let pods = &mut self.workloads.get_mut(&owner).expect("found above").pods;
        *pods.get_mut(number).ok_or_else(gone)? = carried;
        Ok(())
    }

    /// Replaces this many pods. If the new pods are refused, the old ones stay, as in a rolling
    /// update.
    pub(super) fn create_pods(&mut self, key: &(Name, WorkloadRef), count: usize) {
        let carried = match self.next_pod(&key.0, &key.1) {
            Some(NextPod::Injected(sidecar)) => Some(sidecar),
            Some(NextPod::NotInjected) => None,
            Some(NextPod::Refused(_)) | None => return,
        };
        let workload = self.workloads.get_mut(key).expect("admission knows it");
        let total = workload.pods.len();
        workload.pods.rotate_left(count.min(total));
        workload.pods[total - count.min(total)..].fill(carried);
        workload.outdated = workload.outdated.saturating_sub(count);
    }
}
