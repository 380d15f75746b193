//! A service over a fleet with one mesh, and keys to call it with.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use meshwright_api::{App, Rate, Rates};
use meshwright_model::Clock;
use meshwright_model::access::{Action, Role, Scope};
use meshwright_model::ids::{KeyId, TenantId};
use meshwright_model::problem::ProblemCode;
use meshwright_store::{AccessFilter, ApiKeyToken, ListFilter, NewApiKey, Page, Store};
use meshwright_testkit::Fleet;
use serde_json::{Value, json};
use tower::ServiceExt;
use uuid::Uuid;

use crate::issuer::FakeIssuer;

/// A service over a fleet with one mesh, and keys to call it with.
pub(crate) struct Service {
    pub fleet: Fleet,
    pub app: App,
    // Made of the app at the first call: it takes longer than most calls.
    router: OnceLock<Router>,
    /// The identity provider that its tenants may trust.
    pub issuer: Arc<FakeIssuer>,
}

/// Tests that are not about limits never meet one.
const PLENTY: Rates = {
    let rate = Rate {
        burst: 1_000_000,
        period: Duration::from_secs(1000),
    };
    Rates {
        read: rate,
        write: rate,
        expensive: rate,
    }
};

#[derive(Debug)]
pub(crate) struct Reply {
    pub status: StatusCode,
    pub etag: Option<String>,
    pub headers: HeaderMap,
    pub body: Value,
    pub text: String,
}

pub(crate) async fn key(
    store: &Store,
    clock: &dyn Clock,
    tenant: TenantId,
    role: Role,
    scopes: &[Scope],
) -> String {
    let text = ApiKeyToken::generate(tenant, KeyId(clock.new_uuid()));
    let new = NewApiKey {
        id: text.key,
        name: format!("{}-{}", role.as_str(), text.key),
        role,
        scopes: scopes.to_vec(),
        digest: text.secret_digest(store.sealer()),
        expires_at: None,
    };
    let mut tx = store.begin(tenant).await.expect("a transaction");
    tx.api_keys()
        .create_api_key(&new, clock.now())
        .await
        .expect("a key");
    tx.commit().await.expect("a commit");
    text.reveal()
}

impl Service {
    pub(crate) async fn new() -> Self {
        let fleet = Fleet::new().await;
        let issuer = Arc::new(FakeIssuer::default());
        let app = App {
            limits: Arc::new(meshwright_api::RequestLimiter::new(
                PLENTY,
                PLENTY,
                fleet.clock.clone(),
            )),
            issuers: Arc::new(meshwright_api::IssuerKeys::new(issuer.clone())),
            store: fleet.db.api.clone().with_connection_quota(),
            clock: fleet.clock.clone(),
            read_kubeconfig: Arc::new(|text: &str| {
                if text == "good" {
                    Ok(("https://c.example".into(), b"stored".to_vec()))
                } else {
                    Err((
                        ProblemCode::KubeconfigRefused,
                        "users.exec would run a program here".into(),
                    ))
                }
            }),
            new_authority: |_, _| Ok(b"authority".to_vec()),
            read_charts: |sent| match sent {
                b"charts" => Ok((sent.to_vec(), "digest".into())),
                _ => Err("base/Chart.yaml is missing".into()),
            },
        };
        Self {
            fleet,
            app,
            router: OnceLock::new(),
            issuer,
        }
    }

    pub(crate) async fn key(&self, role: Role) -> String {
        self.narrow_key(role, &[]).await
    }

    /// Creates a key of the operator of the service.
    pub(crate) async fn operator(&self, role: Role) -> String {
        let store = &self.fleet.db.api;
        store
            .ensure_platform_key(self.fleet.clock.now())
            .await
            .expect("a key for the operators' tenant");
        key(
            store,
            self.fleet.clock.as_ref(),
            TenantId::PLATFORM,
            role,
            &[],
        )
        .await
    }

    pub(crate) async fn narrow_key(&self, role: Role, scopes: &[Scope]) -> String {
        key(
            &self.fleet.db.api,
            self.fleet.clock.as_ref(),
            self.fleet.db.tenant,
            role,
            scopes,
        )
        .await
    }

    /// Calls an operation on this tenant's own things.
    pub(crate) async fn call_route(&self, route: &Route, key: Option<&str>) -> Reply {
        let path = self.path(&route.path, route.verb).await;
        self.call(
            &route.method,
            &path,
            key,
            &[("If-Match", "\"0\"")],
            Some(&route.body),
        )
        .await
    }

    pub(crate) async fn stranger(&self) -> String {
        let tenant = TenantId(Uuid::from_u128(2));
        self.fleet
            .db
            .api
            .create_tenant(tenant, "stranger", self.fleet.clock.now())
            .await
            .expect("a tenant");
        key(
            &self.fleet.db.api,
            self.fleet.clock.as_ref(),
            tenant,
            Role::Owner,
            &[],
        )
        .await
    }

    pub(crate) fn router(&self) -> Router {
        self.router
            .get_or_init(|| meshwright_api::router(self.app.clone()))
            .clone()
    }

    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Reply {
        let mut request = Request::builder()
            .method(method.parse::<Method>().expect(method))
            .uri(path);
        if let Some(key) = key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let response = self
            .router()
            .oneshot(request.body(body).expect("a request"))
            .await
            .expect("an answer");
        let (status, etag) = (
            response.status(),
            response
                .headers()
                .get("etag")
                .map(|tag| tag.to_str().expect("text").to_owned()),
        );
        let headers = response.headers().clone();
        let bytes = response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        Reply {
            status,
            etag,
            headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    /// Ids of this tenant's own things, by the names that paths use.
    pub(crate) async fn path(&self, template: &str, verb: &str) -> String {
        let upgrade = self.fleet.get_or_plan_upgrade().await;
        let rollout = self.fleet.get_or_queue_rollout().await;
        let mut tx = self.fleet.db.begin_beside_workers().await;
        let cluster = tx
            .clusters()
            .list_clusters(&AccessFilter::ALL, &ListFilter::default(), Page::ALL)
            .await
            .expect("clusters")[0]
            .id;
        let key = tx
            .api_keys()
            .list_api_keys(false, Page::ALL)
            .await
            .expect("keys")
            .first()
            .map(|key| key.id.to_string())
            .unwrap_or_default();
        template
            .replace("{mesh_id}", &self.fleet.mesh.to_string())
            .replace("{cluster_id}", &cluster.to_string())
            .replace("{upgrade_id}", &upgrade.to_string())
            .replace("{operation_id}", &rollout.to_string())
            .replace("{rollout_id}", &rollout.to_string())
            .replace("{key_id}", &key)
            .replace("{tenant_id}", &self.fleet.db.tenant.to_string())
            .replace("{version}", "1.27.8.1")
            .replace("{provider_id}", "idp_00000000000000000000000000")
            .replace("{binding_id}", "binding_00000000000000000000000000")
            .replace("{webhook_id}", "webhook_00000000000000000000000000")
            .replace("{seq}", "1")
            .replace("{hosting_cluster_id}", "hosting_00000000000000000000000000")
            .replace("{verb}", verb)
    }
}

/// What a caller can tell apart: not the id of the request.
pub(crate) fn seen(reply: &Reply) -> (StatusCode, Value) {
    let mut body = reply.body.clone();
    body.as_object_mut().map(|fields| fields.remove("instance"));
    (reply.status, body)
}

/// An operation of the document.
#[derive(Debug)]
pub(crate) struct Route {
    /// Its `operationId`.
    pub id: String,
    pub method: String,
    /// With names in braces.
    pub path: String,
    /// One that would be accepted from the right caller.
    pub body: Value,
    /// Where the path has a verb: one that there is.
    pub verb: &'static str,
    /// What it takes to be allowed.
    pub action: Action,
}

/// What each operation needs. One that is not here fails every test that goes through all of them.
fn action(id: &str) -> Action {
    match id {
        "listHostingClusters"
        | "listReleases"
        | "listClusters"
        | "getCluster"
        | "listMeshes"
        | "getMesh"
        | "listUpgradeOptions"
        | "getDataPlane"
        | "listUpgrades"
        | "getUpgrade"
        | "listOperations"
        | "getOperation"
        | "listRollouts"
        | "getRollout"
        | "listRolloutItems"
        | "listEvents"
        | "getUsage" => Action::Read,
        "listTenants" | "getTenant" => Action::ReadPlatform,
        "createTenant"
        | "createOwnerKey"
        | "changeTenant"
        | "deleteTenant"
        | "changeRelease"
        | "importRelease"
        | "addHostingCluster"
        | "deleteHostingCluster" => Action::ChangePlatform,
        "registerCluster" | "changeCluster" | "renewCredential" | "deleteCluster" => {
            Action::ChangeClusters
        }
        "createMesh" | "changeMesh" | "deleteMesh" | "undeleteMesh" | "retryMesh"
        | "setInjection" | "createRestart" | "createRollout" | "askRollout" | "askOperation" => {
            Action::ChangeMeshes
        }
        "createUpgrade" | "moveNamespaces" | "askUpgrade" => Action::Upgrade,
        "listApiKeys"
        | "getApiKey"
        | "listIdentityProviders"
        | "getIdentityProvider"
        | "listRoleBindings"
        | "listWebhooks"
        | "getWebhook"
        | "listDeliveries" => Action::ReadAccess,
        "createApiKey"
        | "rotateApiKey"
        | "revokeApiKey"
        | "createIdentityProvider"
        | "deleteIdentityProvider"
        | "createRoleBinding"
        | "deleteRoleBinding"
        | "createWebhook"
        | "changeWebhook"
        | "deleteWebhook"
        | "rotateWebhookSecret"
        | "testWebhook"
        | "redeliver" => Action::ChangeAccess,
        "listAuditEntries" | "getAuditHead" => Action::ReadAudit,
        unknown => panic!("nobody has said what {unknown} needs"),
    }
}

/// Every operation of the document.
pub(crate) fn routes() -> Vec<Route> {
    let document: Value = serde_json::from_str(&meshwright_api::openapi()).expect("a document");
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let id = operation["operationId"].as_str().expect("an id").to_owned();
            let body = match id.as_str() {
                "registerCluster" => json!({ "name": "c9", "kubeconfig": "good" }),
                "renewCredential" => json!({ "overlap_seconds": 60 }),
                "createMesh" => json!({ "name": "m9", "version": "1.25.1.1", "clusters": ["x"] }),
                "createUpgrade" => json!({ "version": "1.27.9.1", "strategy": "canary" }),
                "setInjection" => json!({ "cluster": "c1", "namespace": "shop", "label": null }),
                "moveNamespaces" => {
                    json!({ "namespaces": [{ "cluster": "c1", "namespace": "shop" }] })
                }
                "changeMesh" | "changeCluster" => json!({ "display_name": "changed" }),
                "createTenant" => json!({ "name": "t9" }),
                "changeTenant" => json!({ "quotas": { "meshes": 7 } }),
                "changeRelease" => json!({ "state": "deprecated" }),
                "createIdentityProvider" => {
                    json!({ "name": "idp9", "issuer": "https://nine.example" })
                }
                "createRoleBinding" => {
                    json!({ "provider_id": "idp_x", "subject": "somebody", "role": "viewer" })
                }
                "importRelease" => json!({ "version": "1.27.9.9", "charts": "Y2hhcnRz" }),
                "addHostingCluster" => json!({ "name": "h9", "kubeconfig": "good" }),
                "createWebhook" => json!({ "name": "w9", "url": "https://hooks.example/w9" }),
                "changeWebhook" => json!({ "kinds": ["upgrade.*"] }),
                "createOwnerKey" => json!({ "name": "k8" }),
                "createApiKey" => json!({ "name": "k9", "role": "viewer" }),
                _ => json!({}),
            };
            let verb = match id.as_str() {
                "askOperation" | "askRollout" => "pause",
                _ => "start",
            };
            let action = action(&id);
            all.push(Route {
                id,
                method: method.to_uppercase(),
                path: path.clone(),
                body,
                verb,
                action,
            });
        }
    }
    all
}
