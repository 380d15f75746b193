//! Bringing a mesh up and taking it down.

use model::Name;
use model::injection::Injector;
use model::plan::{Plan, Step, Target};

use super::{MeshTopology, ControlPlane, PRESENT, TAGS, create_step, probe_step_for, await_ready_step, remove_step, set_step, tag_target};

/// Brings a mesh up. Footholds come before links: istiod decides whether it leads in a member when it first sees it.
pub fn plan_create(layout: &MeshTopology) -> Plan {
    let line = &layout.current;
    let tags = layout.members.iter().flat_map(|member| TAGS.map(|name| create_step(tag_target(member, name), &line.revision)));
    let probes = layout.members.iter().flat_map(|member| TAGS.map(|name| probe_step_for(member, name, line)));
    Plan::default()
        .with_wave("mesh namespace and authority", [create_step(Target::Home, PRESENT)])
        .with_wave(
            "system namespace and accounts in each member",
            layout.step_per_member(|member| create_step(Target::Foothold { member: member.clone() }, PRESENT)),
        )
        .with_wave(
            "access of the control planes to each member",
            layout.step_per_member(|member| create_step(Target::Link { member: member.clone() }, PRESENT)),
        )
        .followed_by(plan_control_plane_install(layout, line))
        .with_wave("tags", tags)
        .with_wave("dry runs through the tags", probes)
        .with_wave(
            "validation",
            layout.config_cluster().map(|member| create_step(Target::Validator { member: member.clone() }, &line.revision)),
        )
}

/// Brings one control plane up beside whatever else there is: nothing refers to it yet.
pub(super) fn plan_control_plane_install(layout: &MeshTopology, line: &ControlPlane) -> Plan {
    let revision = &line.revision;
    let objects = |member: &Name| Target::MemberObjects { member: member.clone(), revision: revision.clone() };
    Plan::default()
        .with_wave("address", [create_step(Target::Address { revision: revision.clone() }, PRESENT)])
        .with_wave("custom resource definitions", layout.step_per_member(|member| crd_step(member, line)))
        .with_wave("roles, service and webhook in each member", layout.step_per_member(|member| create_step(objects(member), &line.release)))
        .followed_by(plan_limits())
        .with_wave("control plane", [create_step(Target::ControlPlane { revision: revision.clone() }, &line.release)])
        .with_wave("ready and synced", [await_ready_step(layout, line)])
        .with_wave("dry runs", layout.step_per_member(|member| probe_step_for(member, revision.as_str(), line)))
}

/// Brings the limits of the mesh's namespace in the hosting cluster to the members' addresses of today.
pub(super) fn plan_limits() -> Plan {
    Plan::default().with_wave("limits of the mesh's namespace", [create_step(Target::Limits, PRESENT)])
}

/// Definitions belong to the cluster and only move forward; what is there now is read by the step itself.
pub(super) fn crd_step(member: &Name, line: &ControlPlane) -> Step {
    create_step(Target::Crds { member: member.clone() }, &line.release)
}

/// Takes one control plane away. Its webhook goes after its istiod: a late pod fails visibly instead of starting bare.
pub(super) fn plan_control_plane_removal(layout: &MeshTopology, line: &ControlPlane) -> Plan {
    let revision = &line.revision;
    let objects = |member: &Name| Target::MemberObjects { member: member.clone(), revision: revision.clone() };
    Plan::default()
        .with_wave("control plane", [remove_step(Target::ControlPlane { revision: revision.clone() }, &line.release)])
        .with_wave("roles, service and webhook in each member", layout.step_per_member(|member| remove_step(objects(member), &line.release)))
        .with_wave("address", [remove_step(Target::Address { revision: revision.clone() }, PRESENT)])
}

/// The result of a look at each member before a deletion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberReachability {
    /// Members that answer, with the mesh's injectors in them.
    pub answering: Vec<(Name, Vec<Injector>)>,
    /// Members that are lost to us and are left behind, because a person asked for that.
    pub left_behind: Vec<Name>,
}

/// Takes a mesh down, with the second revision that an abandoned upgrade may have left. What istiod wrote into every
/// namespace goes after istiod, which would write it again. Members that are left behind are looked at before anything is
/// removed and once more at the end: one that answers is not left behind. Custom resource definitions stay: they may hold the
/// users' own resources.
pub fn plan_delete(layout: &MeshTopology, farewell: &MemberReachability) -> Plan {
    let gone = |target: Target, from: &str| set_step(target, Some(from.to_owned()), None);
    let revision = layout.current.revision.as_str();
    let both = |name: &str| layout.control_planes().any(|line| line.revision.as_str() == name);
    let answering: Vec<Name> = farewell.answering.iter().map(|(member, _)| member.clone()).collect();
    let here = MeshTopology { members: answering, ..layout.clone() };
    // Aliases that earlier upgrades left are names of the mesh too.
    let names = |(member, injectors): &(Name, Vec<Injector>)| {
        let all = injectors.iter().filter(|injector| !both(&injector.value));
        all.map(|injector| gone(tag_target(member, &injector.value), injector.revision.as_str())).collect::<Vec<_>>()
    };
    let tags: Vec<Step> = farewell.answering.iter().flat_map(names).collect();
    let validator = layout.config_cluster().filter(|member| here.members.contains(*member));
    let unused =
        |line: &ControlPlane| Step::AwaitUnused { revision: line.revision.clone(), left_behind: farewell.left_behind.clone() };
    let lines_down = layout.control_planes().rev().fold(Plan::default(), |plan, line| plan.followed_by(plan_control_plane_removal(&here, line)));
    let lost = || farewell.left_behind.iter().map(|member| Step::LeaveBehind { member: member.clone() });
    Plan::default()
        .with_wave("members that do not answer", lost())
        .with_wave("nothing uses the mesh", layout.control_planes().map(unused))
        .with_wave("validation", validator.map(|member| gone(Target::Validator { member: member.clone() }, revision)))
        .with_wave("tags", tags)
        .followed_by(lines_down)
        .with_wave(
            "root certificates in each namespace",
            here.step_per_member(|member| gone(Target::Certificates { member: member.clone() }, PRESENT)),
        )
        .with_wave(
            "access of the control planes",
            layout.step_per_member(|member| gone(Target::Link { member: member.clone() }, PRESENT)),
        )
        .with_wave(
            "system namespace and accounts",
            here.step_per_member(|member| gone(Target::Foothold { member: member.clone() }, PRESENT)),
        )
        .with_wave("nothing is left", here.step_per_member(|member| Step::AwaitGone { member: member.clone() }))
        .with_wave("limits of the mesh's namespace", [gone(Target::Limits, PRESENT)])
        .with_wave("mesh namespace and authority", [gone(Target::Home, PRESENT)])
        .with_wave("members that are left behind", lost())
}
