//! What users write on their things, and requests that only ask what would be.

use axum::http::StatusCode;
use meshwright_model::access::Role;
use serde_json::{Value, json};

use crate::support::{Reply, Service};

struct Stage {
    service: Service,
    owner: String,
    mesh: String,
}

impl Stage {
    async fn new() -> Self {
        let service = Service::new().await;
        let owner = service.key(Role::Owner).await;
        let mesh = format!("/v1/meshes/{}", service.fleet.mesh);
        Self {
            service,
            owner,
            mesh,
        }
    }

    async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Reply {
        self.service
            .call(method, path, Some(&self.owner), headers, Some(body))
            .await
    }

    async fn get(&self, path: &str) -> Reply {
        self.service
            .call("GET", path, Some(&self.owner), &[], None)
            .await
    }

    async fn names(&self, selector: &str) -> Vec<String> {
        let list = self
            .get(&format!("/v1/clusters?label_selector={selector}"))
            .await;
        let items = list.body["items"]
            .as_array()
            .unwrap_or_else(|| panic!("{list:?}"))
            .clone();
        items
            .iter()
            .map(|item| item["name"].as_str().expect("a name").to_owned())
            .collect()
    }
}

#[tokio::test]
async fn what_is_left_out_of_a_change_stays_and_labels_are_replaced_as_a_whole() {
    let stage = Stage::new().await;
    let body = json!({ "display_name": "Payments, Europe", "labels": { "team": "payments", "tier": "gold" } });
    let changed = stage.call("PATCH", &stage.mesh, &[], &body).await;
    assert_eq!(
        (changed.status, &changed.body["labels"]),
        (StatusCode::OK, &body["labels"]),
        "{changed:?}"
    );
    let changed = stage
        .call(
            "PATCH",
            &stage.mesh,
            &[],
            &json!({ "labels": { "team": "checkout" } }),
        )
        .await;
    assert_eq!(changed.body["labels"], json!({ "team": "checkout" }));
    let read = stage.get(&stage.mesh).await;
    assert_eq!(read.body["display_name"], "Payments, Europe");
    assert_eq!(
        read.etag, changed.etag,
        "the tag is the same in both answers"
    );
    let emptied = stage
        .call("PATCH", &stage.mesh, &[], &json!({ "labels": {} }))
        .await;
    assert_eq!(emptied.body["labels"], json!({}));
}

#[tokio::test]
async fn of_two_who_looked_at_the_same_thing_one_is_told_to_look_again() {
    let stage = Stage::new().await;
    let tag = stage.get(&stage.mesh).await.etag.expect("a tag");
    let change = async |tag: &str| {
        stage
            .call(
                "PATCH",
                &stage.mesh,
                &[("If-Match", tag)],
                &json!({ "display_name": "x" }),
            )
            .await
    };
    let first = change(&tag).await;
    assert_eq!(first.status, StatusCode::OK);
    assert_eq!(change(&tag).await.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(
        change("\"x\"").await.status,
        StatusCode::PRECONDITION_FAILED
    );
    assert_eq!(
        change(&first.etag.expect("a tag")).await.status,
        StatusCode::OK
    );
    let late = stage
        .call("DELETE", &stage.mesh, &[("If-Match", &tag)], &json!({}))
        .await;
    assert_eq!(late.status, StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn a_protected_mesh_is_deleted_only_after_its_protection_was_taken_off() {
    let stage = Stage::new().await;
    stage
        .call(
            "PATCH",
            &stage.mesh,
            &[],
            &json!({ "deletion_protection": true }),
        )
        .await;
    let refused = stage.call("DELETE", &stage.mesh, &[], &json!({})).await;
    assert_eq!(
        (refused.status, refused.body["code"].as_str()),
        (StatusCode::CONFLICT, Some("deletion_protected"))
    );
    stage
        .call(
            "PATCH",
            &stage.mesh,
            &[],
            &json!({ "deletion_protection": false }),
        )
        .await;
    assert_eq!(
        stage
            .call("DELETE", &stage.mesh, &[], &json!({}))
            .await
            .status,
        StatusCode::ACCEPTED
    );
}

#[tokio::test]
async fn selectors_find_what_has_the_labels() {
    let stage = Stage::new().await;
    let list = stage.get("/v1/clusters").await;
    let labels = [
        json!({ "team": "payments", "tier": "test" }),
        json!({ "team": "payments" }),
    ];
    for (item, labels) in list.body["items"]
        .as_array()
        .expect("two")
        .iter()
        .zip(labels)
    {
        let path = format!("/v1/clusters/{}", item["id"].as_str().expect("an id"));
        assert_eq!(
            stage
                .call("PATCH", &path, &[], &json!({ "labels": labels }))
                .await
                .status,
            StatusCode::OK
        );
    }
    for (selector, names) in [
        ("team%3Dpayments", vec!["c1", "c2"]),
        ("team%3Dpayments,tier%3Dtest", vec!["c1"]),
        ("tier", vec!["c1"]),
        ("!tier", vec!["c2"]),
        ("tier!%3Dtest", vec!["c2"]),
        ("team%3Dcheckout", vec![]),
        ("", vec!["c1", "c2"]),
    ] {
        assert_eq!(stage.names(selector).await, names, "{selector}");
    }
    let wrong = stage.get("/v1/clusters?label_selector=a%20b").await;
    assert_eq!(wrong.body["errors"][0]["pointer"], "?label_selector");
}

#[tokio::test]
async fn bad_labels_and_names_are_refused_by_field() {
    let stage = Stage::new().await;
    for (body, pointer) in [
        (json!({ "labels": { "a b": "x" } }), "/labels"),
        (json!({ "labels": { "a": "é" } }), "/labels"),
        (json!({ "display_name": "x".repeat(129) }), "/display_name"),
        (json!({ "display_name": "a\nb" }), "/display_name"),
    ] {
        let reply = stage.call("PATCH", &stage.mesh, &[], &body).await;
        assert_eq!(
            reply.body["errors"][0]["pointer"], pointer,
            "{body}: {reply:?}"
        );
    }
    for body in [json!({ "name": "other" }), json!({ "labels": { "a": 1 } })] {
        let reply = stage.call("PATCH", &stage.mesh, &[], &body).await;
        assert_eq!(
            reply.body["code"], "malformed_body",
            "{body}: what cannot be changed cannot be sent"
        );
    }
}

/// What is only validated is refused as the real request would be, and leaves nothing behind.
#[tokio::test]
async fn a_request_that_only_validates_answers_as_if_and_changes_nothing() {
    let stage = Stage::new().await;
    let noted = stage.get("/v1/audit-head").await.body;
    let upgrades = format!("{}/upgrades?validate_only=true", stage.mesh);
    let good = stage
        .call(
            "POST",
            &upgrades,
            &[("Idempotency-Key", "k")],
            &json!({ "version": "1.27.9.1", "strategy": "canary" }),
        )
        .await;
    assert_eq!(
        (good.status, good.body["state"].as_str()),
        (StatusCode::OK, Some("planned")),
        "{good:?}"
    );
    assert_eq!(good.headers["meshwright-prechecks"], "not_run");
    let bad = stage
        .call(
            "POST",
            &upgrades,
            &[],
            &json!({ "version": "1.25.1.1", "strategy": "canary" }),
        )
        .await;
    assert_eq!(bad.body["code"], "upgrade_refused");
    let key = stage
        .call(
            "POST",
            "/v1/api-keys?validate_only=true",
            &[],
            &json!({ "name": "k", "role": "viewer" }),
        )
        .await;
    assert_eq!(key.status, StatusCode::OK);
    let secret = key.body["secret"].as_str().expect("a secret");
    assert_eq!(
        stage
            .service
            .call("GET", "/v1/meshes", Some(secret), &[], None)
            .await
            .status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        stage.get(&format!("{}/upgrades", stage.mesh)).await.body["items"],
        json!([])
    );
    assert_eq!(stage.get(&stage.mesh).await.body["busy_with"], Value::Null);
    assert_eq!(
        stage.get("/v1/audit-head").await.body,
        noted,
        "it is no change"
    );
    let odd = stage
        .call(
            "POST",
            "/v1/api-keys?validate_only=maybe",
            &[],
            &json!({ "name": "k", "role": "viewer" }),
        )
        .await;
    assert_eq!(odd.body["code"], "malformed_query");
}
