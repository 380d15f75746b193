//! From a stage to its plan: pure functions, each a list in the order it happens.

use model::Name;
use model::plan::{Asks, Sidecar, Step, Target};
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
const CURRENT_TAGS: [&str; 2] = ["stable", "default"];

/// Value of targets that are either there or not.
const PRESENT: &str = "present";

/// One control plane: a revision, the release that runs in it, and what it injects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its immutable name.
    pub revision: RevisionName,
    /// The release that it runs.
    pub release: Version,
    /// The proxy image that it injects.
    pub image: String,
}

impl Line {
    /// What a pod of this revision carries.
    pub fn sidecar(&self) -> Sidecar {
        Sidecar { revision: self.revision.clone(), image: self.image.clone() }
    }
}

/// What plans are built from besides a survey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The member clusters; the first is the config cluster.
    pub members: Vec<Name>,
    /// The control plane that the tags `stable` and `default` point to.
    pub current: Line,
    /// The other one, while there is an upgrade.
    pub target: Option<Line>,
    /// How many workloads may be under way at once in the whole mesh.
    pub width: usize,
    /// What becomes of namespaces that name the old revision.
    pub labels: LabelPolicy,
}

/// A namespace of a member.
pub type NamespaceKey = (Name, String);

impl Layout {
    fn config(&self) -> Option<&Name> {
        self.members.first()
    }

    /// The control planes that the mesh has: one, or two while there is a canary.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = &Line> {
        let target = self.target.as_ref().filter(|target| target.revision != self.current.revision);
        std::iter::once(&self.current).chain(target)
    }

    fn each(&self, step: impl Fn(&Name) -> Step) -> Vec<Step> {
        self.members.iter().map(step).collect()
    }
}

fn set(target: Target, from: Option<String>, to: Option<String>) -> Step {
    Step::Set { target, from, to }
}

fn add(target: Target, to: impl ToString) -> Step {
    set(target, None, Some(to.to_string()))
}

fn shift(target: Target, from: impl ToString, to: impl ToString) -> Step {
    set(target, Some(from.to_string()), Some(to.to_string()))
}

fn remove(target: Target, from: impl ToString) -> Step {
    set(target, Some(from.to_string()), None)
}

fn tag(member: &Name, tag: &str) -> Target {
    Target::Tag { member: member.clone(), tag: tag.to_owned() }
}

fn ready(layout: &Layout, line: &Line) -> Step {
    Step::AwaitReady { revision: line.revision.clone(), members: layout.members.clone() }
}

fn unused(line: &Line) -> Step {
    Step::AwaitUnused { revision: line.revision.clone(), left_behind: Vec::new() }
}

fn probe(member: &Name, asks: Asks, line: &Line) -> Step {
    Step::Probe { member: member.clone(), asks, wanted: line.sidecar() }
}

/// Proof that a tag, or a revision's own name, reaches a line in a member.
fn probe_value(member: &Name, value: &str, line: &Line) -> Step {
    let asks = if value == "default" { Asks::Default } else { Asks::Rev(value.to_owned()) };
    probe(member, asks, line)
}

#[cfg(test)]
mod tests;
