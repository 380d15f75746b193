//! The service through its own door: real Postgres, real router, no network.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::App;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use model::Clock;
use model::ids::{KeyId, TenantId};
use serde_json::{Value, json};
use store::{KeyText, NewEvent, NewKey, Role, Store};
use testkit::Fleet;
use tower::ServiceExt;
use uuid::Uuid;

/// A service over a fleet with one mesh, and keys to call it with.
struct Service {
    fleet: Fleet,
    app: App,
}

#[derive(Debug)]
struct Reply {
    status: StatusCode,
    etag: Option<String>,
    body: Value,
}

async fn key(store: &Store, clock: &dyn Clock, tenant: TenantId, role: Role) -> String {
    let text = KeyText::generate(tenant, KeyId(clock.uuid()));
    let new =
        NewKey { id: text.key, name: role.as_str().into(), role, digest: text.digest(store.vault()), expires_at: None };
    let mut tx = store.begin(tenant).await.expect("a transaction");
    tx.create_key(&new, clock.now()).await.expect("a key");
    tx.commit().await.expect("a commit");
    text.reveal()
}

impl Service {
    async fn new() -> Self {
        let fleet = Fleet::new().await;
        let app = App {
            store: fleet.db.api.clone(),
            clock: fleet.clock.clone(),
            read_kubeconfig: |text| {
                if text == "good" {
                    Ok(("https://c.example".into(), b"stored".to_vec()))
                } else {
                    Err("users.exec would run a program here".into())
                }
            },
            new_authority: |_, _| Ok(b"authority".to_vec()),
        };
        Self { fleet, app }
    }

    async fn key(&self, role: Role) -> String {
        key(&self.fleet.db.api, self.fleet.clock.as_ref(), self.fleet.db.tenant, role).await
    }

    async fn stranger(&self) -> String {
        let tenant = TenantId(Uuid::from_u128(2));
        self.fleet.db.api.create_tenant(tenant, "stranger", self.fleet.clock.now()).await.expect("a tenant");
        key(&self.fleet.db.api, self.fleet.clock.as_ref(), tenant, Role::Owner).await
    }

    async fn call(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Reply {
        let mut request = Request::builder().method(method.parse::<Method>().expect(method)).uri(path);
        if let Some(key) = key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let response =
            api::router(self.app.clone()).oneshot(request.body(body).expect("a request")).await.expect("an answer");
        let (status, etag) =
            (response.status(), response.headers().get("etag").map(|tag| tag.to_str().expect("text").to_owned()));
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        Reply { status, etag, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
    }

    /// Ids of this tenant's own things, by the names that paths use.
    async fn path(&self, template: &str, verb: &str) -> String {
        let upgrade = self.fleet.plan_or_known().await;
        let mut tx = self.fleet.db.api.begin(self.fleet.db.tenant).await.expect("a transaction");
        let cluster = tx.clusters().await.expect("clusters")[0].id;
        let operation = tx.operations(None, None, 1).await.expect("operations")[0].id;
        let key = tx.keys().await.expect("keys").first().map(|key| key.id.to_string()).unwrap_or_default();
        template
            .replace("{mesh_id}", &self.fleet.mesh.to_string())
            .replace("{cluster_id}", &cluster.to_string())
            .replace("{upgrade_id}", &upgrade.to_string())
            .replace("{operation_id}", &operation.to_string())
            .replace("{key_id}", &key)
            .replace("{verb}", verb)
    }
}

/// Every operation of the document, with a body that would be accepted from the right caller.
fn operations() -> Vec<(String, String, String, Value)> {
    let document: Value = serde_json::from_str(&api::openapi()).expect("a document");
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let id = operation["operationId"].as_str().expect("an id").to_owned();
            let body = match id.as_str() {
                "registerCluster" => json!({ "name": "c9", "kubeconfig": "good" }),
                "createMesh" => json!({ "name": "m9", "version": "1.25.1.1", "clusters": ["x"] }),
                "createUpgrade" => json!({ "version": "1.27.9.1", "strategy": "canary" }),
                "setInjection" => json!({ "cluster": "c1", "namespace": "shop", "label": null }),
                "moveNamespaces" => json!({ "namespaces": [{ "cluster": "c1", "namespace": "shop" }] }),
                "createApiKey" => json!({ "name": "k9", "role": "viewer" }),
                _ => json!({}),
            };
            all.push((id, method.to_uppercase(), path.clone(), body));
        }
    }
    all
}

#[tokio::test]
async fn nobody_gets_past_any_operation() {
    let service = Service::new().await;
    service.key(Role::Owner).await;
    for (id, method, path, body) in operations() {
        let path = service.path(&path, "start").await;
        for forged in [None, Some("mwk_x"), Some("Bearer")] {
            let reply = service.call(&method, &path, forged, &[], Some(&body)).await;
            assert_eq!(
                (reply.status, reply.body["code"].as_str()),
                (StatusCode::UNAUTHORIZED, Some("unauthenticated")),
                "{id}"
            );
        }
    }
}

#[tokio::test]
async fn another_tenant_finds_nothing_and_learns_nothing() {
    let service = Service::new().await;
    let stranger = service.stranger().await;
    let about_one = operations().into_iter().filter(|(_, _, path, _)| path.contains("_id}"));
    for (id, method, path, body) in about_one {
        let path = service.path(&path, "start").await;
        let foreign = service.call(&method, &path, Some(&stranger), &[("If-Match", "\"0\"")], Some(&body)).await;
        assert_eq!(foreign.status, StatusCode::NOT_FOUND, "{id}: {foreign:?}");
        // An id that does not exist at all sounds exactly the same.
        let unknown = path.replace('8', "9");
        let absent = service.call(&method, &unknown, Some(&stranger), &[("If-Match", "\"0\"")], Some(&body)).await;
        assert_eq!((absent.status, &absent.body), (foreign.status, &foreign.body), "{id}");
    }
    for list in ["/v1/meshes", "/v1/clusters", "/v1/operations", "/v1/events"] {
        let reply = service.call("GET", list, Some(&stranger), &[], None).await;
        assert_eq!(reply.body["items"], json!([]), "{list}");
    }
}

#[tokio::test]
async fn readers_cannot_change_anything() {
    let service = Service::new().await;
    let (viewer, auditor) = (service.key(Role::Viewer).await, service.key(Role::Auditor).await);
    let mut refused = BTreeSet::new();
    for (id, method, path, body) in operations().into_iter().filter(|(_, method, ..)| method != "GET") {
        let path = service.path(&path, "start").await;
        for key in [&viewer, &auditor] {
            let reply = service.call(&method, &path, Some(key), &[("If-Match", "\"0\"")], Some(&body)).await;
            assert_eq!(
                (reply.status, reply.body["code"].as_str()),
                (StatusCode::FORBIDDEN, Some("role_missing")),
                "{id}"
            );
        }
        refused.insert(id);
    }
    assert!(refused.len() >= 12, "{refused:?}");
}

#[tokio::test]
async fn a_repeated_request_has_one_effect_and_one_answer() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    let body = json!({ "name": "ci", "role": "viewer" });
    let key = [("Idempotency-Key", "the-same")];
    let first = service.call("POST", "/v1/api-keys", Some(&owner), &key, Some(&body)).await;
    let again = service.call("POST", "/v1/api-keys", Some(&owner), &key, Some(&body)).await;
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    let other = service
        .call("POST", "/v1/api-keys", Some(&owner), &key, Some(&json!({ "name": "cd", "role": "viewer" })))
        .await;
    assert_eq!(other.body["code"], "idempotency_key_reused");
    let listed = service.call("GET", "/v1/api-keys", Some(&owner), &[], None).await;
    assert_eq!(listed.body["items"].as_array().expect("a list").len(), 2, "the owner's own and one new");
}

#[tokio::test]
async fn promote_needs_the_tag_of_what_was_looked_at() {
    let service = Service::new().await;
    let operator = service.key(Role::Operator).await;
    let upgrade = service.fleet.plan_or_known().await;
    let path = format!("/v1/upgrades/{upgrade}");
    let started = service.call("POST", &format!("{path}/start"), Some(&operator), &[], None).await;
    assert_eq!((started.status, started.body["state"].as_str()), (StatusCode::ACCEPTED, Some("prechecking")));
    service.fleet.run().await;
    let promote = format!("{path}/promote");
    let without = service.call("POST", &promote, Some(&operator), &[], None).await;
    assert_eq!(
        (without.status, without.body["code"].as_str()),
        (StatusCode::PRECONDITION_REQUIRED, Some("if_match_missing"))
    );
    let stale = service.call("POST", &promote, Some(&operator), &[("If-Match", "\"1\"")], None).await;
    assert_eq!((stale.status, stale.body["code"].as_str()), (StatusCode::PRECONDITION_FAILED, Some("moved_on")));
    let looked = service.call("GET", &path, Some(&operator), &[], None).await;
    assert_eq!(looked.body["allowed_verbs"], json!(["move", "promote", "rollback"]));
    let promoted =
        service.call("POST", &promote, Some(&operator), &[("If-Match", &looked.etag.expect("a tag"))], None).await;
    assert_eq!(promoted.body["state"], "promoting");
    let early = service.call("POST", &format!("{path}/retire"), Some(&operator), &[("If-Match", "\"9\"")], None).await;
    assert_eq!(early.status, StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn bad_input_is_answered_with_a_code_and_changes_nothing() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    let mesh = service.fleet.mesh;
    let upgrades = format!("/v1/meshes/{mesh}/upgrades");
    let rows = [
        ("POST", "/v1/clusters", json!({ "name": "c9", "kubeconfig": "exec" }), "kubeconfig_refused"),
        ("POST", "/v1/clusters", json!({ "name": "C9", "kubeconfig": "good" }), "invalid_field"),
        ("POST", "/v1/clusters", json!({ "name": "c1", "kubeconfig": "good" }), "name_taken"),
        ("POST", "/v1/clusters", json!({ "name": "c9", "kubeconfig": "good", "surprise": 1 }), "malformed_body"),
        ("POST", "/v1/clusters", json!(["x"]), "malformed_body"),
        (
            "POST",
            "/v1/meshes",
            json!({ "name": "m", "version": "1.99.0.1", "clusters": ["x"] }),
            "version_not_in_catalogue",
        ),
        ("POST", "/v1/meshes", json!({ "name": "m", "version": "1.25.1.1", "clusters": [] }), "invalid_field"),
        ("POST", &upgrades, json!({ "version": "1.25.1.1", "strategy": "canary" }), "upgrade_refused"),
        ("POST", &upgrades, json!({ "version": "1.27.9.1", "strategy": "in_place" }), "upgrade_refused"),
        ("POST", &upgrades, json!({ "version": "1.27.9.1", "strategy": "sideways" }), "invalid_field"),
        (
            "POST",
            &upgrades,
            json!({ "version": "1.27.9.1", "strategy": "canary", "hold_seconds": 4_000_000 }),
            "invalid_field",
        ),
        ("GET", "/v1/operations?page_size=0", json!({}), "invalid_field"),
        ("GET", "/v1/operations?page_token=x", json!({}), "invalid_field"),
        ("GET", "/v1/nowhere", json!({}), "not_found"),
        ("PUT", "/v1/meshes", json!({}), "method_not_allowed"),
    ];
    for (method, path, body, code) in rows {
        let reply = service.call(method, path, Some(&owner), &[], Some(&body)).await;
        assert_eq!(reply.body["code"], code, "{method} {path} {body}: {reply:?}");
        assert!(!reply.body["hint"].as_str().expect("a hint").is_empty());
    }
    let clusters = service.call("GET", "/v1/clusters", Some(&owner), &[], None).await;
    assert_eq!(clusters.body["items"].as_array().expect("a list").len(), 2);
}

/// Four readers tail what eight writers write: no event is lost, and none comes out of order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn events_are_neither_lost_nor_reordered() {
    const WRITERS: usize = 8;
    const EACH: usize = 40;
    let fleet = Arc::new(Fleet::new().await);
    let start = tail(&fleet, 0).await.last().copied().unwrap_or(0);
    let writers = (0..WRITERS).map(|writer| {
        let fleet = fleet.clone();
        tokio::spawn(async move {
            for number in 0..EACH {
                let mut tx = fleet.db.api.begin(fleet.db.tenant).await.expect("a transaction");
                let at = fleet.clock.now();
                tx.tell(NewEvent {
                    at,
                    kind: "test",
                    mesh: None,
                    upgrade: None,
                    operation: None,
                    body: json!([writer, number]),
                });
                tx.commit().await.expect("a commit");
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let readers = (0..4).map(|_| {
        let fleet = fleet.clone();
        tokio::spawn(async move {
            let (mut cursor, mut seen) = (start, Vec::new());
            while seen.len() < WRITERS * EACH {
                let found = tail(&fleet, cursor).await;
                cursor = found.last().copied().unwrap_or(cursor);
                seen.extend(found);
            }
            seen
        })
    });
    let readers: Vec<_> = readers.collect();
    for writer in writers {
        writer.await.expect("no panic");
    }
    let expected: Vec<i64> = (start + 1..).take(WRITERS * EACH).collect();
    for reader in readers {
        assert_eq!(reader.await.expect("no panic"), expected);
    }
}

async fn tail(fleet: &Fleet, after: i64) -> Vec<i64> {
    let mut tx = fleet.db.api.begin(fleet.db.tenant).await.expect("a transaction");
    let events = tx.events_after(after, None, 1000).await.expect("events");
    events.iter().map(|event| event.seq).collect()
}
