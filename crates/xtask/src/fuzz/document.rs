//! The API's document with examples that exist: what is made up names nothing, and whatever else is wrong with a request
//! hides behind that.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::access::Role;
use model::ids::TenantId;
use serde_json::{Value, json};
use store::{Narrow, Page, Reach};
use testkit::Fleet;

use super::PLATFORM;
use crate::service::{self, Api};
use crate::{Result, fresh};

/// A kubeconfig that is fine, of a cluster that does not answer.
fn kubeconfig() -> Result<String> {
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

/// The document for one round: paths and bodies name what this fleet has, and what is deleted is there twice.
pub(super) async fn with_examples(fleet: &Fleet, api: &Api, (title, role): (&str, Role)) -> Result<Value> {
    let text = std::fs::read_to_string(fresh::OPENAPI).map_err(|error| error.to_string())?;
    let mut document: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let maker = Maker::new(fleet, api, title == PLATFORM).await?;
    let (kept, spare) = (maker.things("a").await?, maker.things("b").await?);
    for (_, methods) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in methods.as_object_mut().into_iter().flatten() {
            let things = if method == "delete" { &spare } else { &kept };
            let created = ["201", "202"].iter().any(|status| operation["responses"].get(status).is_some());
            if let Some(trial) = operation.pointer_mut("/responses/200/content/application~1json").filter(|_| created) {
                // Nobody goes on to look for what a trial would have made.
                trial["schema"] = json!({});
            }
            for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(example) = parameter["name"].as_str().and_then(|name| things.get(name)) {
                    parameter["example"] = example.clone();
                }
            }
        }
    }
    if role == Role::Owner {
        // Who reads which keys there are goes on to revoke them, and the one in use is among them.
        document["paths"]["/v1/api-keys"]["get"]["responses"]["200"]["content"]["application/json"]["schema"] =
            json!({});
    }
    let never = "2099-01-01T00:00:00Z";
    for (schema, field, example) in [
        ("CreateApiKey", "expires_at", json!(never)),
        ("CreateMesh", "clusters", json!([kept["free_cluster"]])),
        ("CreateRoleBinding", "provider_id", kept["provider_id"].clone()),
        ("CreateRoleBinding", "scope", kept["mesh_id"].clone()),
        ("RegisterCluster", "kubeconfig", json!(maker.kubeconfig)),
        ("AddHostingCluster", "kubeconfig", json!(maker.kubeconfig)),
        ("RenewCredential", "kubeconfig", json!(maker.kubeconfig)),
        ("SetInjection", "cluster", json!("c1")),
        ("SetInjection", "namespace", json!("plain")),
        ("NamespaceRef", "cluster", json!("c1")),
        ("NamespaceRef", "namespace", json!("explicit")),
    ] {
        let found = document["components"]["schemas"][schema]["properties"].get_mut(field);
        found.ok_or_else(|| format!("{schema} has no {field}"))?["example"] = example;
    }
    Ok(document)
}

/// Makes things through the API, as an owner.
struct Maker<'a> {
    fleet: &'a Fleet,
    http: reqwest::Client,
    address: String,
    tenant: TenantId,
    owner: String,
    operator: String,
    kubeconfig: String,
}

impl<'a> Maker<'a> {
    async fn new(fleet: &'a Fleet, api: &Api, platform: bool) -> Result<Self> {
        let tenant = if platform { TenantId::PLATFORM } else { fleet.db.tenant };
        let key =
            async |tenant| service::key(&fleet.db.api, tenant, Role::Owner).await.map_err(|error| error.to_string());
        let (owner, operator) = (key(tenant).await?, key(TenantId::PLATFORM).await?);
        let http = reqwest::Client::new();
        Ok(Self {
            fleet,
            http,
            address: format!("http://{}", api.address),
            tenant,
            owner,
            operator,
            kubeconfig: kubeconfig()?,
        })
    }

    async fn make(&self, key: &str, path: &str, body: Value) -> Result<Value> {
        let request = self.http.post(format!("{}{path}", self.address)).bearer_auth(key).json(&body);
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let made: Value = answer.json().await.map_err(|error| error.to_string())?;
        if status.is_success() { Ok(made) } else { Err(format!("POST {path}: {status}: {made}")) }
    }

    /// One of each thing that a path can name, and a cluster that no mesh has.
    async fn things(&self, name: &str) -> Result<Value> {
        let store = &self.fleet.db.api;
        let wrong = |error: store::StoreError| error.to_string();
        let upgrade = self.fleet.plan_or_known().await;
        let mut tx = store.begin(self.fleet.db.tenant).await.map_err(wrong)?;
        let operation = tx.operations(&Reach::ALL, None, Page::ALL).await.map_err(wrong)?[0].id;
        let member = tx.clusters(&Reach::ALL, &Narrow::default(), Page::ALL).await.map_err(wrong)?[0].id;
        drop(tx);
        let body = |more: Value| {
            let mut body = json!({ "name": format!("spare-{name}") });
            body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            body
        };
        let owner = async |path: &str, more: Value| self.make(&self.owner, path, body(more)).await;
        let operator = async |path: &str, more: Value| self.make(&self.operator, path, body(more)).await;
        let key = owner("/v1/api-keys", json!({ "role": "viewer" })).await?;
        let tenant = operator("/v1/tenants", json!({})).await?;
        let hosting = operator("/v1/hosting-clusters", json!({ "kubeconfig": self.kubeconfig })).await?;
        let mut things = json!({
            "mesh_id": self.fleet.mesh.to_string(), "upgrade_id": upgrade.to_string(), "version": "1.27.8.1", "seq": 1,
            "operation_id": operation.to_string(), "cluster_id": member.to_string(), "key_id": key["id"],
            "tenant_id": tenant["id"], "hosting_cluster_id": hosting["id"], "free_cluster": member.to_string(),
        });
        if self.tenant != TenantId::PLATFORM {
            let provider =
                owner("/v1/identity-providers", json!({ "issuer": format!("https://{name}.example.com") })).await?;
            let binding = json!({ "provider_id": provider["id"], "subject": name, "role": "viewer" });
            let binding = self.make(&self.owner, "/v1/role-bindings", binding).await?;
            let webhook = owner("/v1/webhooks", json!({ "url": "https://hooks.example.com/x" })).await?;
            let cluster = owner("/v1/clusters", json!({ "kubeconfig": self.kubeconfig })).await?;
            for (field, id) in [
                ("provider_id", &provider["id"]),
                ("binding_id", &binding["id"]),
                ("webhook_id", &webhook["id"]),
                ("free_cluster", &cluster["cluster_id"]),
            ] {
                things[field] = id.clone();
            }
        }
        Ok(things)
    }
}
