//! Names steps and their targets for people, in views and in problems.

use crate::plan::{InjectionRequest, Step, Target, WorkloadKind, WorkloadRef};

impl std::fmt::Display for WorkloadRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            WorkloadKind::Deployment => "deployment",
            WorkloadKind::StatefulSet => "statefulset",
            WorkloadKind::DaemonSet => "daemonset",
        };
        write!(f, "{}/{kind}/{}", self.namespace, self.name)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::MeshNamespace => write!(f, "namespace and authority of the mesh"),
            Self::Limits => write!(f, "limits of the mesh's namespace"),
            Self::MemberBootstrap { member } => {
                write!(f, "system namespace and accounts in {member}")
            }
            Self::RemoteAccess { member } => write!(f, "access of the control planes to {member}"),
            Self::Address { revision } => write!(f, "address of {revision}"),
            Self::Crds { member } => write!(f, "custom resource definitions in {member}"),
            Self::MemberObjects { member, revision } => {
                write!(f, "objects of {revision} in {member}")
            }
            Self::Certificates { member } => {
                write!(f, "root certificates in the namespaces of {member}")
            }
            Self::ControlPlane { revision } => write!(f, "control plane {revision}"),
            Self::Tag { member, tag } => write!(f, "tag {tag} in {member}"),
            Self::Validator { member } => write!(f, "default validation in {member}"),
            Self::NamespaceLabel { member, namespace } => {
                write!(f, "label of namespace {namespace} in {member}")
            }
            Self::Workload { member, workload } => write!(f, "{workload} in {member}"),
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Set {
                target,
                to: Some(to),
                ..
            } => write!(f, "{target} → {to}"),
            Self::Set {
                target, to: None, ..
            } => write!(f, "remove {target}"),
            Self::Restart {
                member,
                workload,
                wanted,
                ..
            } => {
                write!(f, "restart {workload} in {member} onto {}", wanted.revision)
            }
            Self::Evict {
                member,
                namespace,
                pod,
            } => {
                let name = pod.split('/').next().unwrap_or_default();
                write!(f, "evict pod {namespace}/{name} in {member}")
            }
            Self::Converge { off, selection, .. } => {
                let which = match off {
                    Some(former) => format!("every workload that has pods of {former}"),
                    None => "every workload that has outdated pods".to_owned(),
                };
                match selection {
                    Some(chosen) => write!(f, "restart {which}, within {}", chosen.describe()),
                    None => write!(f, "restart {which}"),
                }
            }
            Self::Soak { seconds } => write!(f, "wait {seconds} s before the next wave"),
            Self::Probe {
                member,
                asks: InjectionRequest::Rev(value),
                wanted,
            } => {
                write!(
                    f,
                    "dry run in {member}: istio.io/rev={value} is injected by {}",
                    wanted.revision
                )
            }
            Self::Probe {
                member,
                asks: InjectionRequest::Default,
                wanted,
            } => {
                write!(
                    f,
                    "dry run in {member}: istio-injection=enabled is injected by {}",
                    wanted.revision
                )
            }
            Self::AwaitReady { revision, .. } => {
                write!(f, "wait until {revision} is ready and synced")
            }
            Self::AwaitUnused { revision, .. } => write!(f, "wait until nothing uses {revision}"),
            Self::AwaitGone { member } => write!(f, "look that nothing is left in {member}"),
            Self::LeaveBehind { member } => {
                write!(f, "leave {member} behind, which does not answer")
            }
        }
    }
}
