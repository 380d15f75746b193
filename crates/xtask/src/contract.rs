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
mod tests;
