//! Prepares the API's document for Schemathesis: adds examples and dictionaries with ids and values
//! that exist. Invented ids end in 404, and every other error of such a request stays hidden behind
//! that answer.

use anyhow::Context as _;
use meshwright_model::access::Role;
use meshwright_testkit::Fleet;
use serde_json::{Value, json};

use super::PLATFORM;
use super::resources::{KEYS_OF_EACH_KIND, ResourceMaker};
use crate::Result;
use crate::service::ApiProcess;

const OPENAPI_FILE: &str = "openapi/meshwright.json";

/// Input of Schemathesis for one round, one part for each kind of phase.
pub(super) struct RoundInputs {
    /// Input of the phases `examples` and `coverage`, which cover the document.
    pub(super) coverage: PhaseInput,
    /// Input of the phase `fuzzing`, which generates each request at random.
    pub(super) fuzzing: PhaseInput,
    /// Input of the phase `stateful`, which builds each request from the answer to the previous one
    /// and takes the ids from there.
    pub(super) stateful: PhaseInput,
}

/// Document and settings of one part of a round.
pub(super) struct PhaseInput {
    pub(super) document: Value,
    /// Text that is added to the settings in `tests/fuzz/schemathesis.toml`; it begins within the
    /// section of parameters.
    pub(super) settings: String,
}
/// Parameters that only the random phase sends. The coverage phase would send the same idempotency
/// key with every body and a page token that never existed, and the answer to that would hide every
/// other error. In a sequence, an answer that is repeated for a key names things that have been
/// deleted since.
const HIDING_PARAMETERS: [&str; 2] = ["Idempotency-Key", "page_token"];
/// Probability that a value which exists is drawn instead of a random value of the schema.
const DICTIONARY_PROBABILITY: f64 = 0.8;

/// Creates the things that one round needs, and returns the input of Schemathesis: paths and bodies
/// name things of this fleet, and each thing that can be deleted exists twice.
pub(super) async fn prepare_inputs(
    fleet: &Fleet,
    api: &ApiProcess,
    (title, role): (&str, Role),
) -> Result<RoundInputs> {
    let maker = ResourceMaker::new(fleet, api, title == PLATFORM).await?;
    let (kept, spare) = maker.create_kept_and_spare().await?;
    let fields = field_examples(&kept, &maker.kubeconfig);
    let mut dictionaries = String::new();
    let mut dictionary = |name: &str, value: &Value| {
        let values = if value.is_array() {
            value.to_string()
        } else {
            format!("[{value}]")
        };
        dictionaries += &format!("\n[dictionaries.{name}]\nvalues = {values}\n");
        format!("{{ dictionary = {name:?}, probability = {DICTIONARY_PROBABILITY} }}")
    };
    let mut settings = String::new();
    for FieldExample {
        schema,
        name,
        path,
        value,
    } in &fields
    {
        if let Some(path) = path {
            settings += &format!(
                "\"body.{path}\" = {}\n",
                dictionary(&format!("{schema}_{name}"), value)
            );
        }
    }
    // The stateful phase looks for the things that it has created, and a request with
    // `validate_only` creates nothing.
    let going_on = format!("\"query.validate_only\" = \"false\"\n{settings}");
    let seen = merge_ids(&kept, &spare);
    // Settings for the parameters of all operations override the settings of one operation, so
    // paths are set for each method.
    for (title, things, methods) in [
        ("kept", &kept, r#"["POST", "PATCH"]"#),
        ("spare", &spare, r#"["DELETE"]"#),
        // Reads may name things that were deleted.
        ("seen", &seen, r#"["GET"]"#),
    ] {
        settings +=
            &format!("\n[[operations]]\ninclude-method = {methods}\n[operations.parameters]\n");
        for (name, value) in things.as_object().into_iter().flatten() {
            settings += &format!(
                "\"path.{name}\" = {}\n",
                dictionary(&format!("{title}_{name}"), value)
            );
        }
    }
    let part = |document: &Value, settings: &str| PhaseInput {
        document: document.clone(),
        settings: format!("{settings}{dictionaries}"),
    };
    let whole = document_with_examples(&kept, &spare, &fields, role)?;
    let freed = without_hiding_parameters(whole.clone());
    let covered = if role == Role::Operator {
        without_maximums(freed.clone())
    } else {
        freed.clone()
    };
    Ok(RoundInputs {
        coverage: part(&covered, &settings),
        fuzzing: part(&whole, &settings),
        stateful: part(&freed, &going_on),
    })
}

/// Removes the parameters that hide other errors.
fn without_hiding_parameters(mut document: Value) -> Value {
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for (_, operation) in paths
        .filter_map(|(_, methods)| methods.as_object_mut())
        .flatten()
    {
        if let Some(parameters) = operation
            .get_mut("parameters")
            .and_then(Value::as_array_mut)
        {
            parameters.retain(|parameter| {
                parameter["name"]
                    .as_str()
                    .is_none_or(|name| !HIDING_PARAMETERS.contains(&name))
            });
        }
    }
    document
}

/// Raises numeric limits to the maximum of `u32`. Coverage sends numbers near the limit that it
/// knows, so very large numbers are sent as well.
fn without_maximums(mut document: Value) -> Value {
    let schemas = document["components"]["schemas"]
        .as_object_mut()
        .into_iter()
        .flatten();
    for (_, number) in schemas
        .filter_map(|(_, schema)| schema["properties"].as_object_mut())
        .flatten()
    {
        if number["maximum"].is_u64() {
            number["maximum"] = json!(u32::MAX);
        }
    }
    document
}

/// Merges the ids of both sets. The mesh to be deleted is left out, because an operation deletes it
/// and it stays visible until that has ended.
fn merge_ids(kept: &Value, spare: &Value) -> Value {
    let listed = |value: &Value| {
        value
            .as_array()
            .cloned()
            .unwrap_or_else(|| vec![value.clone()])
    };
    let of = |(name, value): (&String, &Value)| {
        let more = if name == "mesh_id" {
            Vec::new()
        } else {
            listed(&spare[name])
        };
        (name.clone(), json!([listed(value), more].concat()))
    };
    kept.as_object().into_iter().flatten().map(of).collect()
}

/// A field of a request body whose value must exist, or that random data does not hit.
struct FieldExample {
    schema: &'static str,
    name: &'static str,
    /// Path of the field in a body. One entry applies to all bodies that have the field at this
    /// path.
    path: Option<&'static str>,
    /// One value, or an array of values of which one is drawn.
    value: Value,
}

/// Returns a different issuer for each number, because a tenant can trust an issuer only once.
fn issuer_url(number: usize) -> String {
    format!("https://login-{number}.example.com")
}

fn field_examples(kept: &Value, kubeconfig: &str) -> Vec<FieldExample> {
    let field = |schema, name, path, value: Value| FieldExample {
        schema,
        name,
        path,
        value,
    };
    let mut fields = vec![
        field(
            "CreateApiKey",
            "expires_at",
            None,
            json!("2099-01-01T00:00:00Z"),
        ),
        field("CreateMesh", "version", Some("version"), json!("1.27.9.1")),
        field(
            "CreateMesh",
            "clusters",
            Some("clusters[*]"),
            kept["free_cluster"].clone(),
        ),
        field(
            "CreateIdentityProvider",
            "issuer",
            Some("issuer"),
            (0..KEYS_OF_EACH_KIND).map(issuer_url).collect(),
        ),
        field(
            "CreateWebhook",
            "url",
            Some("url"),
            json!("https://hooks.example.com/meshwright"),
        ),
        field(
            "RegisterCluster",
            "kubeconfig",
            Some("kubeconfig"),
            json!(kubeconfig),
        ),
        field("AddHostingCluster", "kubeconfig", None, json!(kubeconfig)),
        field("RenewCredential", "kubeconfig", None, json!(kubeconfig)),
        field("SetInjection", "cluster", Some("cluster"), json!("c1")),
        field(
            "SetInjection",
            "namespace",
            Some("namespace"),
            json!("plain"),
        ),
        field(
            "NamespaceRef",
            "cluster",
            Some("namespaces[*].cluster"),
            json!("c1"),
        ),
        field(
            "NamespaceRef",
            "namespace",
            Some("namespaces[*].namespace"),
            json!("explicit"),
        ),
    ];
    if kept.get("provider_id").is_some() {
        fields.push(field(
            "CreateRoleBinding",
            "provider_id",
            Some("provider_id"),
            kept["provider_id"].clone(),
        ));
        fields.push(field(
            "CreateRoleBinding",
            "scope",
            Some("scope"),
            kept["mesh_id"].clone(),
        ));
    }
    fields
}

fn document_with_examples(
    kept: &Value,
    spare: &Value,
    fields: &[FieldExample],
    role: Role,
) -> Result<Value> {
    let text = std::fs::read_to_string(OPENAPI_FILE)?;
    let mut document: Value = serde_json::from_str(&text)?;
    for (_, methods) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in methods.as_object_mut().into_iter().flatten() {
            let things = if method == "delete" { spare } else { kept };
            if let Some(parameters) = operation
                .get_mut("parameters")
                .and_then(Value::as_array_mut)
            {
                set_parameter_examples(parameters, things);
            }
        }
    }
    if role == Role::Owner {
        // Hide the answer of the list of keys: the stateful phase would go on to revoke the keys
        // that it lists, and the key in use is among them.
        document["paths"]["/v1/api-keys"]["get"]["responses"]["200"]["content"]["application/json"]
            ["schema"] = json!({});
    }
    for FieldExample {
        schema,
        name,
        path,
        value,
    } in fields
    {
        let found = document["components"]["schemas"][schema]["properties"].get_mut(name);
        let listed = path.is_some_and(|path| path.ends_with("[*]"));
        let value = value.get(0).unwrap_or(value);
        let example = if listed {
            json!([value])
        } else {
            value.clone()
        };
        found.with_context(|| format!("{schema} has no {name}"))?["example"] = example;
    }
    Ok(document)
}

fn set_parameter_examples(parameters: &mut [Value], things: &Value) {
    for parameter in parameters {
        match parameter["name"].as_str() {
            Some("If-Match") => parameter["example"] = json!("*"),
            Some(name) if things.get(name).is_some() => {
                parameter["example"] = things[name].get(0).unwrap_or(&things[name]).clone();
            }
            _ => {}
        }
    }
}
