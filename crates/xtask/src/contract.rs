//! Checks that the API keeps the contract of its last release: compares `openapi/meshwright.json`
//! with `openapi/released.json`.
//!
//! A client relies on these things: every operation and its name, every parameter and field that it
//! may send, no new ones that it must send, every value that it may send, every field of the answers,
//! and every type.

use std::collections::BTreeSet;

use anyhow::{Context as _, anyhow};
use serde_json::Value;

use crate::Result;

const RELEASED_DOCUMENT: &str = "openapi/released.json";
const CURRENT_DOCUMENT: &str = "openapi/meshwright.json";

pub(crate) fn check_contract() -> Result<()> {
    let read = |file: &str| -> Result<Value> {
        let text = std::fs::read_to_string(file).with_context(|| file.to_owned())?;
        serde_json::from_str(&text).with_context(|| file.to_owned())
    };
    let broken = find_breaking_changes(&read(RELEASED_DOCUMENT)?, &read(CURRENT_DOCUMENT)?);
    if broken.is_empty() {
        println!("the API keeps what its last release promised");
        return Ok(());
    }
    Err(anyhow!(
        "the API breaks what its last release promised:\n{}",
        broken.join("\n")
    ))
}

/// Direction in which a schema travels. A request may allow more than before, and an answer may
/// hold less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    Request,
    Response,
}

/// State of the comparison of two documents.
struct DocumentComparison<'a> {
    old: &'a Value,
    new: &'a Value,
    breaking_changes: Vec<String>,
    visited: BTreeSet<(String, Direction)>,
}

/// Returns the changes that break a client of the old document.
fn find_breaking_changes(old: &Value, new: &Value) -> Vec<String> {
    let mut comparison = DocumentComparison {
        old,
        new,
        breaking_changes: Vec::new(),
        visited: BTreeSet::new(),
    };
    for (path, methods) in object_members(&old["paths"]) {
        for (method, operation) in object_members(methods) {
            let place = format!("{} {path}", method.to_uppercase());
            match new["paths"][path].get(method) {
                Some(present) => comparison.compare_operation(&place, operation, present),
                None => comparison.breaking_changes.push(format!("{place} is gone")),
            }
        }
    }
    comparison.breaking_changes
}

fn object_members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn array_items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Returns the types that a value may have. A schema without a type allows every type and is
/// represented by `null`.
fn schema_types(schema: &Value) -> BTreeSet<String> {
    match &schema["type"] {
        Value::Array(listed) => listed.iter().map(Value::to_string).collect(),
        one => BTreeSet::from([one.to_string()]),
    }
}

fn required_fields(schema: &Value) -> BTreeSet<&str> {
    array_items(&schema["required"])
        .iter()
        .filter_map(Value::as_str)
        .collect()
}

fn resolve_ref<'v>(document: &'v Value, schema: &'v Value) -> &'v Value {
    let target = schema["$ref"]
        .as_str()
        .and_then(|name| name.strip_prefix('#'));
    target
        .and_then(|pointer| document.pointer(pointer))
        .unwrap_or(schema)
}

impl DocumentComparison<'_> {
    fn compare_operation(&mut self, place: &str, old: &Value, new: &Value) {
        if old["operationId"] != new["operationId"] {
            self.breaking_changes
                .push(format!("{place} is called {} now", new["operationId"]));
        }
        self.compare_parameters(
            place,
            array_items(&old["parameters"]),
            array_items(&new["parameters"]),
        );
        let body = |operation: &Value| {
            operation["requestBody"]["content"]["application/json"]["schema"].clone()
        };
        let (sent, takes) = (body(old), body(new));
        if sent.is_null() && new["requestBody"]["required"] == true {
            self.breaking_changes
                .push(format!("{place} needs a body now"));
        } else if !sent.is_null() {
            self.compare_schema(&format!("{place} body"), Direction::Request, &sent, &takes);
        }
        for (status, answer) in object_members(&old["responses"]) {
            let Some(present) = new["responses"].get(status) else {
                self.breaking_changes
                    .push(format!("{place} does not answer {status} any more"));
                continue;
            };
            for (kind, content) in object_members(&answer["content"]) {
                let shown = &present["content"][kind]["schema"];
                self.compare_schema(
                    &format!("{place} {status}"),
                    Direction::Response,
                    &content["schema"],
                    shown,
                );
            }
        }
    }

    fn compare_parameters(&mut self, place: &str, old: &[Value], new: &[Value]) {
        let key = |parameter: &Value| (parameter["name"].clone(), parameter["in"].clone());
        for known in old {
            match new.iter().find(|present| key(present) == key(known)) {
                Some(present) => {
                    let place = format!("{place} ?{}", known["name"]);
                    self.compare_schema(
                        &place,
                        Direction::Request,
                        &known["schema"],
                        &present["schema"],
                    );
                }
                None => self
                    .breaking_changes
                    .push(format!("{place} does not take {} any more", known["name"])),
            }
        }
        for present in new.iter().filter(|present| present["required"] == true) {
            let needed = old
                .iter()
                .any(|known| key(known) == key(present) && known["required"] == true);
            if !needed {
                self.breaking_changes
                    .push(format!("{place} needs {} now", present["name"]));
            }
        }
    }

    fn compare_schema(&mut self, place: &str, way: Direction, old: &Value, new: &Value) {
        if let Some(name) = old["$ref"].as_str()
            && !self.visited.insert((name.to_owned(), way))
        {
            return;
        }
        let (old, new) = (resolve_ref(self.old, old), resolve_ref(self.new, new));
        let (before, now) = (schema_types(old), schema_types(new));
        // A request may accept more types than before, and an answer may have fewer.
        let kept = match way {
            Direction::Request => before.is_subset(&now),
            Direction::Response => now.is_subset(&before),
        };
        if !kept || old["format"] != new["format"] {
            self.breaking_changes
                .push(format!("{place}: {} became {}", old["type"], new["type"]));
            return;
        }
        let (before, now) = (required_fields(old), required_fields(new));
        let (what, lost): (&str, Vec<&&str>) = match way {
            Direction::Request => ("must be sent now", now.difference(&before).collect()),
            Direction::Response => ("may be missing now", before.difference(&now).collect()),
        };
        self.breaking_changes.extend(
            lost.into_iter()
                .map(|field| format!("{place}.{field} {what}")),
        );
        for (field, known) in object_members(&old["properties"]) {
            match new["properties"].get(field) {
                Some(present) => {
                    self.compare_schema(&format!("{place}.{field}"), way, known, present);
                }
                None => self
                    .breaking_changes
                    .push(format!("{place}.{field} is gone")),
            }
        }
        self.compare_closed_sets(place, way, old, new);
        if !old["items"].is_null() {
            self.compare_schema(&format!("{place}[]"), way, &old["items"], &new["items"]);
        }
        for (index, known) in array_items(&old["oneOf"]).iter().enumerate() {
            self.compare_schema(place, way, known, &new["oneOf"][index]);
        }
    }

    /// Compares the values that a field may have. A request keeps every value that it accepted. An
    /// answer may list the values of a field that was free text before, because the service sent no
    /// others, and it may get new values, because a client must tolerate values that it does not
    /// know.
    fn compare_closed_sets(&mut self, place: &str, way: Direction, old: &Value, new: &Value) {
        let (before, now) = (array_items(&old["enum"]), array_items(&new["enum"]));
        if way == Direction::Response || now.is_empty() {
            return;
        }
        if before.is_empty() {
            self.breaking_changes
                .push(format!("{place} accepts no more than {} now", new["enum"]));
        }
        let lost = before.iter().filter(|value| !now.contains(value));
        self.breaking_changes
            .extend(lost.map(|value| format!("{place} does not accept {value} any more")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document() -> Value {
        serde_json::from_str(&meshwright_api::openapi()).expect("a document")
    }

    /// Changes of the document, each with a part of the message that must report it.
    fn bad() -> [(&'static str, Option<Value>, &'static str); 16] {
        [
            ("/paths/~1v1~1meshes", None, "POST /v1/meshes is gone"),
            ("/paths/~1v1~1meshes/get", None, "GET /v1/meshes is gone"),
            (
                "/paths/~1v1~1meshes/get/operationId",
                Some(json!("allMeshes")),
                "is called",
            ),
            (
                "/paths/~1v1~1meshes/get/parameters/0",
                None,
                "does not take",
            ),
            (
                "/paths/~1v1~1meshes/get/parameters/0/required",
                Some(json!(true)),
                "needs",
            ),
            (
                "/paths/~1v1~1meshes/post/responses/202",
                None,
                "does not answer 202",
            ),
            (
                "/paths/~1v1~1meshes~1{mesh_id}~1restarts/post/requestBody",
                Some(json!({ "required": true })),
                "needs a body",
            ),
            (
                "/components/schemas/Mesh/properties/state",
                None,
                "state is gone",
            ),
            (
                "/components/schemas/Mesh/properties/deletion_protection/type",
                Some(json!("string")),
                "became",
            ),
            (
                "/components/schemas/Mesh/required",
                Some(json!([])),
                "may be missing",
            ),
            (
                "/components/schemas/CreateMesh/properties/edition",
                None,
                "edition is gone",
            ),
            (
                "/components/schemas/CreateMesh/required",
                Some(json!(["name", "version", "clusters", "edition"])),
                "must be sent",
            ),
            (
                "/components/schemas/Wave/properties/steps/items",
                Some(json!({ "type": "string" })),
                "became",
            ),
            (
                "/components/schemas/Problem/properties/code",
                None,
                "code is gone",
            ),
            (
                "/components/schemas/Mesh/properties/name/type",
                Some(json!(["string", "null"])),
                "became",
            ),
            (
                "/components/schemas/CreateMesh/properties/labels/type",
                Some(json!("null")),
                "became",
            ),
        ]
    }

    #[test]
    fn every_seeded_break_is_found() {
        for (pointer, value, said) in bad() {
            let mut changed = document();
            let (parent, last) = pointer.rsplit_once('/').expect("a place");
            let last = last.replace("~1", "/");
            let parent = changed
                .pointer_mut(parent)
                .unwrap_or_else(|| panic!("{pointer}"));
            match (parent, value) {
                (Value::Object(fields), Some(value)) => drop(fields.insert(last, value)),
                (Value::Object(fields), None) => {
                    assert!(fields.remove(&last).is_some(), "{pointer}");
                }
                (Value::Array(array), None) => drop(array.remove(last.parse().expect("a number"))),
                _ => panic!("{pointer}"),
            }
            let found = find_breaking_changes(&document(), &changed);
            assert!(
                found.iter().any(|line| line.contains(said)),
                "{pointer}: {found:?}"
            );
        }
    }

    #[test]
    fn a_request_keeps_the_values_that_it_accepted() {
        let mut changed = document();
        let fields = &mut changed["components"]["schemas"]["CreateMesh"]["properties"];
        fields["edition"]["enum"] = json!(["standard", "enterprise"]);
        fields["display_name"]["enum"] = json!(["ours"]);
        let found = find_breaking_changes(&document(), &changed).join("\n");
        for said in [
            "not accept \"ultimate\" any more",
            "no more than [\"ours\"]",
        ] {
            assert!(found.contains(said), "{found}");
        }
    }

    /// Answers named no closed sets in the first releases, although their fields had no other
    /// values. To list these values, or a new one, takes nothing from a client.
    #[test]
    fn an_answer_may_list_its_values_and_get_new_ones() {
        let states = "/components/schemas/Mesh/properties/state";
        let mut without = document();
        let field = without.pointer_mut(states).expect("a field");
        let listed = field.as_object_mut().expect("an object").remove("enum");
        assert!(listed.is_some_and(|listed| listed.is_array()));
        let mut more = document();
        let values = more.pointer_mut(states).expect("a field")["enum"].as_array_mut();
        values.expect("values").push(json!("dreaming"));
        for (old, new) in [(&without, &document()), (&document(), &more)] {
            assert_eq!(find_breaking_changes(old, new), Vec::<String>::new());
        }
    }

    #[test]
    fn what_only_adds_breaks_nothing() {
        let mut changed = document();
        changed["paths"]["/v1/moons"] =
            json!({ "get": { "operationId": "listMoons", "responses": {} } });
        changed["components"]["schemas"]["Mesh"]["properties"]["moons"] =
            json!({ "type": "integer" });
        changed["components"]["schemas"]["CreateMesh"]["properties"]["moons"] =
            json!({ "type": "integer" });
        let edition = &mut changed["components"]["schemas"]["CreateMesh"]["properties"]["edition"];
        edition["type"] = json!(["string", "null"]);
        edition["enum"] = json!(["standard", "enterprise", "ultimate", "cosmic", null]);
        let parameter = json!({ "name": "moon", "in": "query", "required": false, "schema": { "type": "string" } });
        changed["paths"]["/v1/meshes"]["get"]["parameters"]
            .as_array_mut()
            .expect("parameters")
            .push(parameter);
        assert_eq!(
            find_breaking_changes(&document(), &changed),
            Vec::<String>::new()
        );
        assert_eq!(
            find_breaking_changes(&document(), &document()),
            Vec::<String>::new()
        );
    }
}
