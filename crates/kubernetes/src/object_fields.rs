//! Reads fields of Kubernetes objects, and builds label selectors.

use meshwright_rollout::ports::ObjectVersion;
use serde_json::Value;

/// Returns the text at a JSON pointer.
pub(crate) fn text_at<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer).and_then(Value::as_str)
}

/// Returns the names of objects.
pub(crate) fn object_names(objects: &[Value]) -> Vec<String> {
    objects
        .iter()
        .filter_map(|object| text_at(object, "/metadata/name").map(str::to_owned))
        .collect()
}

/// Builds a list query that selects by labels. The values are names of ours, which need no
/// escaping.
pub(crate) fn label_query(labels: &[(&str, &str)]) -> String {
    let terms: Vec<String> = labels
        .iter()
        .map(|(label, value)| format!("{}%3D{value}", label.replace('/', "%2F")))
        .collect();
    format!("labelSelector={}", terms.join(","))
}

/// Returns the number at a JSON pointer. An absent one counts as zero, because Kubernetes omits
/// zeros.
pub(crate) fn number_at(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// Returns whether another object controls this one and decides on its pods.
pub(crate) fn has_controller(object: &Value) -> bool {
    let owners = object.pointer("/metadata/ownerReferences");
    let owners = owners.and_then(Value::as_array);
    owners.is_some_and(|owners| owners.iter().any(|owner| owner["controller"] == true))
}

/// Returns uid and resource version of an object as its version. An absent object has a version
/// too, in which both parts are empty.
pub(crate) fn object_version(object: Option<&Value>) -> ObjectVersion {
    let part = |pointer: &str| {
        object
            .and_then(|object| text_at(object, pointer))
            .unwrap_or_default()
    };
    ObjectVersion(format!(
        "{}/{}",
        part("/metadata/uid"),
        part("/metadata/resourceVersion")
    ))
}

/// Splits a version into uid and resource version, to be put as preconditions into a patch's
/// metadata. Returns `None` for the version of an absent object.
pub(crate) fn uid_and_version(mark: &ObjectVersion) -> Option<(String, String)> {
    let (uid, version) = mark.0.split_once('/')?;
    (!uid.is_empty()).then(|| (uid.to_owned(), version.to_owned()))
}
