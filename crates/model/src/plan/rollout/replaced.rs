//! Names the objects whose pods a roll-out replaces.

use crate::plan::{Step, WorkloadKind};
use crate::{Name, closed_set};

/// Kind of an object whose pods a roll-out replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReplacedKind {
    /// Deployment of the API `apps/v1`.
    Deployment,
    /// `StatefulSet` of the API `apps/v1`.
    StatefulSet,
    /// `DaemonSet` of the API `apps/v1`.
    DaemonSet,
    /// Pod that no workload owns which we can restart.
    Pod,
}

closed_set!(ReplacedKind {
    Deployment = "deployment",
    StatefulSet = "stateful_set",
    DaemonSet = "daemon_set",
    Pod = "pod",
});

impl From<WorkloadKind> for ReplacedKind {
    fn from(kind: WorkloadKind) -> Self {
        match kind {
            WorkloadKind::Deployment => Self::Deployment,
            WorkloadKind::StatefulSet => Self::StatefulSet,
            WorkloadKind::DaemonSet => Self::DaemonSet,
        }
    }
}

/// Object whose pods a step of a roll-out replaces: a workload, or a pod without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplacedObject<'a> {
    /// Name of the member cluster that holds the object.
    pub cluster: &'a Name,
    /// Namespace of the object.
    pub namespace: &'a str,
    /// Kind of the object.
    pub kind: ReplacedKind,
    /// Name of the object. A pod that is created again under its name is another object, so the
    /// name of a pod is `name/uid`.
    pub name: &'a str,
}

impl<'a> ReplacedObject<'a> {
    /// Returns the object whose pods a step replaces; `None` for a step that replaces none.
    pub fn of_step(step: &'a Step) -> Option<Self> {
        match step {
            Step::Restart {
                member, workload, ..
            } => Some(Self {
                cluster: member,
                namespace: &workload.namespace,
                kind: workload.kind.into(),
                name: &workload.name,
            }),
            Step::Evict {
                member,
                namespace,
                pod,
            } => Some(Self {
                cluster: member,
                namespace,
                kind: ReplacedKind::Pod,
                name: pod,
            }),
            _ => None,
        }
    }

    /// Returns the name of the object as Kubernetes shows it, without the uid of a pod.
    pub fn shown_name(&self) -> &'a str {
        self.name.split('/').next().unwrap_or(self.name)
    }
}
