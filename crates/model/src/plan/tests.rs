//! Checks the stored form of plans.

use serde_json::json;

use super::*;

fn member() -> Name {
    "east".parse().expect("a DNS label")
}

#[test]
fn targets_keep_the_names_under_which_plans_are_stored() {
    let stored = |target: &Target| serde_json::to_value(target).expect("a target is plain data");
    let expected = [
        (Target::MeshNamespace, json!({ "target": "home" })),
        (
            Target::MemberBootstrap { member: member() },
            json!({ "target": "foothold", "member": "east" }),
        ),
        (
            Target::RemoteAccess { member: member() },
            json!({ "target": "link", "member": "east" }),
        ),
    ];
    for (target, row) in expected {
        assert_eq!(stored(&target), row);
        let read: Target = serde_json::from_value(row).expect("a stored target");
        assert_eq!(read, target);
    }
}

#[test]
fn steps_that_set_a_renamed_target_keep_their_stored_form() {
    let step = Step::Set {
        target: Target::RemoteAccess { member: member() },
        from: None,
        to: Some("present".into()),
    };
    let row = json!({
        "step": "set", "target": "link", "member": "east", "from": null, "to": "present",
    });
    assert_eq!(serde_json::to_value(&step).expect("plain data"), row);
    assert_eq!(
        serde_json::from_value::<Step>(row).expect("a stored step"),
        step
    );
}
