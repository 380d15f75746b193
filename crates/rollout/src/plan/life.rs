//! Bringing a mesh up and taking it down.

use model::Name;
use model::injection::Injector;
use model::plan::{Plan, Step, Target};

use super::{Layout, Line, PRESENT, TAGS, add, probe_value, ready, remove, set, tag};

/// Brings a mesh up. Footholds come before links: istiod decides whether it leads in a member when it first sees it.
pub fn create(layout: &Layout) -> Plan {
    let line = &layout.current;
    let tags = layout.members.iter().flat_map(|member| TAGS.map(|name| add(tag(member, name), &line.revision)));
    let probes = layout.members.iter().flat_map(|member| TAGS.map(|name| probe_value(member, name, line)));
    Plan::default()
        .wave("mesh namespace and authority", [add(Target::Home, PRESENT)])
        .wave(
            "system namespace and accounts in each member",
            layout.each(|member| add(Target::Foothold { member: member.clone() }, PRESENT)),
        )
        .wave(
            "access of the control planes to each member",
            layout.each(|member| add(Target::Link { member: member.clone() }, PRESENT)),
        )
        .then(line_up(layout, line))
        .wave("tags", tags)
        .wave("dry runs through the tags", probes)
        .wave(
            "validation",
            layout.config().map(|member| add(Target::Validator { member: member.clone() }, &line.revision)),
        )
}

/// Brings one control plane up beside whatever else there is: nothing refers to it yet.
pub(super) fn line_up(layout: &Layout, line: &Line) -> Plan {
    let revision = &line.revision;
    let objects = |member: &Name| Target::MemberObjects { member: member.clone(), revision: revision.clone() };
    Plan::default()
        .wave("address", [add(Target::Address { revision: revision.clone() }, PRESENT)])
        .wave("custom resource definitions", layout.each(|member| crds(member, line)))
        .wave("roles, service and webhook in each member", layout.each(|member| add(objects(member), &line.release)))
        .then(limits())
        .wave("control plane", [add(Target::ControlPlane { revision: revision.clone() }, &line.release)])
        .wave("ready and synced", [ready(layout, line)])
        .wave("dry runs", layout.each(|member| probe_value(member, revision.as_str(), line)))
}

/// Brings the limits of the mesh's namespace in the hosting cluster to the members' addresses of today.
pub(super) fn limits() -> Plan {
    Plan::default().wave("limits of the mesh's namespace", [add(Target::Limits, PRESENT)])
}

/// Definitions belong to the cluster and only move forward; what is there now is read by the step itself.
pub(super) fn crds(member: &Name, line: &Line) -> Step {
    add(Target::Crds { member: member.clone() }, &line.release)
}

/// Takes one control plane away. Its webhook goes after its istiod: a late pod fails visibly instead of starting bare.
pub(super) fn line_down(layout: &Layout, line: &Line) -> Plan {
    let revision = &line.revision;
    let objects = |member: &Name| Target::MemberObjects { member: member.clone(), revision: revision.clone() };
    Plan::default()
        .wave("control plane", [remove(Target::ControlPlane { revision: revision.clone() }, &line.release)])
        .wave("roles, service and webhook in each member", layout.each(|member| remove(objects(member), &line.release)))
        .wave("address", [remove(Target::Address { revision: revision.clone() }, PRESENT)])
}

/// The result of a look at each member before a deletion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Farewell {
    /// Members that answer, with the mesh's injectors in them.
    pub answering: Vec<(Name, Vec<Injector>)>,
    /// Members that are lost to us and are left behind, because a person asked for that.
    pub left_behind: Vec<Name>,
}

/// Takes a mesh down, with the second revision that an abandoned upgrade may have left. What istiod wrote into every
/// namespace goes after istiod, which would write it again. Members that are left behind are looked at before anything is
/// removed and once more at the end: one that answers is not left behind. Custom resource definitions stay: they may hold the
/// users' own resources.
pub fn delete(layout: &Layout, farewell: &Farewell) -> Plan {
    let gone = |target: Target, from: &str| set(target, Some(from.to_owned()), None);
    let revision = layout.current.revision.as_str();
    let both = |name: &str| layout.lines().any(|line| line.revision.as_str() == name);
    let answering: Vec<Name> = farewell.answering.iter().map(|(member, _)| member.clone()).collect();
    let here = Layout { members: answering, ..layout.clone() };
    // Aliases that earlier upgrades left are names of the mesh too.
    let names = |(member, injectors): &(Name, Vec<Injector>)| {
        let all = injectors.iter().filter(|injector| !both(&injector.value));
        all.map(|injector| gone(tag(member, &injector.value), injector.revision.as_str())).collect::<Vec<_>>()
    };
    let tags: Vec<Step> = farewell.answering.iter().flat_map(names).collect();
    let validator = layout.config().filter(|member| here.members.contains(*member));
    let unused =
        |line: &Line| Step::AwaitUnused { revision: line.revision.clone(), left_behind: farewell.left_behind.clone() };
    let lines_down = layout.lines().rev().fold(Plan::default(), |plan, line| plan.then(line_down(&here, line)));
    let lost = || farewell.left_behind.iter().map(|member| Step::LeaveBehind { member: member.clone() });
    Plan::default()
        .wave("members that do not answer", lost())
        .wave("nothing uses the mesh", layout.lines().map(unused))
        .wave("validation", validator.map(|member| gone(Target::Validator { member: member.clone() }, revision)))
        .wave("tags", tags)
        .then(lines_down)
        .wave(
            "root certificates in each namespace",
            here.each(|member| gone(Target::Certificates { member: member.clone() }, PRESENT)),
        )
        .wave(
            "access of the control planes",
            layout.each(|member| gone(Target::Link { member: member.clone() }, PRESENT)),
        )
        .wave(
            "system namespace and accounts",
            here.each(|member| gone(Target::Foothold { member: member.clone() }, PRESENT)),
        )
        .wave("nothing is left", here.each(|member| Step::AwaitGone { member: member.clone() }))
        .wave("limits of the mesh's namespace", [gone(Target::Limits, PRESENT)])
        .wave("mesh namespace and authority", [gone(Target::Home, PRESENT)])
        .wave("members that are left behind", lost())
}
