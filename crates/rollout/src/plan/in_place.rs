//! The stages of an in-place upgrade: the slot keeps its name, objects and address; what runs in it changes.

use model::plan::{Plan, Target};

use super::{Layout, Line, TAGS, add, life, probe_value, ready, shift, tag};

/// Replaces the release that runs in the current revision. Both releases share name and address, so pods that are
/// created meanwhile are injected by whichever replica answers; replicas are replaced only when their successors are
/// ready. Another community version becomes reachable by its own name through an alias tag of the same slot.
pub fn deploy(layout: &Layout, target: &Line) -> Plan {
    let current = &layout.current;
    let revision = &current.revision;
    let alias = target.release.revision_name();
    let aliases =
        layout.members.iter().filter(|_| alias != *revision).map(|member| add(tag(member, alias.as_str()), revision));
    let objects = |member: &model::Name| Target::MemberObjects { member: member.clone(), revision: revision.clone() };
    let probes = layout.members.iter().flat_map(|member| TAGS.map(|name| probe_value(member, name, target)));
    Plan::default()
        .wave("custom resource definitions", layout.each(|member| life::crds(member, target)))
        .wave(
            "roles, service and webhook in each member",
            layout.each(|member| shift(objects(member), &current.release, &target.release)),
        )
        .then(life::limits())
        .wave(
            "control plane",
            [shift(Target::ControlPlane { revision: revision.clone() }, &current.release, &target.release)],
        )
        .wave("ready and synced", [ready(layout, target)])
        .wave("alias tags", aliases)
        .wave("dry runs", probes)
}
