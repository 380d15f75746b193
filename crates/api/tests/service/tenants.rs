//! Tenants: created, limited, suspended and deleted by the operator of the service.

use std::sync::Arc;

use axum::http::StatusCode;
use meshwright_model::access::Role;
use meshwright_store::embedded_postgres::SUPERUSER;
use serde_json::{Value, json};

use crate::support::{Reply, Service};

struct Stage {
    service: Service,
    operator: String,
}

impl Stage {
    async fn new() -> Self {
        let service = Service::new().await;
        let operator = service.operator(Role::Operator).await;
        Self { service, operator }
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> Reply {
        self.service
            .call(method, path, Some(&self.operator), &[], Some(body))
            .await
    }

    /// A new tenant: its id and its first owner's key.
    async fn tenant(&self, name: &str, quotas: Value) -> (String, String) {
        let made = self
            .call(
                "POST",
                "/v1/tenants",
                &json!({ "name": name, "quotas": quotas }),
            )
            .await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        let text = |field: &str| made.body[field].as_str().expect(field).to_owned();
        (text("id"), text("owner_key"))
    }
}

async fn key(service: &Service, owner: &str, name: &str) -> Reply {
    let body = json!({ "name": name, "role": "viewer" });
    service
        .call("POST", "/v1/api-keys", Some(owner), &[], Some(&body))
        .await
}

#[tokio::test]
async fn the_operators_own_tenant_is_prepared_however_often() {
    let service = Service::new().await;
    for role in [Role::Owner, Role::Operator, Role::Viewer] {
        let key = service.operator(role).await;
        assert_eq!(
            service
                .call("GET", "/v1/tenants", Some(&key), &[], None)
                .await
                .status,
            StatusCode::OK
        );
    }
}

#[tokio::test]
async fn a_tenant_is_made_with_a_key_for_its_owner_and_a_data_key_of_its_own() {
    let stage = Stage::new().await;
    let (id, owner) = stage.tenant("payments", json!({})).await;
    let body = json!({ "name": "c1", "kubeconfig": "good" });
    let registered = stage
        .service
        .call("POST", "/v1/clusters", Some(&owner), &[], Some(&body))
        .await;
    assert_eq!(
        registered.status,
        StatusCode::ACCEPTED,
        "its secrets can be sealed: {registered:?}"
    );
    let listed = stage.call("GET", "/v1/tenants", &json!({})).await;
    let names: Vec<&Value> = listed.body["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|item| &item["name"])
        .collect();
    assert_eq!(
        names,
        ["acme", "payments"],
        "the operators' own is not among them"
    );
    let shown = stage
        .call("GET", &format!("/v1/tenants/{id}"), &json!({}))
        .await;
    assert!(shown.body.get("owner_key").is_none(), "it is shown once");
    let taken = stage
        .call("POST", "/v1/tenants", &json!({ "name": "payments" }))
        .await;
    assert_eq!(taken.body["code"], "name_taken");
    let log = stage
        .service
        .call(
            "GET",
            "/v1/audit-entries",
            Some(&stage.service.operator(Role::Auditor).await),
            &[],
            None,
        )
        .await;
    assert_eq!(
        log.body["items"][0]["action"], "createTenant",
        "it is in the operators' own log"
    );
}

#[tokio::test]
async fn of_a_suspended_tenant_no_credential_is_accepted_until_it_goes_on() {
    let stage = Stage::new().await;
    let (id, owner) = stage.tenant("payments", json!({})).await;
    let path = format!("/v1/tenants/{id}");
    let set = async |state: &str| {
        stage
            .call("PATCH", &path, &json!({ "state": state }))
            .await
            .status
    };
    let asked = async || {
        stage
            .service
            .call("GET", "/v1/meshes", Some(&owner), &[], None)
            .await
    };
    assert_eq!(set("suspended").await, StatusCode::OK);
    assert_eq!(
        (asked().await.status, asked().await.body["code"].as_str()),
        (StatusCode::FORBIDDEN, Some("tenant_suspended"))
    );
    assert_eq!(set("active").await, StatusCode::OK);
    assert_eq!(asked().await.status, StatusCode::OK);
    assert_eq!(
        set("deleted").await,
        StatusCode::UNPROCESSABLE_ENTITY,
        "that is what DELETE is for"
    );
}

/// Of two who looked at the same thing, one is told to look again.
#[tokio::test]
async fn a_change_of_what_has_moved_on_is_refused() {
    let stage = Stage::new().await;
    let (id, _) = stage.tenant("payments", json!({})).await;
    let path = format!("/v1/tenants/{id}");
    let tag = stage
        .call("GET", &path, &json!({}))
        .await
        .etag
        .expect("a tag");
    let change = async |tag: &str| {
        let (header, body) = ([("If-Match", tag)], json!({ "quotas": { "meshes": 3 } }));
        stage
            .service
            .call("PATCH", &path, Some(&stage.operator), &header, Some(&body))
            .await
    };
    let first = change(&tag).await;
    assert_eq!(
        (first.status, first.body["quotas"]["meshes"].as_u64()),
        (StatusCode::OK, Some(3))
    );
    assert_eq!(change(&tag).await.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(
        change(&first.etag.expect("a tag")).await.status,
        StatusCode::OK
    );
}

/// Many ask for the last places at once: exactly as many get one as there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_quota_holds_however_many_ask_at_once() {
    let stage = Arc::new(Stage::new().await);
    let (_, owner) = stage.tenant("payments", json!({ "api_keys": 4 })).await;
    let asked: Vec<_> = (0..12)
        .map(|number| {
            let (stage, owner) = (stage.clone(), owner.clone());
            tokio::spawn(async move { key(&stage.service, &owner, &format!("k{number}")).await })
        })
        .collect();
    let mut made = 0;
    for reply in asked {
        let reply = reply.await.expect("no panic");
        if reply.status == StatusCode::CREATED {
            made += 1;
        } else {
            assert_eq!(reply.body["code"], "quota_exceeded", "{reply:?}");
        }
    }
    assert_eq!(made, 3, "and the owner's own");
    let usage = stage
        .service
        .call("GET", "/v1/usage", Some(&owner), &[], None)
        .await;
    assert_eq!(
        usage.body["items"]["api_keys"],
        json!({ "used": 4, "limit": 4 })
    );
}

#[tokio::test]
async fn a_deleted_tenant_is_gone_with_its_secrets_and_one_with_meshes_is_not_deleted() {
    let stage = Stage::new().await;
    let (id, owner) = stage.tenant("payments", json!({})).await;
    let path = format!("/v1/tenants/{id}");
    assert_eq!(
        stage.call("DELETE", &path, &json!({})).await.status,
        StatusCode::NO_CONTENT
    );
    let asked = stage
        .service
        .call("GET", "/v1/meshes", Some(&owner), &[], None)
        .await;
    assert_eq!(asked.body["code"], "tenant_suspended");
    let db = &stage.service.fleet.db;
    let keys = "SELECT version::text FROM tenant_keys k JOIN tenants t USING (tenant_id) WHERE t.name = 'payments'";
    assert_eq!(
        db.query_text(SUPERUSER, keys).await,
        Vec::<String>::new(),
        "its data key is erased"
    );
    assert_eq!(
        stage.call("DELETE", &path, &json!({})).await.status,
        StatusCode::NOT_FOUND,
        "once is enough"
    );
    assert_eq!(
        stage.call("GET", &path, &json!({})).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        stage
            .call("PATCH", &path, &json!({ "state": "active" }))
            .await
            .status,
        StatusCode::NOT_FOUND
    );
    for (query, shown) in [("", 0), ("?show_deleted=true", 1)] {
        let listed = stage
            .call("GET", &format!("/v1/tenants{query}"), &json!({}))
            .await;
        let deleted = listed.body["items"]
            .as_array()
            .expect("items")
            .iter()
            .filter(|item| item["state"] == "deleted");
        assert_eq!(deleted.count(), shown, "{query}");
    }
    let busy = stage
        .call("DELETE", &format!("/v1/tenants/{}", db.tenant), &json!({}))
        .await;
    assert_eq!(
        (busy.status, busy.body["code"].as_str()),
        (StatusCode::CONFLICT, Some("tenant_in_use"))
    );
    assert_eq!(
        db.query_text(
            SUPERUSER,
            "SELECT version::text FROM tenant_keys k JOIN tenants t USING (tenant_id) WHERE t.name = 'acme'"
        )
        .await,
        ["1"]
    );
}

#[tokio::test]
async fn the_name_of_a_deleted_tenant_can_be_used_again() {
    let stage = Stage::new().await;
    for _ in 0..3 {
        let (id, _) = stage.tenant("payments", json!({})).await;
        let deleted = stage
            .call("DELETE", &format!("/v1/tenants/{id}"), &json!({}))
            .await;
        assert_eq!(deleted.status, StatusCode::NO_CONTENT);
    }
}

#[tokio::test]
async fn an_operator_lets_a_tenant_in_again_and_both_audit_logs_say_so() {
    let stage = Stage::new().await;
    let (id, owner) = stage.tenant("payments", json!({})).await;
    let revoked = format!(
        "UPDATE api_keys SET revoked_at = now() WHERE tenant_id <> '{}'",
        uuid::Uuid::nil()
    );
    stage
        .service
        .fleet
        .db
        .execute(SUPERUSER, &revoked)
        .await
        .expect("every owner is gone");
    let asked = |key: String| {
        let service = &stage.service;
        async move {
            service
                .call("GET", "/v1/audit-entries", Some(&key), &[], None)
                .await
        }
    };
    assert_eq!(asked(owner).await.status, StatusCode::UNAUTHORIZED);
    let path = format!("/v1/tenants/{id}/owner-keys");
    let made = stage
        .call("POST", &path, &json!({ "name": "recovery" }))
        .await;
    assert_eq!(
        (made.status, made.body["role"].as_str()),
        (StatusCode::CREATED, Some("owner")),
        "{made:?}"
    );
    let key = made.body["secret"].as_str().expect("a secret").to_owned();
    for reader in [key.clone(), stage.service.operator(Role::Auditor).await] {
        let log = asked(reader).await;
        let last = log.body["items"]
            .as_array()
            .expect("entries")
            .last()
            .expect("one")
            .clone();
        assert_eq!(
            (last["action"].as_str(), &last["target"]),
            (Some("createOwnerKey"), &made.body["id"])
        );
        assert!(
            last["actor"]
                .as_str()
                .is_some_and(|actor| actor.starts_with("key_"))
        );
    }
    let again = stage
        .call("POST", &path, &json!({ "name": "recovery" }))
        .await;
    assert_eq!(again.body["code"], "name_taken");
    let nobody = format!(
        "/v1/tenants/{}/owner-keys",
        meshwright_model::ids::TenantId(uuid::Uuid::from_u128(77))
    );
    assert_eq!(
        stage
            .call("POST", &nobody, &json!({ "name": "recovery" }))
            .await
            .status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_mesh_has_the_edition_that_the_operator_granted_or_a_lower_one() {
    let stage = Stage::new().await;
    let (id, owner) = stage.tenant("payments", json!({})).await;
    let create = async |edition: Option<&str>| {
        let mut body = json!({ "name": "m9", "version": "1.25.1.1", "clusters": ["x"] });
        if let Some(edition) = edition {
            body["edition"] = json!(edition);
        }
        let reply = stage
            .service
            .call("POST", "/v1/meshes", Some(&owner), &[], Some(&body))
            .await;
        (
            reply.body["code"].as_str().unwrap_or_default().to_owned(),
            reply.body["errors"][0]["pointer"].clone(),
        )
    };
    let usage = async || {
        stage
            .service
            .call("GET", "/v1/usage", Some(&owner), &[], None)
            .await
            .body["edition"]
            .clone()
    };
    let refused = ("edition_not_granted".to_owned(), json!("/edition"));
    // An edition that was granted gets as far as the cluster, which does not exist.
    let absent = ("invalid_field".to_owned(), json!("/clusters/0"));
    assert_eq!(usage().await, "standard");
    for (edition, answer) in [
        (Some("ultimate"), &refused),
        (Some("enterprise"), &refused),
        (None, &absent),
    ] {
        assert_eq!(create(edition).await, *answer, "{edition:?}");
    }
    let granted = stage
        .call(
            "PATCH",
            &format!("/v1/tenants/{id}"),
            &json!({ "edition": "enterprise" }),
        )
        .await;
    assert_eq!(granted.body["edition"], "enterprise", "{granted:?}");
    for (edition, answer) in [
        (Some("ultimate"), &refused),
        (Some("enterprise"), &absent),
        (Some("standard"), &absent),
    ] {
        assert_eq!(create(edition).await, *answer, "{edition:?}");
    }
    assert_eq!(usage().await, "enterprise");
    let unknown = stage
        .call(
            "PATCH",
            &format!("/v1/tenants/{id}"),
            &json!({ "edition": "gold" }),
        )
        .await;
    assert_eq!(unknown.body["errors"][0]["pointer"], "/edition");
}

/// Not even with the database role of the API does a tenant change its own limits.
#[tokio::test]
async fn nobody_sets_their_own_quotas() {
    let stage = Stage::new().await;
    let db = &stage.service.fleet.db;
    for role in ["mw_api", "mw_worker"] {
        for attack in [
            "UPDATE tenants SET quotas = '{}'",
            "DELETE FROM tenants",
            "UPDATE releases SET state = 'withdrawn'",
        ] {
            let done = db.execute(role, attack).await;
            // Workers import releases; nothing else is theirs.
            let allowed = role == "mw_worker" && attack.contains("releases");
            assert_eq!(done.is_ok(), allowed, "{role}: {attack}: {done:?}");
        }
    }
}

#[tokio::test]
async fn a_withdrawn_release_is_no_target_any_more() {
    let stage = Stage::new().await;
    let owner = stage.service.key(Role::Owner).await;
    let withdrawn = stage
        .call(
            "PATCH",
            "/v1/releases/1.27.9.1",
            &json!({ "state": "withdrawn" }),
        )
        .await;
    assert_eq!(
        (withdrawn.status, withdrawn.body["state"].as_str()),
        (StatusCode::OK, Some("withdrawn"))
    );
    let path = format!("/v1/meshes/{}/upgrades", stage.service.fleet.mesh);
    let body = json!({ "version": "1.27.9.1", "strategy": "canary" });
    let planned = stage
        .service
        .call("POST", &path, Some(&owner), &[], Some(&body))
        .await;
    assert_eq!(planned.body["code"], "upgrade_refused", "{planned:?}");
    for (version, state, code) in [
        ("1.99.0.1", "withdrawn", "not_found"),
        ("x", "withdrawn", "not_found"),
        ("1.27.9.1", "gone", "invalid_field"),
    ] {
        let reply = stage
            .call(
                "PATCH",
                &format!("/v1/releases/{version}"),
                &json!({ "state": state }),
            )
            .await;
        assert_eq!(reply.body["code"], code, "{version} {state}");
    }
}

#[tokio::test]
async fn bad_quotas_are_refused_by_field() {
    let stage = Stage::new().await;
    for (body, pointer) in [
        (json!({ "name": "Payments" }), "/name"),
        (
            json!({ "name": "p", "quotas": { "moons": 1 } }),
            "/quotas/moons",
        ),
        (
            json!({ "name": "p", "quotas": { "meshes": 1_000_001 } }),
            "/quotas/meshes",
        ),
    ] {
        let reply = stage.call("POST", "/v1/tenants", &body).await;
        assert_eq!(
            reply.body["errors"][0]["pointer"], pointer,
            "{body}: {reply:?}"
        );
    }
    let negative = stage
        .call(
            "POST",
            "/v1/tenants",
            &json!({ "name": "p", "quotas": { "meshes": -1 } }),
        )
        .await;
    assert_eq!(negative.body["code"], "malformed_body");
}
