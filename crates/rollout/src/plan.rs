//! Builds the plans of stages and operations: pure functions, each of which lists its waves in the
//! order in which they run.

use meshwright_model::Name;
use meshwright_model::plan::{InjectionRequest, Sidecar, Step, Target};
use meshwright_model::rollout::RolloutPolicy;
use meshwright_model::upgrade::LabelPolicy;
use meshwright_model::version::{RevisionName, Version};

pub mod canary;
pub mod data_plane;
pub mod in_place;
pub mod lifecycle;
pub mod precheck;
pub mod rollback;
mod waves;

pub use meshwright_model::observation::TAGS;

/// Revision tags that a promotion moves, in this order.
const PROMOTED_TAGS: [&str; 2] = ["stable", "default"];

/// Value of targets that are either present or absent.
const PRESENT: &str = "present";

/// A control plane: a revision, the release that runs in it, and the proxy image that it injects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlane {
    /// Name of the revision, which never changes.
    pub revision: RevisionName,
    /// Istio release that the control plane runs.
    pub release: Version,
    /// Proxy image that the control plane injects, with registry and image tag.
    pub image: String,
}

impl ControlPlane {
    /// Returns the sidecar of a pod that this control plane injects.
    pub fn sidecar(&self) -> Sidecar {
        Sidecar {
            revision: self.revision.clone(),
            image: self.image.clone(),
        }
    }
}

/// Members and control planes of a mesh, from which plans are built together with an observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshTopology {
    /// Names of the member clusters; the first one is the config cluster.
    pub members: Vec<Name>,
    /// Control plane that the tags `stable` and `default` point to.
    pub current: ControlPlane,
    /// Control plane that an upgrade leads to, while the mesh has an upgrade. In an upgrade in
    /// place it has the revision name of `current`.
    pub target: Option<ControlPlane>,
    /// Maximum number of workloads in the whole mesh that restart at once.
    pub max_concurrent_restarts: usize,
    /// Policy for namespaces whose label names the old revision: relabel, alias or block.
    pub label_policy: LabelPolicy,
    /// Waves and limits of the restarts. The waves are those of a roll-out or of a restart of the
    /// mesh; the limits hold in a move and in a rollback too.
    pub rollout: RolloutPolicy,
}

/// A member's name and the name of a namespace in it.
pub type NamespaceKey = (Name, String);

impl MeshTopology {
    /// Returns the config cluster, if the mesh has a member.
    fn config_cluster(&self) -> Option<&Name> {
        self.members.first()
    }

    /// Returns the control planes of the mesh: one, or two while there is a canary.
    pub fn control_planes(&self) -> impl DoubleEndedIterator<Item = &ControlPlane> {
        let target = self
            .target
            .as_ref()
            .filter(|target| target.revision != self.current.revision);
        std::iter::once(&self.current).chain(target)
    }

    /// Builds one step for each member.
    fn step_per_member(&self, step: impl Fn(&Name) -> Step) -> Vec<Step> {
        self.members.iter().map(step).collect()
    }
}

fn set_step(target: Target, from: Option<String>, to: Option<String>) -> Step {
    Step::Set { target, from, to }
}

/// Builds a step that creates an absent target.
fn create_step(target: Target, to: impl ToString) -> Step {
    set_step(target, None, Some(to.to_string()))
}

/// Builds a step that changes a target from one value to another.
fn change_step(target: Target, from: impl ToString, to: impl ToString) -> Step {
    set_step(target, Some(from.to_string()), Some(to.to_string()))
}

/// Builds a step that removes a target.
fn remove_step(target: Target, from: impl ToString) -> Step {
    set_step(target, Some(from.to_string()), None)
}

fn tag_target(member: &Name, tag: &str) -> Target {
    Target::Tag {
        member: member.clone(),
        tag: tag.to_owned(),
    }
}

/// Builds a step that waits until a control plane is ready and all members are synced.
fn await_ready_step(layout: &MeshTopology, line: &ControlPlane) -> Step {
    Step::AwaitReady {
        revision: line.revision.clone(),
        members: layout.members.clone(),
    }
}

/// Builds a step that waits until nothing uses the revision of a control plane.
fn await_unused_step(line: &ControlPlane) -> Step {
    Step::AwaitUnused {
        revision: line.revision.clone(),
        left_behind: Vec::new(),
        own_tags: true,
    }
}

/// Builds a dry run of a pod that a control plane has to inject.
fn probe_step(member: &Name, asks: InjectionRequest, line: &ControlPlane) -> Step {
    Step::Probe {
        member: member.clone(),
        asks,
        wanted: line.sidecar(),
    }
}

/// Builds a dry run that proves that a tag, or a revision's own name, reaches a control plane in a
/// member.
fn probe_step_for(member: &Name, value: &str, line: &ControlPlane) -> Step {
    let asks = if value == "default" {
        InjectionRequest::Default
    } else {
        InjectionRequest::Rev(value.to_owned())
    };
    probe_step(member, asks, line)
}

#[cfg(test)]
mod tests;
