//! Adds to the `OpenAPI` document the conventions that all operations share: paging, repeated
//! requests, `validate_only`, errors, and the limits of fields. Closed sets of values come from the
//! types of the fields.

use meshwright_model::operation::Signal;
use meshwright_model::upgrade::Verb;
use meshwright_model::webhook::MAX_EVENT_KINDS;
use serde_json::{Value, json};

use crate::openapi::closed_sets;
use crate::request::long_poll::MAX_WAIT_SECONDS;
use crate::request::mutation::MAX_IDEMPOTENCY_KEY_LEN;
use crate::request::pagination;
use crate::resources::audit;
use crate::resources::identity_providers;
use crate::resources::upgrades;
use crate::resources::webhooks;

/// Pattern of a [`meshwright_model::Name`], which is a DNS label.
const NAME_PATTERN: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
/// Pattern of a text without control characters.
const VISIBLE_TEXT_PATTERN: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$";
/// HTTP methods of operations that change something.
const MUTATING_METHODS: [&str; 3] = ["post", "patch", "delete"];

/// Descriptions of successful answers, by status.
const SUCCESS_RESPONSES: [(&str, &str); 4] = [
    ("200", "The present state of what was asked for."),
    ("201", "The object was created; the answer shows it."),
    ("202", "The operation was accepted; poll it until it ends."),
    ("204", "The object was deleted or revoked."),
];
/// Errors that each operation can answer with.
const COMMON_ERRORS: [(&str, &str); 7] = [
    ("400", "The request cannot be read."),
    ("401", "No valid credential was sent."),
    ("403", "The credential does not allow it."),
    ("414", "The address is too long."),
    (
        "422",
        "The request can be read, but one of its values is refused.",
    ),
    (
        "429",
        "The caller sends more requests than its rate limit allows.",
    ),
    ("503", "The service cannot answer now; try again later."),
];
/// Errors of operations that name an object in the path or in a parameter.
const LOOKUP_ERRORS: [(&str, &str); 1] =
    [("404", "No such object exists that this caller can see.")];
/// Errors of operations that change something.
const MUTATION_ERRORS: [(&str, &str); 6] = [
    ("408", "The body did not arrive in time."),
    (
        "409",
        "The present state of the object does not allow the change.",
    ),
    (
        "412",
        "The object has changed since the version in If-Match.",
    ),
    ("413", "The body is too large."),
    ("415", "The content type of the body is not JSON."),
    (
        "428",
        "The operation needs If-Match with the version that the caller saw.",
    ),
];

/// Adds the conventions to the document.
pub(crate) fn apply_conventions(document: &mut Value) {
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        schemas.iter_mut().for_each(|(name, schema)| {
            closed_sets::merge_into_fields(schema);
            constrain_schema(name, schema);
        });
    }
    let bare = optional_body_refs(document);
    for (path, methods) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in methods.as_object_mut().into_iter().flatten() {
            let changes = MUTATING_METHODS.contains(&method.as_str());
            if changes {
                add_validate_only(operation);
                document_ignored_if_match(operation);
            }
            let schema = operation
                .pointer("/requestBody/content/application~1json/schema/$ref")
                .and_then(Value::as_str);
            if schema.is_some_and(|schema| bare.iter().any(|bare| schema.ends_with(bare.as_str())))
            {
                operation["requestBody"]["required"] = false.into();
            }
            constrain_parameters(operation);
            let listed = operation["parameters"].as_array().into_iter().flatten();
            let names = listed
                .filter_map(|parameter| parameter["name"].as_str())
                .any(|name| name.ends_with("_id"));
            add_error_responses(operation, names || path.contains('{'), changes);
            if operation["operationId"] == "listEvents" {
                operation["responses"]["410"] =
                    error_response("The events after this number are no longer stored.");
            }
        }
    }
}

/// Returns the ends of references to schemas without required fields. A request with such a body
/// may leave the body out, which means the same as an empty object.
fn optional_body_refs(document: &Value) -> Vec<String> {
    let schemas = document["components"]["schemas"]
        .as_object()
        .into_iter()
        .flatten();
    let bare = |schema: &Value| schema["required"].as_array().is_none_or(Vec::is_empty);
    schemas
        .filter(|(_, schema)| bare(schema))
        .map(|(name, _)| format!("/{name}"))
        .collect()
}

/// Adds the parameters `validate_only` and `Idempotency-Key` to an operation that changes
/// something, and the answer to a request with `validate_only`.
fn add_validate_only(operation: &mut Value) {
    let more = json!([
        { "name": "validate_only", "in": "query", "required": false, "description": "Check the request and answer as if it had been carried out, without changing anything", "schema": { "type": "boolean" } },
        { "name": "Idempotency-Key", "in": "header", "required": false, "description": "Key of the request; a repeated request with the same key is carried out once", "schema": { "type": "string" } },
    ]);
    match &mut operation["parameters"] {
        Value::Array(known) => known.extend(more.as_array().into_iter().flatten().cloned()),
        none => *none = more,
    }
    let responses = &mut operation["responses"];
    let shown = ["201", "202"]
        .into_iter()
        .find_map(|status| responses[status].get("content").cloned());
    if let Some(content) = shown {
        responses["200"] = json!({ "description": "Answer to a trial with validate_only: what the request would return", "content": content });
    } else if responses.get("204").is_some() {
        responses["200"] = json!({ "description": "Answer to a trial with validate_only: the request would be carried out" });
    }
}

/// Adds to the description of an operation without `If-Match` that the header is ignored, so that
/// no client relies on a check that is not made.
fn document_ignored_if_match(operation: &mut Value) {
    let mut declared = operation["parameters"].as_array().into_iter().flatten();
    if declared.any(|parameter| parameter["name"] == "If-Match") {
        return;
    }
    let said = operation["description"].as_str().unwrap_or_default();
    operation["description"] = format!("{said}\n\nThis operation ignores `If-Match`.")
        .trim_start()
        .into();
}

/// Adds limits, patterns and closed sets of values to the parameters of an operation.
fn constrain_parameters(operation: &mut Value) {
    let id = operation["operationId"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let verbs: Vec<&str> = match id.as_str() {
        "askUpgrade" => Verb::ALL
            .into_iter()
            .filter(|verb| upgrades::is_requestable(*verb))
            .map(Verb::as_str)
            .collect(),
        _ => Signal::ALL.map(Signal::as_str).into(),
    };
    for parameter in operation
        .get_mut("parameters")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let rules = match parameter["name"].as_str().unwrap_or_default() {
            "page_size" if id == "listAuditEntries" => {
                json!({ "minimum": 1, "maximum": audit::MAX_PAGE_SIZE, "default": audit::DEFAULT_PAGE_SIZE })
            }
            "page_size" => {
                json!({ "minimum": 1, "maximum": pagination::MAX_PAGE_SIZE, "default": pagination::DEFAULT_PAGE_SIZE })
            }
            "Idempotency-Key" => {
                json!({ "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY_LEN, "pattern": "^[!-~]+$" })
            }
            "If-Match" => json!({ "minLength": 1, "pattern": "^(\\*|\"[0-9]+\")$" }),
            "verb" => json!({ "enum": verbs }),
            "wait_seconds" => {
                json!({ "minimum": 0, "maximum": MAX_WAIT_SECONDS, "default": 0 })
            }
            _ => continue,
        };
        merge_rules(&mut parameter["schema"], rules);
    }
}

/// Adds descriptions to the successful answers of an operation, and adds its possible errors.
fn add_error_responses(operation: &mut Value, names: bool, changes: bool) {
    let Some(responses) = operation["responses"].as_object_mut() else {
        return;
    };
    for (status, answer) in responses.iter_mut() {
        let done = SUCCESS_RESPONSES.iter().find(|(known, _)| known == status);
        if let (Some((_, description)), None) = (done, answer.get("description")) {
            answer["description"] = json!(description);
        }
    }
    let naming = if names { &LOOKUP_ERRORS[..] } else { &[] };
    let changing = if changes { &MUTATION_ERRORS[..] } else { &[] };
    for (status, description) in COMMON_ERRORS.iter().chain(naming).chain(changing) {
        responses.insert((*status).into(), error_response(description));
    }
}

/// Builds an answer with a problem document.
fn error_response(description: &str) -> Value {
    let problem = json!({ "schema": { "$ref": "#/components/schemas/Problem" } });
    json!({ "description": description, "content": { "application/problem+json": problem } })
}

/// Adds the limits of the domain to the fields of requests.
fn constrain_schema(schema: &str, of: &mut Value) {
    let verbs = [
        "Add", "Create", "Change", "Import", "Register", "Renew", "Rotate", "Move", "Set",
    ];
    let sent = schema == "NamespaceRef" || verbs.iter().any(|verb| schema.starts_with(verb));
    if !sent {
        return;
    }
    for (field, known) in of["properties"].as_object_mut().into_iter().flatten() {
        let rules = match (schema, field.as_str()) {
            (_, "name") | ("SetInjection" | "NamespaceRef", "cluster" | "namespace") => {
                json!({ "minLength": 1, "maxLength": 63, "pattern": NAME_PATTERN })
            }
            (_, "display_name") => json!({ "maxLength": 128, "pattern": VISIBLE_TEXT_PATTERN }),
            (_, "kubeconfig" | "provider_id" | "charts") => json!({ "minLength": 1 }),
            (_, "groups_claim") => {
                json!({ "minLength": 1, "maxLength": identity_providers::MAX_IDENTITY_TEXT_BYTES })
            }
            (_, "issuer") => {
                json!({ "maxLength": identity_providers::MAX_IDENTITY_TEXT_BYTES, "pattern": "^https://[^@#/?]+(/[^#?]*)?$" })
            }
            ("CreateMesh", "clusters") => json!({ "minItems": 1, "uniqueItems": true }),
            (_, "clusters" | "namespaces" | "algorithms") => json!({ "minItems": 1 }),
            (_, "version") => json!({ "pattern": "^[0-9]+\\.[0-9]+\\.[0-9]+\\.[0-9]+$" }),
            ("ImportRelease", "hub" | "tag") => {
                json!({ "minLength": 1, "maxLength": 255, "pattern": VISIBLE_TEXT_PATTERN })
            }
            ("ImportRelease", "kubernetes_source") | (_, "notes") => {
                json!({ "maxLength": 255, "pattern": VISIBLE_TEXT_PATTERN })
            }
            (_, "supported_until" | "released_on") => json!({ "format": "date" }),
            (_, "url") => {
                json!({ "maxLength": webhooks::MAX_URL_BYTES, "pattern": "^https?://[^@#/?]+([/?][^#]*)?$" })
            }
            (_, "kinds") => {
                let kind = json!({ "type": "string", "pattern": "^(\\*|[a-z]+\\.(\\*|[a-z_]+))$" });
                json!({ "minItems": 1, "maxItems": MAX_EVENT_KINDS, "items": kind })
            }
            (_, "hold_seconds") => json!({ "maximum": upgrades::MAX_HOLD_SECONDS }),
            _ => continue,
        };
        merge_rules(known, rules);
    }
}

/// Adds the entries of `rules` to the object `into`.
fn merge_rules(into: &mut Value, rules: Value) {
    let (Some(into), Value::Object(rules)) = (into.as_object_mut(), rules) else {
        return;
    };
    into.extend(rules);
}
