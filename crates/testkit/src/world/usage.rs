//! Finds the users of a revision in the fake clusters, and asks for the next pods of workloads.

use meshwright_model::Name;
use meshwright_model::plan::{Target, WorkloadRef};
use meshwright_model::version::RevisionName;
use meshwright_rollout::plan::data_plane::parse_labels;
use meshwright_rollout::ports::{
    ClusterError, NextPod, RevisionUser, RevisionUsers, UserKind, UserSearch,
};

use super::{FakeClusters, State};

impl FakeClusters {
    /// Returns the number of searches for the users of a revision so far.
    pub fn count_user_searches(&self) -> usize {
        self.lock().user_searches
    }

    /// Sets the answer of admission to every later pod of a workload, in place of what the webhooks
    /// and labels give.
    pub fn set_next_pod(&self, member: &str, workload: &WorkloadRef, answer: NextPod) {
        let key = (member.parse().expect(member), workload.clone());
        self.lock().next_pods.insert(key, answer);
    }
}

impl State {
    /// Returns the answer of admission to a new pod of a workload.
    pub(super) fn next_pod(&self, member: &Name, workload: &WorkloadRef) -> Option<NextPod> {
        let key = (member.clone(), workload.clone());
        let known = self.workloads.get(&key)?;
        if let Some(answer) = self.next_pods.get(&key) {
            return Some(answer.clone());
        }
        let labels = self.namespace_labels(member, &workload.namespace);
        Some(match self.inject_pod(member, &labels, &known.template) {
            Ok(Some(sidecar)) => NextPod::Injected(sidecar),
            Ok(None) => NextPod::NotInjected,
            Err(reason) => NextPod::Refused(reason),
        })
    }

    /// Lists the users of a revision, as a search in real clusters would.
    pub(super) fn find_users(
        &self,
        search: &UserSearch<'_>,
    ) -> Result<RevisionUsers, ClusterError> {
        let mut found = RevisionUsers::default();
        for member in &self.members {
            if search.left_behind.contains(member) {
                continue;
            }
            match self.check_reachable(Some(member)) {
                Ok(()) => {}
                Err(ClusterError::Expired) => return Err(ClusterError::Expired),
                Err(error) => {
                    found.silent.push(error.to_string());
                    continue;
                }
            }
            found.users.extend(self.pod_users(member, search.revision));
            found
                .users
                .extend(self.other_pod_users(member, search.revision));
            if !self.is_alias(member, search.revision) {
                found
                    .users
                    .extend(self.label_users(member, search.revision));
            }
            if search.own_tags {
                found.users.extend(self.tag_users(member, search.revision));
            }
        }
        found.users.extend(self.pinned.iter().map(|resource| {
            let (name, member) = resource.split_once(" in ").unwrap_or((resource, "c1"));
            RevisionUser {
                member: member.to_owned(),
                kind: UserKind::Resource,
                name: name.to_owned(),
                sidecar: None,
                workload: None,
                evictable: None,
            }
        }));
        Ok(found)
    }

    fn pod_users(&self, member: &Name, revision: &RevisionName) -> Vec<RevisionUser> {
        let here = self.workloads.iter().filter(|((at, _), _)| at == member);
        let pods = here.flat_map(|((_, workload), known)| {
            let carrying = known.pods.iter().enumerate().filter(|(_, pod)| {
                pod.as_ref()
                    .is_some_and(|sidecar| sidecar.revision == *revision)
            });
            carrying.map(move |(number, sidecar)| RevisionUser {
                sidecar: sidecar.clone(),
                member: member.to_string(),
                kind: UserKind::Pod,
                name: format!("{}/{}-{number}", workload.namespace, workload.name),
                workload: Some(workload.clone()),
                evictable: None,
            })
        });
        pods.collect()
    }

    /// Lists the pod templates and the namespaces whose label names the revision.
    fn label_users(&self, member: &Name, revision: &RevisionName) -> Vec<RevisionUser> {
        let templates = self
            .workloads
            .iter()
            .filter(|((at, _), _)| at == member)
            .filter(|(_, known)| known.template.rev.as_deref() == Some(revision.as_str()))
            .map(|((_, workload), _)| RevisionUser {
                member: member.to_string(),
                kind: UserKind::Template,
                name: workload.to_string(),
                sidecar: None,
                workload: Some(workload.clone()),
                evictable: None,
            });
        let namespaces = self.targets.iter().filter_map(|(target, cell)| {
            let Target::NamespaceLabel {
                member: at,
                namespace,
            } = target
            else {
                return None;
            };
            let labels = parse_labels(cell.value.as_deref());
            let names = at == member && labels.rev.as_deref() == Some(revision.as_str());
            names.then(|| RevisionUser {
                member: member.to_string(),
                kind: UserKind::Namespace,
                name: namespace.clone(),
                sidecar: None,
                workload: None,
                evictable: None,
            })
        });
        templates.chain(namespaces).collect()
    }

    /// Lists the tags that point to the revision. The revision's own webhook is no tag.
    fn tag_users(&self, member: &Name, revision: &RevisionName) -> Vec<RevisionUser> {
        let tags = self.targets.iter().filter_map(|(target, cell)| {
            let Target::Tag { member: at, tag } = target else {
                return None;
            };
            let points = at == member && cell.value.as_deref() == Some(revision.as_str());
            (points && tag != revision.as_str()).then(|| RevisionUser {
                member: member.to_string(),
                kind: UserKind::Tag,
                name: tag.clone(),
                sidecar: None,
                workload: None,
                evictable: None,
            })
        });
        tags.collect()
    }

    /// Returns true if the revision's name is an alias of another revision by now.
    fn is_alias(&self, member: &Name, revision: &RevisionName) -> bool {
        let own = Target::Tag {
            member: member.clone(),
            tag: revision.to_string(),
        };
        self.value(&own)
            .is_some_and(|value| value != revision.as_str())
    }
}
