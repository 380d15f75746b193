//! The stages of a canary upgrade, in the order they happen.

use model::plan::{Plan, Target};

use super::rollback::{StartedStep, filter_by_target, tag_probes, undo_steps};
use super::{PROMOTED_TAGS, MeshTopology, ControlPlane, life, probe_step_for, await_ready_step, change_step, tag_target, await_unused_step};

/// Brings the target up beside the current revision and points the tag `canary` to it.
pub fn plan_deploy(layout: &MeshTopology, target: &ControlPlane) -> Plan {
    let old = &layout.current.revision;
    life::plan_control_plane_install(layout, target)
        .with_wave("tag canary", layout.step_per_member(|member| change_step(tag_target(member, "canary"), old, &target.revision)))
        .with_wave("dry runs through the tag canary", layout.step_per_member(|member| probe_step_for(member, "canary", target)))
}

/// Makes the target current: everything is looked at first, then each member's tags move, one write each, and prove
/// themselves before the next member's; validation moves last, in the config cluster.
pub fn plan_promote(layout: &MeshTopology, target: &ControlPlane) -> Plan {
    let old = &layout.current.revision;
    let looks = layout.step_per_member(|member| probe_step_for(member, target.revision.as_str(), target));
    let mut plan = Plan::default()
        .with_wave("the target is ready and synced", [await_ready_step(layout, target)])
        .with_wave("dry runs in every member", looks);
    for member in &layout.members {
        plan = plan
            .with_wave(format!("tags in {member}"), PROMOTED_TAGS.map(|name| change_step(tag_target(member, name), old, &target.revision)))
            .with_wave(format!("dry runs in {member}"), PROMOTED_TAGS.map(|name| probe_step_for(member, name, target)));
    }
    plan.with_wave(
        "validation",
        layout.config_cluster().map(|member| change_step(Target::Validator { member: member.clone() }, old, &target.revision)),
    )
}

/// Undoes what a failed promotion has written, validation first, and proves that the tags reach the old revision again.
pub fn plan_restore(layout: &MeshTopology, started: &[StartedStep]) -> Plan {
    let undone = undo_steps(started);
    Plan::default()
        .with_wave("validation", filter_by_target(&undone, |target| matches!(target, Target::Validator { .. })))
        .with_wave("tags", filter_by_target(&undone, |target| matches!(target, Target::Tag { .. })))
        .with_wave("dry runs", tag_probes(layout, &undone))
}

/// Removes the old revision once nothing uses it. Its first removal is the point of no return.
pub fn plan_retire(layout: &MeshTopology) -> Plan {
    let old = &layout.current;
    Plan::default()
        .with_wave("nothing uses the old revision", [await_unused_step(old)])
        .followed_by(life::plan_control_plane_removal(layout, old))
        .followed_by(life::plan_limits())
}
