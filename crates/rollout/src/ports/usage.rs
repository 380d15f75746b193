//! Defines the search for the users of a revision, which decides when the revision may be removed.
//! The roll-out, the rollback and the retirement ask the same question.

use meshwright_model::Name;
use meshwright_model::plan::{Sidecar, WorkloadRef};
use meshwright_model::version::RevisionName;

use super::ObjectVersion;

/// Search for the users of a revision.
#[derive(Debug, Clone, Copy)]
pub struct UserSearch<'a> {
    /// Revision whose users are searched.
    pub revision: &'a RevisionName,
    /// Members that are left behind. They are not asked, and their proxies do not count: these may
    /// stay connected although the API server is gone for good.
    pub left_behind: &'a [Name],
    /// True if tags of our own that point to the revision count as users. The deletion of a mesh
    /// removes these tags in a later step, so they do not count there.
    pub own_tags: bool,
    /// True if only the members are searched, and no replica of istiod is asked for its proxies. A
    /// roll-out looks for pods, and a replica that does not answer must not stop it.
    pub members_only: bool,
}

/// Users of a revision, and the places that did not answer the search.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevisionUsers {
    /// Users that were found.
    pub users: Vec<RevisionUser>,
    /// Clusters and replicas of istiod that did not answer, as text for people. As long as there is
    /// one, the revision counts as used.
    pub silent: Vec<String>,
}

impl RevisionUsers {
    /// Returns true if every place has answered and none has a user.
    pub fn is_unused(&self) -> bool {
        self.users.is_empty() && self.silent.is_empty()
    }
}

/// User of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionUser {
    /// Member cluster that holds the user; for a proxy, the cluster that the proxy claims to be in.
    pub member: String,
    /// Kind of the user.
    pub kind: UserKind,
    /// Name of the user, with its namespace if it has one.
    pub name: String,
    /// Sidecar of a pod. `None` for a user that is no pod.
    pub sidecar: Option<Sidecar>,
    /// Workload that owns the pod or the template, if a restart of ours can replace its pods.
    pub workload: Option<WorkloadRef>,
    /// Identity of a pod that its controller would create again after an eviction. `None` for a
    /// bare pod, for the pod of a Job, and for a user that is no pod.
    pub evictable: Option<ObjectVersion>,
}

/// Kinds of users of a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserKind {
    /// Live pod that the revision injected.
    Pod,
    /// Proxy that is connected to a replica of the revision.
    Proxy,
    /// Pod template that names the revision: of a workload, a Job or a `CronJob`.
    Template,
    /// Namespace whose label names the revision.
    Namespace,
    /// Tag that points to the revision.
    Tag,
    /// Istio resource or Gateway whose label names the revision.
    Resource,
}

impl std::fmt::Display for RevisionUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            UserKind::Pod => "pod",
            UserKind::Proxy => "proxy",
            UserKind::Template => "pod template of",
            UserKind::Namespace => "namespace",
            UserKind::Tag => "tag",
            UserKind::Resource => "",
        };
        let space = if kind.is_empty() { "" } else { " " };
        write!(f, "{kind}{space}{} in {}", self.name, self.member)
    }
}
