//! Checks that the API keeps the contract of its last release: compares `openapi/meshwright.json`
//! with `openapi/released.json`.
//!
//! A client relies on these things: every operation and its name, every parameter and field that it
//! may send, no new ones that it must send, every field of the answers, and every type.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::Result;

const RELEASED: &str = "openapi/released.json";
const PRESENT: &str = "openapi/meshwright.json";

pub(crate) fn contract() -> Result<()> {
    let read = |file: &str| -> Result<Value> {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
        serde_json::from_str(&text).map_err(|error| format!("{file}: {error}"))
    };
    let broken = breaks(&read(RELEASED)?, &read(PRESENT)?);
    if broken.is_empty() {
        println!("the API keeps what its last release promised");
        return Ok(());
    }
    Err(format!(
        "the API breaks what its last release promised:\n{}",
        broken.join("\n")
    ))
}

/// Direction in which a schema travels. A request may allow more than before, and an answer may
/// hold less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Sent,
    Answered,
}

/// State of the comparison of two documents.
struct Comparison<'a> {
    old: &'a Value,
    new: &'a Value,
    broken: Vec<String>,
    seen: BTreeSet<(String, Way)>,
}

/// Returns the changes that break a client of the old document.
fn breaks(old: &Value, new: &Value) -> Vec<String> {
    let mut comparison = Comparison {
        old,
        new,
        broken: Vec::new(),
        seen: BTreeSet::new(),
    };
    for (path, methods) in members(&old["paths"]) {
        for (method, operation) in members(methods) {
            let place = format!("{} {path}", method.to_uppercase());
            match new["paths"][path].get(method) {
                Some(present) => comparison.operation(&place, operation, present),
                None => comparison.broken.push(format!("{place} is gone")),
            }
        }
    }
    comparison.broken
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Returns the types that a value may have. A schema without a type allows every type and is
/// represented by `null`.
fn types(schema: &Value) -> BTreeSet<String> {
    match &schema["type"] {
        Value::Array(listed) => listed.iter().map(Value::to_string).collect(),
        one => BTreeSet::from([one.to_string()]),
    }
}

fn required(schema: &Value) -> BTreeSet<&str> {
    items(&schema["required"])
        .iter()
        .filter_map(Value::as_str)
        .collect()
}

fn resolved<'v>(document: &'v Value, schema: &'v Value) -> &'v Value {
    let target = schema["$ref"]
        .as_str()
        .and_then(|name| name.strip_prefix('#'));
    target
        .and_then(|pointer| document.pointer(pointer))
        .unwrap_or(schema)
}

impl Comparison<'_> {
    fn operation(&mut self, place: &str, old: &Value, new: &Value) {
        if old["operationId"] != new["operationId"] {
            self.broken
                .push(format!("{place} is called {} now", new["operationId"]));
        }
        self.parameters(place, items(&old["parameters"]), items(&new["parameters"]));
        let body = |operation: &Value| {
            operation["requestBody"]["content"]["application/json"]["schema"].clone()
        };
        let (sent, takes) = (body(old), body(new));
        if sent.is_null() && new["requestBody"]["required"] == true {
            self.broken.push(format!("{place} needs a body now"));
        } else if !sent.is_null() {
            self.schema(&format!("{place} body"), Way::Sent, &sent, &takes);
        }
        for (status, answer) in members(&old["responses"]) {
            let Some(present) = new["responses"].get(status) else {
                self.broken
                    .push(format!("{place} does not answer {status} any more"));
                continue;
            };
            for (kind, content) in members(&answer["content"]) {
                let shown = &present["content"][kind]["schema"];
                self.schema(
                    &format!("{place} {status}"),
                    Way::Answered,
                    &content["schema"],
                    shown,
                );
            }
        }
    }

    fn parameters(&mut self, place: &str, old: &[Value], new: &[Value]) {
        let key = |parameter: &Value| (parameter["name"].clone(), parameter["in"].clone());
        for known in old {
            match new.iter().find(|present| key(present) == key(known)) {
                Some(present) => {
                    let place = format!("{place} ?{}", known["name"]);
                    self.schema(&place, Way::Sent, &known["schema"], &present["schema"]);
                }
                None => self
                    .broken
                    .push(format!("{place} does not take {} any more", known["name"])),
            }
        }
        for present in new.iter().filter(|present| present["required"] == true) {
            let needed = old
                .iter()
                .any(|known| key(known) == key(present) && known["required"] == true);
            if !needed {
                self.broken
                    .push(format!("{place} needs {} now", present["name"]));
            }
        }
    }

    fn schema(&mut self, place: &str, way: Way, old: &Value, new: &Value) {
        if let Some(name) = old["$ref"].as_str()
            && !self.seen.insert((name.to_owned(), way))
        {
            return;
        }
        let (old, new) = (resolved(self.old, old), resolved(self.new, new));
        let (before, now) = (types(old), types(new));
        // A request may accept more types than before, and an answer may have fewer.
        let kept = match way {
            Way::Sent => before.is_subset(&now),
            Way::Answered => now.is_subset(&before),
        };
        if !kept || old["format"] != new["format"] {
            self.broken
                .push(format!("{place}: {} became {}", old["type"], new["type"]));
            return;
        }
        let (before, now) = (required(old), required(new));
        let (what, lost): (&str, Vec<&&str>) = match way {
            Way::Sent => ("must be sent now", now.difference(&before).collect()),
            Way::Answered => ("may be missing now", before.difference(&now).collect()),
        };
        self.broken.extend(
            lost.into_iter()
                .map(|field| format!("{place}.{field} {what}")),
        );
        for (field, known) in members(&old["properties"]) {
            match new["properties"].get(field) {
                Some(present) => self.schema(&format!("{place}.{field}"), way, known, present),
                None => self.broken.push(format!("{place}.{field} is gone")),
            }
        }
        if !old["items"].is_null() {
            self.schema(&format!("{place}[]"), way, &old["items"], &new["items"]);
        }
        for (index, known) in items(&old["oneOf"]).iter().enumerate() {
            self.schema(place, way, known, &new["oneOf"][index]);
        }
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
                    assert!(fields.remove(&last).is_some(), "{pointer}")
                }
                (Value::Array(array), None) => drop(array.remove(last.parse().expect("a number"))),
                _ => panic!("{pointer}"),
            }
            let found = breaks(&document(), &changed);
            assert!(
                found.iter().any(|line| line.contains(said)),
                "{pointer}: {found:?}"
            );
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
        changed["components"]["schemas"]["CreateMesh"]["properties"]["edition"]["type"] =
            json!(["string", "null"]);
        let parameter = json!({ "name": "moon", "in": "query", "required": false, "schema": { "type": "string" } });
        changed["paths"]["/v1/meshes"]["get"]["parameters"]
            .as_array_mut()
            .expect("parameters")
            .push(parameter);
        assert_eq!(breaks(&document(), &changed), Vec::<String>::new());
        assert_eq!(breaks(&document(), &document()), Vec::<String>::new());
    }
}
