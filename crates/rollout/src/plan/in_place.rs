//! Builds the plans of an upgrade in place: the slot keeps its name, objects and address, and the
//! release in it changes.

use meshwright_model::plan::{Plan, Target};

use super::{
    ControlPlane, MeshTopology, TAGS, await_ready_step, change_step, create_step, lifecycle,
    probe_step_for, tag_target,
};

/// Plans the replacement of the release in the current revision. Both releases share name and
/// address, so a pod that is created meanwhile is injected by the replica that answers. A replica
/// is removed only when its successor is ready. If the target has another community version, an
/// alias tag makes it reachable by the name of that version.
pub fn plan_deploy(layout: &MeshTopology, target: &ControlPlane) -> Plan {
    let current = &layout.current;
    let revision = &current.revision;
    let alias = target.release.revision_name();
    let aliases = layout
        .members
        .iter()
        .filter(|_| alias != *revision)
        .map(|member| create_step(tag_target(member, alias.as_str()), revision));
    let objects = |member: &meshwright_model::Name| Target::MemberObjects {
        member: member.clone(),
        revision: revision.clone(),
    };
    let probes = layout
        .members
        .iter()
        .flat_map(|member| TAGS.map(|name| probe_step_for(member, name, target)));
    Plan::default()
        .with_wave(
            "custom resource definitions",
            layout.step_per_member(|member| lifecycle::crd_step(member, target)),
        )
        .with_wave(
            "roles, service and webhook in each member",
            layout.step_per_member(|member| {
                change_step(objects(member), &current.release, &target.release)
            }),
        )
        .followed_by(lifecycle::plan_limits())
        .with_wave(
            "control plane",
            [change_step(
                Target::ControlPlane {
                    revision: revision.clone(),
                },
                &current.release,
                &target.release,
            )],
        )
        .with_wave("ready and synced", [await_ready_step(layout, target)])
        .with_wave("alias tags", aliases)
        .with_wave("dry runs", probes)
}
