//! Judges the clusters at the end of a stage, without the code that is tested, and does what a person
//! does whom a stage has stopped.

use super::cells::{
    MEMBERS, NEW, OLD, Value, address, crds, istiod, label, objects, tag, validator,
};
use super::clusters::{Clusters, PODS, Pod, Template};
use super::description::{Description, History, StageName};

/// Checks that the clusters are at the goal of the stage. The error names what is not. `strict` also
/// asks for the present sidecar in pods that are not on the revision which the stage leaves.
pub(super) fn check_goal(
    world: &Description,
    clusters: &Clusters,
    strict: bool,
) -> Result<(), String> {
    match world.stage {
        StageName::Start => check_started(clusters),
        StageName::Promote => check_tags(clusters, NEW, &[0, 1]).and_then(|()| {
            expect(
                clusters.value(validator(0)),
                Value::revision(NEW),
                "validation",
            )
        }),
        StageName::Restore => check_restored(world, clusters),
        StageName::Roll => check_rolled(clusters, strict),
        StageName::Retire => check_removed(clusters, OLD),
        StageName::Rollback => check_rolled_back(world, clusters),
    }
}

fn expect(found: Value, wanted: Value, what: &str) -> Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    let text = |value: Value| value.text().unwrap_or_else(|| "absent".to_owned());
    Err(format!("{what} is {}, not {}", text(found), text(wanted)))
}

fn check_started(clusters: &Clusters) -> Result<(), String> {
    if !clusters.serves(NEW) {
        return Err("the new istiod does not serve".to_owned());
    }
    expect(clusters.value(address(NEW)), Value::PRESENT, "the address")?;
    for member in 0..MEMBERS {
        if clusters.cells[objects(member, NEW)].partial {
            return Err("the objects of the new revision are there in part".to_owned());
        }
        let of_release = Value::release(NEW);
        expect(
            clusters.value(objects(member, NEW)),
            of_release,
            "the objects of the revision",
        )?;
        expect(clusters.value(crds(member)), of_release, "the definitions")?;
    }
    check_tags(clusters, NEW, &[2])
}

fn check_tags(clusters: &Clusters, slot: usize, tags: &[usize]) -> Result<(), String> {
    for member in 0..MEMBERS {
        for index in tags {
            let cell = tag(member, *index);
            let name = super::cells::name_of(cell);
            expect(clusters.value(cell), Value::revision(slot), &name)?;
        }
    }
    Ok(())
}

/// Returns the number of tags of a member that the promotion before a stage has started to move.
fn promoted_tags(history: History, member: usize) -> usize {
    match (history, member) {
        (History::Promoted | History::Rolled, _)
        | (History::PromotionCut | History::FirstMemberPromoted, 0) => 2,
        (History::FirstMemberPromoted, _) => 1,
        _ => 0,
    }
}

fn check_restored(world: &Description, clusters: &Clusters) -> Result<(), String> {
    for member in 0..MEMBERS {
        for index in 0..promoted_tags(world.history, member) {
            let cell = tag(member, index);
            let name = super::cells::name_of(cell);
            expect(clusters.value(cell), Value::revision(OLD), &name)?;
        }
    }
    if matches!(world.history, History::Promoted | History::Rolled) {
        expect(
            clusters.value(validator(0)),
            Value::revision(OLD),
            "validation",
        )?;
    }
    Ok(())
}

fn check_rolled(clusters: &Clusters, strict: bool) -> Result<(), String> {
    check_no_pods(clusters, OLD)?;
    for member in 0..MEMBERS {
        let known = &clusters.workloads[member];
        if clusters.value(label(member)) == Value::label_of(OLD) {
            return Err(format!(
                "the namespace of member {member} names the old revision"
            ));
        }
        // A pod of the new revision is right, although another party has pointed its tag back.
        let next = clusters.admit(member, known.template);
        let differs = |pod: &Pod| next == Ok(Pod::Of(NEW)) && *pod != Pod::Of(NEW);
        if strict && known.template != Template::OptsOut && known.pods.iter().flatten().any(differs)
        {
            return Err(format!("a pod of member {member} is outdated"));
        }
    }
    Ok(())
}

fn check_no_pods(clusters: &Clusters, slot: usize) -> Result<(), String> {
    for (member, known) in clusters.workloads.iter().enumerate() {
        let strays = known.stray.iter().map(|stray| stray.pod);
        let mut pods = known.pods.iter().flatten().copied().chain(strays);
        if pods.any(|pod| pod.slot() == Some(slot)) {
            return Err(format!(
                "member {member} has a pod of the revision that was left"
            ));
        }
    }
    Ok(())
}

fn check_removed(clusters: &Clusters, slot: usize) -> Result<(), String> {
    let of_members = (0..MEMBERS).map(|member| objects(member, slot));
    for cell in [istiod(slot), address(slot)].into_iter().chain(of_members) {
        let name = super::cells::name_of(cell);
        if clusters.cells[cell].partial {
            return Err(format!("{name} is there in part"));
        }
        expect(clusters.value(cell), Value::ABSENT, &name)?;
    }
    Ok(())
}

fn check_rolled_back(world: &Description, clusters: &Clusters) -> Result<(), String> {
    check_removed(clusters, NEW)?;
    check_no_pods(clusters, NEW)?;
    check_restored(world, clusters)?;
    check_tags(clusters, OLD, &[2])?;
    for (index, member) in world.members.iter().enumerate() {
        if world.history == History::Rolled && member.names_revision() {
            let before = member.label_before();
            expect(
                clusters.value(label(index)),
                before,
                "the namespace's label",
            )?;
        }
    }
    Ok(())
}

/// Does what a person does who follows the hints of a stop: istiods serve again, tags and labels of
/// other parties are set right, and pods that no restart of ours moves are replaced by their owners.
pub(super) fn mend(world: &Description, clusters: &mut Clusters) {
    clusters.up = [true; 2];
    let (left, kept) = match world.stage {
        StageName::Roll | StageName::Retire => (OLD, NEW),
        StageName::Rollback => (NEW, OLD),
        StageName::Start | StageName::Promote | StageName::Restore => return,
    };
    for member in 0..MEMBERS {
        for index in 0..3 {
            if clusters.value(tag(member, index)).slot() == Some(left) {
                clusters.set(tag(member, index), Value::revision(kept));
            }
        }
        if clusters.value(label(member)) == Value::label_of(left) {
            clusters.set(label(member), Value::label_of(kept));
        }
        let known = &mut clusters.workloads[member];
        known.stray = known.stray.filter(|stray| stray.pod.slot() != Some(left));
        for index in 0..PODS {
            let pod = clusters.workloads[member].pods[index];
            if pod.is_some_and(|pod| pod.slot() == Some(left)) {
                clusters.replace_pod(member, index);
            }
        }
    }
}
