//! Prepares the API's document for Schemathesis: adds examples and dictionaries with ids and values
//! that exist. Invented ids end in 404, and every other error of such a request stays hidden behind
//! that answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshwright_model::access::Role;
use meshwright_model::ids::TenantId;
use meshwright_store::{AccessFilter, ListFilter, Page};
use meshwright_testkit::Fleet;
use serde_json::{Value, json};

use super::PLATFORM;
use crate::service::{self, ApiProcess};
use crate::{Result, fresh};

/// Returns a valid kubeconfig of a cluster that does not answer.
fn make_kubeconfig() -> Result<String> {
    let made = rcgen::generate_simple_self_signed(Vec::new()).map_err(|error| error.to_string())?;
    let cluster = json!({
        "server": "https://cluster.example.com:6443", "certificate-authority-data": STANDARD.encode(made.cert.pem()),
    });
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{ "name": "c", "cluster": cluster }],
        "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
        "users": [{ "name": "u", "user": { "token": "some-token" } }],
    });
    Ok(config.to_string())
}

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

/// Number of API keys that are kept, and number of those that may be deleted.
const KEYS_OF_EACH_KIND: usize = 8;
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
    let text = std::fs::read_to_string(fresh::OPENAPI_FILE).map_err(|error| error.to_string())?;
    let mut document: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
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
        found.ok_or_else(|| format!("{schema} has no {name}"))?["example"] = example;
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

/// Creates things through the API as an owner and as the operator.
struct ResourceMaker<'a> {
    fleet: &'a Fleet,
    http: reqwest::Client,
    address: String,
    tenant: TenantId,
    owner_key: String,
    operator_key: String,
    kubeconfig: String,
}

impl<'a> ResourceMaker<'a> {
    async fn new(fleet: &'a Fleet, api: &ApiProcess, platform: bool) -> Result<Self> {
        let tenant = if platform {
            TenantId::PLATFORM
        } else {
            fleet.db.tenant
        };
        let key = async |tenant| {
            service::create_api_key(&fleet.db.api, tenant, Role::Owner)
                .await
                .map_err(|error| error.to_string())
        };
        let (owner, operator) = (key(tenant).await?, key(TenantId::PLATFORM).await?);
        let http = reqwest::Client::new();
        Ok(Self {
            fleet,
            http,
            address: format!("http://{}", api.address),
            tenant,
            owner_key: owner,
            operator_key: operator,
            kubeconfig: make_kubeconfig()?,
        })
    }

    async fn create_resource(&self, key: &str, path: &str, body: Value) -> Result<Value> {
        let request = self
            .http
            .post(format!("{}{path}", self.address))
            .bearer_auth(key)
            .json(&body);
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let made: Value = answer.json().await.map_err(|error| error.to_string())?;
        if status.is_success() {
            Ok(made)
        } else {
            Err(format!("POST {path}: {status}: {made}"))
        }
    }

    /// Sends a request that starts an operation, and waits until the operation has succeeded.
    async fn create_and_wait(&self, path: &str, body: Value) -> Result<Value> {
        let begun = self.create_resource(&self.owner_key, path, body).await?;
        let address = format!(
            "{}/v1/operations/{}?wait_seconds=30",
            self.address,
            begun["id"].as_str().unwrap_or("-")
        );
        let asked = self
            .http
            .get(address)
            .bearer_auth(&self.owner_key)
            .send()
            .await
            .map_err(|error| error.to_string())?;
        let ended: Value = asked.json().await.map_err(|error| error.to_string())?;
        if ended["state"] == "succeeded" {
            Ok(ended)
        } else {
            Err(format!("POST {path} ended as {ended}"))
        }
    }

    /// Creates two sets of everything that a path can name (one to keep, one to delete), and a
    /// cluster that is in no mesh.
    async fn create_kept_and_spare(&self) -> Result<(Value, Value)> {
        let store = &self.fleet.db.api;
        let wrong = |error: meshwright_store::StoreError| error.to_string();
        let upgrade = self.fleet.get_or_plan_upgrade().await;
        let mut tx = store.begin(self.fleet.db.tenant).await.map_err(wrong)?;
        let operation = tx
            .list_operations(&AccessFilter::ALL, None, Page::ALL)
            .await
            .map_err(wrong)?[0]
            .id;
        let member = tx
            .list_clusters(&AccessFilter::ALL, &ListFilter::default(), Page::ALL)
            .await
            .map_err(wrong)?[0]
            .id;
        drop(tx);
        let mut kept = json!({
            "mesh_id": self.fleet.mesh.to_string(), "upgrade_id": upgrade.to_string(), "version": "1.27.8.1", "seq": 1,
            "operation_id": operation.to_string(), "cluster_id": member.to_string(), "free_cluster": member.to_string(),
        });
        let mut spare = kept.clone();
        self.create_operator_resources("a", &mut kept).await?;
        self.create_operator_resources("b", &mut spare).await?;
        if self.tenant != TenantId::PLATFORM {
            self.create_owner_resources("a", &mut kept).await?;
            self.create_owner_resources("b", &mut spare).await?;
            let cluster = json!([spare["free_cluster"]]);
            let body = json!({ "name": "spare", "version": "1.25.1.1", "clusters": cluster });
            spare["mesh_id"] = self.create_and_wait("/v1/meshes", body).await?["mesh_id"].clone();
            // Deleting a provider deletes its bindings, so both bindings belong to the provider
            // that is kept.
            let provider = kept["provider_id"].clone();
            for (subject, things) in [("a", &mut kept), ("b", &mut spare)] {
                let binding =
                    json!({ "provider_id": provider, "subject": subject, "role": "viewer" });
                things["binding_id"] = self
                    .create_resource(&self.owner_key, "/v1/role-bindings", binding)
                    .await?["id"]
                    .clone();
            }
        }
        Ok((kept, spare))
    }

    async fn create_operator_resources(&self, name: &str, things: &mut Value) -> Result<()> {
        let body = |more: Value| named_body(name, more);
        // A key that was rotated refuses the next rotation, and that answer hides every other error
        // of the request. So create several keys.
        let mut keys = Vec::new();
        for number in 0..KEYS_OF_EACH_KIND {
            let key = json!({ "name": format!("spare-{name}-{number}"), "role": "viewer" });
            keys.push(
                self.create_resource(&self.owner_key, "/v1/api-keys", key)
                    .await?["id"]
                    .clone(),
            );
        }
        things["key_id"] = json!(keys);
        let tenant = self
            .create_resource(&self.operator_key, "/v1/tenants", body(json!({})))
            .await?;
        let hosting = body(json!({ "kubeconfig": self.kubeconfig }));
        let hosting = self
            .create_resource(&self.operator_key, "/v1/hosting-clusters", hosting)
            .await?;
        for (field, made) in [("tenant_id", &tenant), ("hosting_cluster_id", &hosting)] {
            things[field] = made["id"].clone();
        }
        Ok(())
    }

    async fn create_owner_resources(&self, name: &str, things: &mut Value) -> Result<()> {
        let body = |more: Value| named_body(name, more);
        let provider = body(json!({ "issuer": format!("https://{name}.example.com") }));
        let provider = self
            .create_resource(&self.owner_key, "/v1/identity-providers", provider)
            .await?;
        let webhook = body(json!({ "url": "https://hooks.example.com/x" }));
        let webhook = self
            .create_resource(&self.owner_key, "/v1/webhooks", webhook)
            .await?;
        let cluster = self
            .create_and_wait(
                "/v1/clusters",
                body(json!({ "kubeconfig": self.kubeconfig })),
            )
            .await?;
        for (field, id) in [
            ("provider_id", &provider["id"]),
            ("webhook_id", &webhook["id"]),
            ("free_cluster", &cluster["cluster_id"]),
        ] {
            things[field] = id.clone();
        }
        Ok(())
    }
}

fn named_body(name: &str, more: Value) -> Value {
    let mut body = json!({ "name": format!("spare-{name}") });
    body.as_object_mut()
        .expect("an object")
        .extend(more.as_object().expect("an object").clone());
    body
}
