//! How a deletion looks at the imagined clusters.

use async_trait::async_trait;
use model::Name;
use model::injection::Injector;
use model::leftover::Leftover;
use model::plan::Target;
use rollout::plan::Line;
use rollout::ports::{Leaving, WorldError};

use super::{FakeWorld, State};

impl State {
    /// An istiod writes its root into every namespace of every member, and leaves it there.
    pub(super) fn write_certificates(&mut self) {
        for member in self.members.clone() {
            let target = Target::Certificates { member };
            if self.value(&target).is_none() {
                self.put(target, Some("present".into()));
            }
        }
    }

    /// The targets that a deletion removes in a member.
    fn removed_with_the_mesh(&self, member: &Name) -> Vec<String> {
        let theirs = |target: &Target| {
            matches!(target, Target::Crds { .. } | Target::NamespaceLabel { .. } | Target::Workload { .. })
        };
        let here = self.cells.iter().filter(|(target, cell)| target.member() == Some(member) && cell.value.is_some());
        here.filter(|(target, _)| !theirs(target)).map(|(target, _)| target.to_string()).collect()
    }
}

#[async_trait]
impl Leaving for FakeWorld {
    async fn injectors(&self, member: &Name) -> Result<Vec<Injector>, WorldError> {
        let state = self.lock();
        state.reach(Some(member))?;
        Ok(state.injectors(member))
    }

    async fn remains(&self, member: &Name) -> Result<Vec<String>, WorldError> {
        let state = self.lock();
        state.reach(Some(member))?;
        Ok(state.removed_with_the_mesh(member))
    }

    async fn stays(&self, member: &Name, _line: &Line, left_behind: bool) -> Result<Vec<Leftover>, WorldError> {
        let state = self.lock();
        let object = |name: &String| Leftover::object(member, "Thing", None, name);
        let removed = if left_behind { state.removed_with_the_mesh(member) } else { Vec::new() };
        let mut left: Vec<Leftover> = removed.iter().map(object).collect();
        if state.value(&Target::Crds { member: member.clone() }).is_some() {
            left.push(Leftover::object(member, "CustomResourceDefinition", None, "gateways.networking.istio.io"));
        }
        Ok(left)
    }
}
