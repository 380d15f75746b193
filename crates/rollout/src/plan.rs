//! From a stage to its plan: pure functions, each a list in the order it happens.

use model::Name;
use model::plan::{InjectionRequest, Sidecar, Step, Target};
use model::upgrade::LabelPolicy;
use model::version::{RevisionName, Version};

pub mod canary;
pub mod data_plane;
pub mod in_place;
pub mod life;
pub mod precheck;
pub mod rollback;

pub use model::survey::TAGS;

/// The tags that a promotion moves, in this order.
const PROMOTED_TAGS: [&str; 2] = ["stable", "default"];

/// Value of targets that are either there or not.
const PRESENT: &str = "present";

/// One control plane: a revision, the release that runs in it, and what it injects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlane {
    /// Its immutable name.
    pub revision: RevisionName,
    /// The release that it runs.
    pub release: Version,
    /// The proxy image that it injects.
    pub image: String,
}

impl ControlPlane {
    /// What a pod of this revision carries.
    pub fn sidecar(&self) -> Sidecar {
        Sidecar { revision: self.revision.clone(), image: self.image.clone() }
    }
}

/// What plans are built from besides a survey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshTopology {
    /// The member clusters; the first is the config cluster.
    pub members: Vec<Name>,
    /// The control plane that the tags `stable` and `default` point to.
    pub current: ControlPlane,
    /// The other one, while there is an upgrade.
    pub target: Option<ControlPlane>,
    /// How many workloads may be under way at once in the whole mesh.
    pub max_concurrent_restarts: usize,
    /// What becomes of namespaces that name the old revision.
    pub label_policy: LabelPolicy,
}

/// A namespace of a member.
pub type NamespaceKey = (Name, String);

impl MeshTopology {
    fn config_cluster(&self) -> Option<&Name> {
        self.members.first()
    }

    /// The control planes that the mesh has: one, or two while there is a canary.
    pub fn control_planes(&self) -> impl DoubleEndedIterator<Item = &ControlPlane> {
        let target = self.target.as_ref().filter(|target| target.revision != self.current.revision);
        std::iter::once(&self.current).chain(target)
    }

    fn step_per_member(&self, step: impl Fn(&Name) -> Step) -> Vec<Step> {
        self.members.iter().map(step).collect()
    }
}

fn set_step(target: Target, from: Option<String>, to: Option<String>) -> Step {
    Step::Set { target, from, to }
}

fn create_step(target: Target, to: impl ToString) -> Step {
    set_step(target, None, Some(to.to_string()))
}

fn change_step(target: Target, from: impl ToString, to: impl ToString) -> Step {
    set_step(target, Some(from.to_string()), Some(to.to_string()))
}

fn remove_step(target: Target, from: impl ToString) -> Step {
    set_step(target, Some(from.to_string()), None)
}

fn tag_target(member: &Name, tag: &str) -> Target {
    Target::Tag { member: member.clone(), tag: tag.to_owned() }
}

fn await_ready_step(layout: &MeshTopology, line: &ControlPlane) -> Step {
    Step::AwaitReady { revision: line.revision.clone(), members: layout.members.clone() }
}

fn await_unused_step(line: &ControlPlane) -> Step {
    Step::AwaitUnused { revision: line.revision.clone(), left_behind: Vec::new() }
}

fn probe_step(member: &Name, asks: InjectionRequest, line: &ControlPlane) -> Step {
    Step::Probe { member: member.clone(), asks, wanted: line.sidecar() }
}

/// Proof that a tag, or a revision's own name, reaches a line in a member.
fn probe_step_for(member: &Name, value: &str, line: &ControlPlane) -> Step {
    let asks = if value == "default" { InjectionRequest::Default } else { InjectionRequest::Rev(value.to_owned()) };
    probe_step(member, asks, line)
}

#[cfg(test)]
mod tests;
