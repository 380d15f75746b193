//! Writes the closed set of a field into the schema of the field itself.
//!
//! The derive combines a set with the description of its field, or with null, in `allOf` and
//! `oneOf`. One schema with `type` and `enum` says the same, and every generator of clients reads
//! it.

use serde_json::{Map, Value};

/// Merges the parts of each field of a schema that holds a closed set.
pub(crate) fn merge_into_fields(schema: &mut Value) {
    let fields = schema["properties"].as_object_mut();
    fields
        .into_iter()
        .flat_map(Map::values_mut)
        .for_each(merge_parts);
}

/// Replaces `allOf` or `oneOf` of a closed set by the members of its parts.
fn merge_parts(field: &mut Value) {
    for combination in ["allOf", "oneOf"] {
        let Some(parts) = field[combination].as_array().cloned() else {
            continue;
        };
        if !parts.iter().any(|part| part["enum"].is_array()) {
            continue;
        }
        let nullable = parts.iter().any(|part| part["type"] == "null");
        if let Some(field) = field.as_object_mut() {
            field.remove(combination);
            // The part with the description has the type of an object, which is no rule.
            let members = parts.into_iter().filter_map(described_members);
            field.extend(members.flatten());
        }
        if nullable {
            field["type"] = serde_json::json!([field["type"], "null"]);
            if let Some(values) = field["enum"].as_array_mut() {
                values.push(Value::Null);
            }
        }
    }
}

/// Returns the members of a part that belong to the field.
fn described_members(part: Value) -> Option<Map<String, Value>> {
    let set = part["enum"].is_array();
    let Value::Object(mut members) = part else {
        return None;
    };
    if !set {
        members.remove("type");
    }
    Some(members)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    /// Ends of names of fields that hold one value of a closed set.
    const CLOSED_NAMES: [&str; 22] = [
        "algorithms",
        "channel",
        "channels",
        "code",
        "conflict",
        "edition",
        "kind",
        "kinds",
        "last_error",
        "outcome",
        "policy",
        "quirks",
        "reason",
        "result",
        "role",
        "severity",
        "state",
        "strategy",
        "stopped",
        "stuck",
        "tag",
        "verbs",
    ];

    /// Fields with such a name, or with a description that lists values, that hold no value of a
    /// closed set, and the reason.
    const OPEN_FIELDS: [(&str, &str); 15] = [
        ("ChangeWebhook.kinds", "patterns such as `upgrade.*`"),
        ("CreateRoleBinding.subject", "the claim of a token"),
        ("CreateWebhook.kinds", "patterns such as `upgrade.*`"),
        ("Finding.code", "listed in docs/problems.md"),
        ("ImportRelease.charts", "an archive"),
        ("ImportRelease.tag", "the tag of an image"),
        ("Leave.reason", "a sentence of the caller"),
        ("NamespaceView.label", "a label with any value"),
        ("Operation.reason", "a sentence of the caller"),
        ("Problem.code", "listed in docs/problems.md"),
        ("Release.tag", "the tag of an image"),
        ("SetInjection.label", "a label with any value"),
        ("Trouble.code", "listed in docs/problems.md"),
        ("Upgrade.findings_accepted_by", "the id of a key"),
        ("Webhook.kinds", "patterns such as `upgrade.*`"),
    ];

    #[test]
    fn every_field_with_a_closed_set_lists_its_values() {
        let document: Value = serde_json::from_str(&crate::openapi()).expect("a document");
        let mut open: BTreeSet<&str> = OPEN_FIELDS.iter().map(|(field, _)| *field).collect();
        let mut wrong = Vec::new();
        let schemas = document["components"]["schemas"].as_object();
        for (schema, definition) in schemas.into_iter().flatten() {
            let fields = definition["properties"].as_object();
            for (field, rules) in fields.into_iter().flatten() {
                let name = format!("{schema}.{field}");
                let listed = lists_values(rules);
                if open.remove(name.as_str()) {
                    assert!(!listed, "{name} lists its values and is no exception");
                } else if may_hold_closed_set(field, rules) && !listed {
                    wrong.push(name);
                }
                assert!(
                    !rules.to_string().contains("\"unknown\""),
                    "{schema}.{field}: no server sends a value that it does not know"
                );
            }
        }
        assert_eq!(wrong, Vec::<String>::new(), "these fields need an `enum`");
        assert_eq!(open, BTreeSet::new(), "these exceptions are no fields");
    }

    fn lists_values(rules: &Value) -> bool {
        [rules, &rules["items"]]
            .iter()
            .any(|rules| rules["enum"].as_array().is_some_and(|set| !set.is_empty()))
    }

    /// Returns true for a text, or a list of texts, whose name denotes a closed set, or whose
    /// description names several values in code font.
    fn may_hold_closed_set(field: &str, rules: &Value) -> bool {
        let is_text = |rules: &Value| {
            let types = &rules["type"];
            types == "string"
                || types
                    .as_array()
                    .is_some_and(|types| types.contains(&json!("string")))
        };
        if !is_text(rules) && !is_text(&rules["items"]) || rules["format"].is_string() {
            return false;
        }
        let description = rules["description"].as_str().unwrap_or_default();
        let named = CLOSED_NAMES
            .iter()
            .any(|name| field == *name || field.ends_with(&format!("_{name}")));
        named || description.matches('`').count() >= 4
    }

    #[test]
    fn parts_of_a_set_become_one_schema() {
        let set = json!({ "type": "string", "enum": ["on", "off"] });
        let said = json!({ "type": "object", "description": "State.", "default": "on" });
        let mut schema = json!({ "properties": {
            "described": { "allOf": [set, said] },
            "nullable": { "oneOf": [{ "type": "null" }, set], "description": "State." },
            "other": { "oneOf": [{ "type": "null" }, { "$ref": "#/x" }] },
        } });
        super::merge_into_fields(&mut schema);
        assert_eq!(
            schema["properties"],
            json!({
                "described": {
                    "type": "string", "enum": ["on", "off"], "description": "State.", "default": "on",
                },
                "nullable": {
                    "type": ["string", "null"], "enum": ["on", "off", null], "description": "State.",
                },
                "other": { "oneOf": [{ "type": "null" }, { "$ref": "#/x" }] },
            })
        );
    }
}
