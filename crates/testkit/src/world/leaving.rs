//! Answers the questions of a deletion for the fake clusters.

use std::collections::BTreeSet;

use async_trait::async_trait;
use meshwright_model::Name;
use meshwright_model::injection::Injector;
use meshwright_model::leftover::Leftover;
use meshwright_model::plan::Target;
use meshwright_rollout::plan::{ControlPlane, TAGS};
use meshwright_rollout::ports::{ClusterError, TeardownInspection};

use super::{FakeClusters, State};

impl State {
    /// Writes the root certificates into every member. An istiod does this in every namespace, and
    /// does not remove them at its end.
    pub(super) fn write_certificates(&mut self) {
        for member in self.members.clone() {
            let target = Target::Certificates { member };
            if self.value(&target).is_none() {
                self.set_value(target, Some("present".into()));
            }
        }
    }

    /// Returns the targets in a member that the deletion of the mesh removes.
    fn removed_with_mesh(&self, member: &Name) -> Vec<&Target> {
        let theirs = |target: &Target| {
            matches!(
                target,
                Target::Crds { .. } | Target::NamespaceLabel { .. } | Target::Workload { .. }
            )
        };
        let here = self
            .targets
            .iter()
            .filter(|(target, cell)| target.member() == Some(member) && cell.value.is_some());
        here.map(|(target, _)| target)
            .filter(|target| !theirs(target))
            .collect()
    }
}

#[async_trait]
impl TeardownInspection for FakeClusters {
    async fn list_injectors(&self, member: &Name) -> Result<Vec<Injector>, ClusterError> {
        let state = self.lock();
        if let (true, Some((clock, passes))) = (state.unreachable.contains(member), &state.silence)
        {
            clock.advance(*passes);
        }
        state.check_reachable(Some(member))?;
        Ok(state.injectors(member))
    }

    async fn list_remaining_objects(&self, member: &Name) -> Result<Vec<String>, ClusterError> {
        let state = self.lock();
        state.check_reachable(Some(member))?;
        let left = state.removed_with_mesh(member);
        Ok(left.into_iter().map(Target::to_string).collect())
    }

    async fn list_leftovers(
        &self,
        member: &Name,
        _line: &ControlPlane,
        known_tags: Option<&BTreeSet<String>>,
    ) -> Result<Vec<Leftover>, ClusterError> {
        let state = self.lock();
        let object =
            |target: &&Target| Leftover::for_object(member, "ConfigMap", None, &target.to_string());
        let unknown_alias = |target: &&Target, known: &BTreeSet<String>| matches!(target, Target::Tag { tag, .. } if !TAGS.contains(&tag.as_str()) && !known.contains(tag));
        let removed = known_tags.map_or_else(Vec::new, |known| {
            let mut targets = state.removed_with_mesh(member);
            targets.retain(|target| !unknown_alias(target, known));
            targets
        });
        let mut left: Vec<Leftover> = removed.iter().map(object).collect();
        if state
            .value(&Target::Crds {
                member: member.clone(),
            })
            .is_some()
        {
            left.push(Leftover::for_object(
                member,
                "CustomResourceDefinition",
                None,
                "gateways.networking.istio.io",
            ));
        }
        Ok(left)
    }
}
