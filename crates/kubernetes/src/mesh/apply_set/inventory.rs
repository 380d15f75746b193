//! Reads and builds inventories: the value of a target, and its objects that exist or are being
//! written.

use meshwright_model::Version;
use meshwright_model::plan::Target;
use meshwright_rollout::ports::FencingToken;
use serde_json::{Value, json};

use super::super::text_at;

/// Formats the operation and epoch that change an inventory, for its annotation.
pub(super) fn writer_id(permit: &FencingToken) -> String {
    format!("{}/{}", permit.operation, permit.epoch)
}

/// Returns the value of a clean inventory. A dirty one has none.
pub(super) fn clean_value(inventory: &Value) -> Option<String> {
    text_at(inventory, "/data/value")
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
}

/// Returns the objects that an inventory lists.
pub(super) fn inventory_objects(inventory: &Value) -> Vec<Value> {
    text_at(inventory, "/data/objects")
        .and_then(|list| serde_json::from_str(list).ok())
        .unwrap_or_default()
}

/// Reduces objects to kind, name and namespace, as an inventory lists them.
pub(super) fn object_identities(objects: &[Value]) -> Vec<Value> {
    let named = |object: &Value| {
        let metadata = json!({ "name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"] });
        json!({ "kind": object["kind"], "metadata": metadata })
    };
    objects.iter().map(named).collect()
}

/// Returns the version to apply. Definitions only move forward: if those of a newer release were
/// applied in part, that release is finished.
pub(super) fn newest_crd_release(target: &Target, value: &str, known: Option<&Value>) -> String {
    let precedence = |text: &str| {
        text.parse::<Version>()
            .ok()
            .map(|version| version.precedence())
    };
    let toward = known.and_then(|inventory| text_at(inventory, "/data/toward"));
    let toward = toward.filter(|toward| {
        matches!(target, Target::Crds { .. }) && precedence(toward) > precedence(value)
    });
    toward.unwrap_or(value).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(data: Value) -> Value {
        json!({ "metadata": { "uid": "u", "resourceVersion": "1" }, "data": data })
    }

    #[test]
    fn an_inventory_of_an_earlier_server_reads_as_clean() {
        let service =
            json!({ "kind": "Service", "metadata": { "name": "a", "namespace": "mesh-a" } });
        let objects = Value::from(vec![service.clone()]).to_string();
        let old = inventory(json!({ "value": "1.25.1.1", "objects": objects }));
        assert_eq!(
            (clean_value(&old), inventory_objects(&old)),
            (Some("1.25.1.1".into()), vec![service])
        );
    }

    #[test]
    fn a_dirty_inventory_has_no_value() {
        let dirty = inventory(json!({ "value": "", "toward": "1.27.9.1", "objects": "[]" }));
        assert_eq!(
            (clean_value(&dirty), inventory_objects(&dirty)),
            (None, Vec::new())
        );
    }

    #[test]
    fn definitions_that_were_applied_in_part_do_not_move_back() {
        let dirty = inventory(json!({ "value": "", "toward": "1.27.9.1", "objects": "[]" }));
        let crds = Target::Crds {
            member: "c1".parse().expect("a name"),
        };
        let objects = Target::ControlPlane {
            revision: "1-27-9".parse().expect("a revision"),
        };
        assert_eq!(
            newest_crd_release(&crds, "1.26.3.1", Some(&dirty)),
            "1.27.9.1"
        );
        assert_eq!(
            newest_crd_release(&crds, "1.28.0.1", Some(&dirty)),
            "1.28.0.1"
        );
        assert_eq!(
            newest_crd_release(&objects, "1.26.3.1", Some(&dirty)),
            "1.26.3.1"
        );
    }
}
