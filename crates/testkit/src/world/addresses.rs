//! Simulates the addresses of control planes, which the webhooks in the members name.

use std::collections::BTreeMap;

use meshwright_model::Name;
use meshwright_model::injection::Injector;
use meshwright_model::plan::Target;
use meshwright_model::version::RevisionName;

use super::State;

/// Addresses of the control planes, and those that the targets in the members were written with.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    assigned: BTreeMap<RevisionName, u64>,
    written: BTreeMap<Target, u64>,
    count: u64,
}

impl State {
    /// Assigns a new address to a revision that has none, or frees its address.
    pub(super) fn assign_address(&mut self, revision: &RevisionName, exists: bool) {
        let addresses = &mut self.addresses;
        if !exists {
            addresses.assigned.remove(revision);
        } else if !addresses.assigned.contains_key(revision) {
            addresses.count += 1;
            addresses.assigned.insert(revision.clone(), addresses.count);
        }
    }

    /// Records the address that a target is written with. A tag is a copy of the webhook of its
    /// revision.
    pub(super) fn copy_address(&mut self, target: &Target, to: Option<&str>) {
        let copied = to.and_then(|value| self.address_to_write(target, value));
        match copied {
            Some(address) => self.addresses.written.insert(target.clone(), address),
            None => self.addresses.written.remove(target),
        };
    }

    fn address_to_write(&self, target: &Target, value: &str) -> Option<u64> {
        match target {
            Target::MemberObjects { revision, .. } => {
                self.addresses.assigned.get(revision).copied()
            }
            Target::Validator { .. } => self.addresses.assigned.get(&value.parse().ok()?).copied(),
            Target::Tag { member, .. } => {
                let canonical = Target::MemberObjects {
                    member: member.clone(),
                    revision: value.parse().ok()?,
                };
                self.addresses.written.get(&canonical).copied()
            }
            _ => None,
        }
    }

    /// Returns true if a target has its value and names a former address of its control plane.
    pub(super) fn names_former_address(&self, target: &Target) -> bool {
        let present = self
            .value(target)
            .and_then(|value| self.address_to_write(target, &value));
        let written = self.addresses.written.get(target).copied();
        matches!((written, present), (Some(written), Some(present)) if written != present)
    }

    /// Returns true if the webhook of an injector calls the present address of its control plane.
    pub(super) fn calls_present_address(&self, member: &Name, injector: &Injector) -> bool {
        let tag = Target::Tag {
            member: member.clone(),
            tag: injector.value.clone(),
        };
        let objects = Target::MemberObjects {
            member: member.clone(),
            revision: injector.revision.clone(),
        };
        let written = &self.addresses.written;
        let named = written.get(&tag).or_else(|| written.get(&objects));
        named.is_none() || named == self.addresses.assigned.get(&injector.revision)
    }
}
