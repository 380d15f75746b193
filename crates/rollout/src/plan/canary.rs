//! Builds the plans of a canary upgrade's stages, in the order in which the stages run.

use meshwright_model::plan::{Plan, Target};

use super::rollback::{StartedStep, filter_by_target, tag_probes, undo_steps};
use super::{
    ControlPlane, MeshTopology, PROMOTED_TAGS, await_ready_step, await_unused_step, change_step,
    lifecycle, probe_step_for, tag_target,
};

/// Plans the deployment of the target revision beside the current one. The tag `canary` points to
/// the target at the end.
pub fn plan_deploy(layout: &MeshTopology, target: &ControlPlane) -> Plan {
    let old = &layout.current.revision;
    lifecycle::plan_control_plane_install(layout, target)
        .with_wave(
            "tag canary",
            layout.step_per_member(|member| {
                change_step(tag_target(member, "canary"), old, &target.revision)
            }),
        )
        .with_wave(
            "dry runs through the tag canary",
            layout.step_per_member(|member| probe_step_for(member, "canary", target)),
        )
}

/// Plans the promotion of the target revision. All members are checked first. Then the tags of each
/// member move, each with one write, and dry runs prove them before the next member's tags move.
/// Validation moves last, in the config cluster.
pub fn plan_promote(layout: &MeshTopology, target: &ControlPlane) -> Plan {
    let old = &layout.current.revision;
    let looks =
        layout.step_per_member(|member| probe_step_for(member, target.revision.as_str(), target));
    let mut plan = Plan::default()
        .with_wave(
            "the target is ready and synced",
            [await_ready_step(layout, target)],
        )
        .with_wave("dry runs in every member", looks);
    for member in &layout.members {
        plan = plan
            .with_wave(
                format!("tags in {member}"),
                PROMOTED_TAGS
                    .map(|name| change_step(tag_target(member, name), old, &target.revision)),
            )
            .with_wave(
                format!("dry runs in {member}"),
                PROMOTED_TAGS.map(|name| probe_step_for(member, name, target)),
            );
    }
    plan.with_wave(
        "validation",
        layout.config_cluster().map(|member| {
            change_step(
                Target::Validator {
                    member: member.clone(),
                },
                old,
                &target.revision,
            )
        }),
    )
}

/// Plans the undo of a failed promotion. Validation is restored first, and dry runs prove at the
/// end that the tags reach the old revision again.
pub fn plan_restore(layout: &MeshTopology, started: &[StartedStep]) -> Plan {
    let undone = undo_steps(started);
    Plan::default()
        .with_wave(
            "validation",
            filter_by_target(&undone, |target| matches!(target, Target::Validator { .. })),
        )
        .with_wave(
            "tags",
            filter_by_target(&undone, |target| matches!(target, Target::Tag { .. })),
        )
        .with_wave("dry runs", tag_probes(layout, &undone))
}

/// Plans the removal of the old revision after its last use. The first removal is the point of no
/// return.
pub fn plan_retire(layout: &MeshTopology) -> Plan {
    let old = &layout.current;
    Plan::default()
        .with_wave("nothing uses the old revision", [await_unused_step(old)])
        .followed_by(lifecycle::plan_control_plane_removal(layout, old))
        .followed_by(lifecycle::plan_limits())
}
