//! The stages of a canary upgrade, in the order they happen.

use model::plan::{Plan, Target};

use super::rollback::{Started, about, proofs, undone};
use super::{CURRENT_TAGS, Layout, Line, life, probe_value, ready, shift, tag, unused};

/// Brings the target up beside the current revision and points the tag `canary` to it.
pub fn deploy(layout: &Layout, target: &Line) -> Plan {
    let old = &layout.current.revision;
    life::line_up(layout, target)
        .wave("tag canary", layout.each(|member| shift(tag(member, "canary"), old, &target.revision)))
        .wave("dry runs through the tag canary", layout.each(|member| probe_value(member, "canary", target)))
}

/// Makes the target current: everything is looked at first, then each member's tags move, one write each, and prove
/// themselves before the next member's; validation moves last, in the config cluster.
pub fn promote(layout: &Layout, target: &Line) -> Plan {
    let old = &layout.current.revision;
    let looks = layout.each(|member| probe_value(member, target.revision.as_str(), target));
    let mut plan = Plan::default()
        .wave("the target is ready and synced", [ready(layout, target)])
        .wave("dry runs in every member", looks);
    for member in &layout.members {
        plan = plan
            .wave(format!("tags in {member}"), CURRENT_TAGS.map(|name| shift(tag(member, name), old, &target.revision)))
            .wave(format!("dry runs in {member}"), CURRENT_TAGS.map(|name| probe_value(member, name, target)));
    }
    plan.wave(
        "validation",
        layout.config().map(|member| shift(Target::Validator { member: member.clone() }, old, &target.revision)),
    )
}

/// Undoes what a failed promotion has written, validation first, and proves that the tags reach the old revision again.
pub fn restore(layout: &Layout, started: &[Started]) -> Plan {
    let undone = undone(started);
    Plan::default()
        .wave("validation", about(&undone, |target| matches!(target, Target::Validator { .. })))
        .wave("tags", about(&undone, |target| matches!(target, Target::Tag { .. })))
        .wave("dry runs", proofs(layout, &undone))
}

/// Removes the old revision once nothing uses it. Its first removal is the point of no return.
pub fn retire(layout: &Layout) -> Plan {
    let old = &layout.current;
    Plan::default()
        .wave("nothing uses the old revision", [unused(old)])
        .then(life::line_down(layout, old))
        .then(life::limits())
}
