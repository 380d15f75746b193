//! Creates the resources that the paths and bodies of a round name, through the API.

use anyhow::anyhow;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshwright_model::access::Role;
use meshwright_model::ids::TenantId;
use meshwright_store::{AccessFilter, ListFilter, Page};
use meshwright_testkit::Fleet;
use serde_json::{Value, json};

use crate::Result;
use crate::service::{self, ApiProcess};

/// Returns a valid kubeconfig of a cluster that does not answer.
fn make_kubeconfig() -> Result<String> {
    let made = rcgen::generate_simple_self_signed(Vec::new())?;
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

/// Number of API keys that are kept, and number of those that may be deleted.
pub(super) const KEYS_OF_EACH_KIND: usize = 8;

/// Creates things through the API as an owner and as the operator.
pub(super) struct ResourceMaker<'a> {
    fleet: &'a Fleet,
    http: reqwest::Client,
    address: String,
    tenant: TenantId,
    owner_key: String,
    operator_key: String,
    pub(super) kubeconfig: String,
}

impl<'a> ResourceMaker<'a> {
    pub(super) async fn new(fleet: &'a Fleet, api: &ApiProcess, platform: bool) -> Result<Self> {
        let tenant = if platform {
            TenantId::PLATFORM
        } else {
            fleet.db.tenant
        };
        let key = async |tenant| {
            service::create_api_key(&fleet.db.api, tenant, Role::Owner)
                .await
                .map_err(anyhow::Error::from)
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
        let answer = request.send().await?;
        let status = answer.status();
        let made: Value = answer.json().await?;
        if status.is_success() {
            Ok(made)
        } else {
            Err(anyhow!("POST {path}: {status}: {made}"))
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
            .await?;
        let ended: Value = asked.json().await?;
        if ended["state"] == "succeeded" {
            Ok(ended)
        } else {
            Err(anyhow!("POST {path} ended as {ended}"))
        }
    }

    /// Creates two sets of everything that a path can name (one to keep, one to delete), and a
    /// cluster that is in no mesh.
    pub(super) async fn create_kept_and_spare(&self) -> Result<(Value, Value)> {
        let store = &self.fleet.db.api;
        let upgrade = self.fleet.get_or_plan_upgrade().await;
        let rollout = self.fleet.get_or_queue_rollout().await;
        let mut tx = store.begin(self.fleet.db.tenant).await?;
        let operation = tx
            .operations()
            .list_operations(&AccessFilter::ALL, None, Page::ALL)
            .await?[0]
            .id;
        let member = tx
            .clusters()
            .list_clusters(&AccessFilter::ALL, &ListFilter::default(), Page::ALL)
            .await?[0]
            .id;
        drop(tx);
        let mut kept = json!({
            "mesh_id": self.fleet.mesh.to_string(), "upgrade_id": upgrade.to_string(), "version": "1.27.8.1", "seq": 1,
            "operation_id": operation.to_string(), "rollout_id": rollout.to_string(), "cluster_id": member.to_string(), "free_cluster": member.to_string(),
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
