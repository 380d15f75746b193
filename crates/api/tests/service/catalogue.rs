//! Releases that the operator of the service adds to the catalogue.

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshwright_model::access::Role;
use serde_json::{Value, json};

use crate::support::{Reply, Service};

struct Stage {
    service: Service,
    operator: String,
}

impl Stage {
    async fn new() -> Self {
        let service = Service::new().await;
        let operator = service.operator(Role::Owner).await;
        Self { service, operator }
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        self.service
            .call(method, path, Some(&self.operator), &[], body.as_ref())
            .await
    }
}

fn release(version: &str) -> Value {
    json!({
        "version": version, "charts": STANDARD.encode("charts"), "supported_until": "2027-06-30", "kubernetes_min": 30,
        "kubernetes_source": "istio.io", "quirks": ["remote-secret-deadlock"], "released_on": "2026-05-04",
        "channels": ["rapid"], "minimum_edition": "enterprise", "notes": "https://istio.io/news",
    })
}

#[tokio::test]
async fn an_imported_release_is_offered_and_never_changes() {
    let stage = Stage::new().await;
    let made = stage
        .call("POST", "/v1/releases", Some(release("1.28.0.1")))
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    assert_eq!(made.body["kubernetes"], "1.30 to 1.35 (istio.io)");
    for (field, value) in [
        ("hub", json!("docker.io/istio")),
        ("tag", json!("1.28.0")),
        ("released_on", json!("2026-05-04")),
        ("channels", json!(["rapid"])),
        ("minimum_edition", json!("enterprise")),
        ("notes", json!("https://istio.io/news")),
    ] {
        assert_eq!(made.body[field], value, "{field}");
    }
    let tenant = stage.service.key(Role::Viewer).await;
    let listed = stage
        .service
        .call("GET", "/v1/releases", Some(&tenant), &[], None)
        .await;
    assert_eq!(
        listed.body["items"][0]["version"], "1.28.0.1",
        "newest first"
    );
    let again = stage
        .call("POST", "/v1/releases", Some(release("1.28.0.1")))
        .await;
    assert_eq!(
        (again.status, &again.body["code"]),
        (StatusCode::CONFLICT, &json!("release_known"))
    );
    let owner = stage.service.key(Role::Owner).await;
    let refused = stage
        .service
        .call(
            "POST",
            "/v1/releases",
            Some(&owner),
            &[],
            Some(&release("1.28.0.2")),
        )
        .await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn releases_show_a_tenant_what_it_needs_to_choose_and_the_operator_all() {
    let stage = Stage::new().await;
    assert_eq!(
        stage
            .call("POST", "/v1/releases", Some(release("1.28.0.1")))
            .await
            .status,
        StatusCode::CREATED
    );
    let tenant = stage.service.key(Role::Owner).await;
    let shown = async |key: &str| {
        let listed = stage
            .service
            .call("GET", "/v1/releases", Some(key), &[], None)
            .await;
        listed.body["items"][0].clone()
    };
    let (to_tenant, to_operator) = (shown(&tenant).await, shown(&stage.operator).await);
    assert_eq!(
        (&to_operator["charts_digest"], &to_operator["quirks"]),
        (&json!("digest"), &json!(["remote-secret-deadlock"]))
    );
    assert_eq!(
        (&to_tenant["charts_digest"], &to_tenant["quirks"]),
        (&json!(""), &json!([]))
    );
    for field in [
        "version",
        "state",
        "channels",
        "minimum_edition",
        "kubernetes",
        "supported_until",
        "notes",
        "hub",
        "tag",
    ] {
        assert_eq!(to_tenant[field], to_operator[field], "{field}");
    }
}

#[tokio::test]
async fn what_makes_no_release_is_refused_where_it_is() {
    let stage = Stage::new().await;
    for (pointer, field, value) in [
        ("/version", "version", json!("1.28")),
        ("/charts", "charts", json!("no base64!")),
        ("/charts", "charts", json!(STANDARD.encode("other"))),
        ("/hub", "hub", json!("")),
        ("/hub", "hub", json!("a\nb")),
        ("/tag", "tag", json!("x".repeat(256))),
        ("/supported_until", "supported_until", json!("soon")),
        ("/kubernetes_min", "kubernetes_min", json!(36)),
        ("/kubernetes_min", "kubernetes_min", json!(0)),
        ("/kubernetes_tested", "kubernetes_tested", json!(1000)),
        ("/quirks/0", "quirks", json!(["unheard_of"])),
        ("/released_on", "released_on", json!("4.5.2026")),
        ("/released_on", "released_on", json!("20260504")),
        (
            "/supported_until",
            "supported_until",
            json!("2027-06-30T12:00:00"),
        ),
        ("/channels/1", "channels", json!(["stable", "unstable"])),
        ("/minimum_edition", "minimum_edition", json!("gold")),
        ("/notes", "notes", json!("a\u{7}")),
    ] {
        let mut wanted = release("1.28.0.1");
        wanted[field] = value;
        let refused = stage.call("POST", "/v1/releases", Some(wanted)).await;
        assert_eq!(
            refused.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{field}: {}",
            refused.text
        );
        assert_eq!(refused.body["errors"][0]["pointer"], pointer);
    }
}

#[tokio::test]
async fn what_is_known_of_a_release_changes_and_the_rest_stays() {
    let stage = Stage::new().await;
    let made = stage
        .call("POST", "/v1/releases", Some(release("1.28.0.1")))
        .await
        .body;
    let change =
        json!({ "channels": ["stable", "regular", "stable"], "supported_until": "2027-12-31" });
    let changed = stage
        .call("PATCH", "/v1/releases/1.28.0.1", Some(change))
        .await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
    let mut wanted = made.clone();
    wanted["channels"] = json!(["regular", "stable"]);
    wanted["supported_until"] = json!("2027-12-31");
    assert_eq!(changed.body, wanted);
    let nothing = stage
        .call("PATCH", "/v1/releases/1.28.0.1", Some(json!({})))
        .await;
    assert_eq!(nothing.body, wanted);
    let images = stage
        .call(
            "PATCH",
            "/v1/releases/1.28.0.1",
            Some(json!({ "hub": "elsewhere" })),
        )
        .await;
    assert_eq!(images.body["code"], "malformed_body", "{}", images.text);
    for (pointer, body) in [
        ("/channels/0", json!({ "channels": ["slow"] })),
        ("/supported_until", json!({ "supported_until": "" })),
        ("/notes", json!({ "notes": "x".repeat(256) })),
    ] {
        let refused = stage
            .call("PATCH", "/v1/releases/1.28.0.1", Some(body))
            .await;
        assert_eq!(
            refused.body["errors"][0]["pointer"], pointer,
            "{}",
            refused.text
        );
    }
}

#[tokio::test]
async fn no_mesh_begins_with_a_release_that_it_may_not_run() {
    let stage = Stage::new().await;
    let owner = stage.service.key(Role::Owner).await;
    let clusters = stage
        .service
        .call("GET", "/v1/clusters", Some(&owner), &[], None)
        .await;
    let cluster = &clusters.body["items"][0]["id"];
    for (version, field, value, said) in [
        ("1.28.0.1", "minimum_edition", json!("ultimate"), "edition"),
        ("1.28.0.2", "kubernetes_min", json!(35), "Kubernetes"),
        ("1.28.0.3", "state", json!("withdrawn"), "withdrawn"),
    ] {
        let mut wanted = release(version);
        if field != "state" {
            wanted[field] = value.clone();
        }
        assert_eq!(
            stage
                .call("POST", "/v1/releases", Some(wanted))
                .await
                .status,
            StatusCode::CREATED
        );
        if field == "state" {
            let path = format!("/v1/releases/{version}");
            stage
                .call("PATCH", &path, Some(json!({ "state": value })))
                .await;
        }
        let mesh = json!({ "name": "m", "version": version, "edition": "enterprise", "clusters": [cluster] });
        let refused = stage
            .service
            .call("POST", "/v1/meshes", Some(&owner), &[], Some(&mesh))
            .await;
        assert_eq!(refused.body["code"], "version_refused", "{}", refused.text);
        assert!(
            refused.body["errors"][0]["message"]
                .as_str()
                .is_some_and(|text| text.contains(said)),
            "{}",
            refused.text
        );
    }
}

#[tokio::test]
async fn hosting_clusters_come_and_go_unless_something_runs_there() {
    let stage = Stage::new().await;
    let body = json!({ "name": "eu-west", "kubeconfig": "good" });
    let added = stage
        .call("POST", "/v1/hosting-clusters", Some(body.clone()))
        .await;
    assert_eq!(added.status, StatusCode::CREATED, "{}", added.text);
    assert!(!added.text.contains("good"));
    let taken = stage.call("POST", "/v1/hosting-clusters", Some(body)).await;
    assert_eq!(
        (taken.status, &taken.body["code"]),
        (StatusCode::CONFLICT, &json!("name_taken"))
    );
    let bad = stage
        .call(
            "POST",
            "/v1/hosting-clusters",
            Some(json!({ "name": "x", "kubeconfig": "bad" })),
        )
        .await;
    assert_eq!(bad.body["code"], "kubeconfig_refused");
    let listed = stage.call("GET", "/v1/hosting-clusters", None).await;
    let ids: Vec<&str> = listed.body["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter_map(|one| one["id"].as_str())
        .collect();
    assert_eq!(ids.len(), 2);
    let used = stage
        .call("DELETE", &format!("/v1/hosting-clusters/{}", ids[0]), None)
        .await;
    assert_eq!(
        (used.status, &used.body["code"]),
        (StatusCode::CONFLICT, &json!("hosting_cluster_in_use"))
    );
    let path = format!("/v1/hosting-clusters/{}", ids[1]);
    assert_eq!(
        stage.call("DELETE", &path, None).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        stage.call("DELETE", &path, None).await.status,
        StatusCode::NOT_FOUND
    );
}
