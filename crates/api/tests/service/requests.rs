//! Single requests: repeated ones, ones that come too late, and bad ones.

use std::sync::Arc;

use axum::http::StatusCode;
use meshwright_model::access::Role;
use serde_json::{Value, json};

use crate::support::Service;

#[tokio::test]
async fn a_repeated_request_has_one_effect_and_one_answer() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    let body = json!({ "name": "ci", "role": "viewer" });
    let key = [("Idempotency-Key", "the-same")];
    let first = service
        .call("POST", "/v1/api-keys", Some(&owner), &key, Some(&body))
        .await;
    let again = service
        .call("POST", "/v1/api-keys", Some(&owner), &key, Some(&body))
        .await;
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    let other = service
        .call(
            "POST",
            "/v1/api-keys",
            Some(&owner),
            &key,
            Some(&json!({ "name": "cd", "role": "viewer" })),
        )
        .await;
    assert_eq!(other.body["code"], "idempotency_key_reused");
    let listed = service
        .call("GET", "/v1/api-keys", Some(&owner), &[], None)
        .await;
    assert_eq!(
        listed.body["items"].as_array().expect("a list").len(),
        2,
        "the owner's own and one new"
    );
}

#[tokio::test]
async fn a_body_that_is_said_to_be_no_json_is_not_read() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    let body = |name: &str| json!({ "name": name, "role": "viewer" });
    for (number, kind) in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "json",
        "\u{e9}",
    ]
    .iter()
    .enumerate()
    {
        let body = body(&format!("bad-{number}"));
        let reply = service
            .call(
                "POST",
                "/v1/api-keys",
                Some(&owner),
                &[("Content-Type", kind)],
                Some(&body),
            )
            .await;
        assert_eq!(
            (reply.status, reply.body["code"].as_str()),
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, Some("not_json")),
            "{kind}"
        );
    }
    for (number, kind) in [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/merge-patch+json",
    ]
    .iter()
    .enumerate()
    {
        let body = body(&format!("good-{number}"));
        let reply = service
            .call(
                "POST",
                "/v1/api-keys",
                Some(&owner),
                &[("Content-Type", kind)],
                Some(&body),
            )
            .await;
        assert_eq!(reply.status, StatusCode::CREATED, "{kind}");
    }
    let path = format!("/v1/meshes/{}/restarts", service.fleet.mesh);
    let reply = service
        .call(
            "POST",
            &path,
            Some(&owner),
            &[("Content-Type", "text/plain")],
            None,
        )
        .await;
    assert_eq!(
        reply.status,
        StatusCode::ACCEPTED,
        "nothing was sent, so nothing is said of it"
    );
}

/// A namespace becomes a part of paths in the member's API, and a text with NUL is kept nowhere.
#[tokio::test]
async fn what_is_no_namespace_of_a_member_is_neither_moved_nor_labelled() {
    let service = Service::new().await;
    let operator = service.key(Role::Operator).await;
    let moves = format!(
        "/v1/upgrades/{}/moves",
        service.fleet.get_or_plan_upgrade().await
    );
    let injection = format!("/v1/meshes/{}/injection", service.fleet.mesh);
    for (cluster, namespace, field) in [
        ("c9", "plain", "cluster"),
        ("c1", "o\u{0}", "namespace"),
        ("c1", "plain/../../../nodes", "namespace"),
        ("c1", "", "namespace"),
    ] {
        let one = json!({ "cluster": cluster, "namespace": namespace });
        for (path, body, at) in [
            (&moves, json!({ "namespaces": [one] }), "/namespaces/0/"),
            (&injection, one.clone(), "/"),
        ] {
            let reply = service
                .call("POST", path, Some(&operator), &[], Some(&body))
                .await;
            assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{reply:?}");
            assert_eq!(reply.body["errors"][0]["pointer"], format!("{at}{field}"));
        }
    }
    let listed = json!({ "namespaces": [["c1", "plain"]] });
    let reply = service
        .call("POST", &moves, Some(&operator), &[], Some(&listed))
        .await;
    assert_eq!(
        reply.body["code"], "malformed_body",
        "an object's fields have names"
    );
}

#[tokio::test]
async fn promote_needs_the_tag_of_what_was_looked_at() {
    let service = Service::new().await;
    let operator = service.key(Role::Operator).await;
    let upgrade = service.fleet.get_or_plan_upgrade().await;
    let path = format!("/v1/upgrades/{upgrade}");
    let ask = async |verb: &str, tag: Option<&str>| {
        let (path, headers) = (format!("{path}/{verb}"), tag.map(|tag| ("If-Match", tag)));
        let headers: Vec<_> = headers.into_iter().collect();
        service
            .call("POST", &path, Some(&operator), &headers, None)
            .await
    };
    let look = async || service.call("GET", &path, Some(&operator), &[], None).await;
    let started = ask("start", None).await;
    assert_eq!(
        (started.status, started.body["state"].as_str()),
        (StatusCode::ACCEPTED, Some("prechecking"))
    );
    service.fleet.run_due().await;
    let without = ask("promote", None).await;
    assert_eq!(
        (without.status, without.body["code"].as_str()),
        (StatusCode::PRECONDITION_REQUIRED, Some("if_match_missing"))
    );
    let anything = ask("promote", Some("*")).await;
    assert_eq!(
        anything.status,
        StatusCode::PRECONDITION_REQUIRED,
        "anything is not what was looked at"
    );
    let seen = look().await.etag.expect("a tag");
    for odd in [
        seen.trim_matches('"').to_owned(),
        format!("W/{seen}"),
        seen.replacen('"', "\"+", 1),
        "\"".into(),
    ] {
        let reply = ask("promote", Some(&odd)).await;
        assert_eq!(reply.status, StatusCode::PRECONDITION_FAILED, "{odd}");
    }
    let stale = ask("promote", Some("\"1\"")).await;
    assert_eq!(
        (stale.status, stale.body["code"].as_str()),
        (StatusCode::PRECONDITION_FAILED, Some("moved_on"))
    );
    let looked = look().await;
    assert_eq!(
        looked.body["allowed_verbs"],
        json!(["move", "promote", "rollback"])
    );
    let promoted = ask("promote", Some(&looked.etag.expect("a tag"))).await;
    assert_eq!(promoted.body["state"], "promoting");
    let early = ask("retire", Some("\"9\"")).await;
    assert_eq!(early.status, StatusCode::PRECONDITION_FAILED);
}

/// A request with a fault: method, path, body, and the code of the answer.
type BadRequest<'a> = (&'a str, &'a str, Value, &'a str);

/// Returns requests with a fault in the registration of a cluster or in the creation of a mesh.
fn bad_fleet_requests() -> Vec<BadRequest<'static>> {
    let cluster = |body, code| ("POST", "/v1/clusters", body, code);
    let mesh = |body, code| ("POST", "/v1/meshes", body, code);
    vec![
        cluster(
            json!({ "name": "c9", "kubeconfig": "exec" }),
            "kubeconfig_refused",
        ),
        cluster(
            json!({ "name": "C9", "kubeconfig": "good" }),
            "invalid_field",
        ),
        cluster(json!({ "name": "c1", "kubeconfig": "good" }), "name_taken"),
        cluster(
            json!({ "name": "c9", "kubeconfig": "good", "surprise": 1 }),
            "malformed_body",
        ),
        cluster(json!(["x"]), "malformed_body"),
        (
            "POST",
            "/v1/clusters/cluster_01arz3ndektsv4rrffq69g5fav/credentials",
            json!([]),
            "malformed_body",
        ),
        mesh(
            json!({ "name": "m", "version": "1.99.0.1", "clusters": ["x"] }),
            "version_not_in_catalogue",
        ),
        mesh(
            json!({ "name": "m", "version": "1.25.1.1", "clusters": [] }),
            "invalid_field",
        ),
    ]
}

/// Returns plans of upgrades with a fault. `path` is the path of the mesh's upgrades.
fn bad_upgrade_requests(path: &str) -> Vec<BadRequest<'_>> {
    let upgrade = |body, code| ("POST", path, body, code);
    vec![
        upgrade(
            json!({ "version": "1.25.1.1", "strategy": "canary" }),
            "upgrade_refused",
        ),
        upgrade(
            json!({ "version": "1.27.9.1", "strategy": "in_place" }),
            "upgrade_refused",
        ),
        upgrade(
            json!({ "version": "1.27.9.1", "strategy": "sideways" }),
            "invalid_field",
        ),
        upgrade(
            json!({ "version": "1.27.9.1", "strategy": "canary", "hold_seconds": 4_000_000 }),
            "invalid_field",
        ),
        // Two things are wrong, and this one is wrong in itself: the other upgrade is refused.
        upgrade(
            json!({ "version": "1.25.1.1", "strategy": "canary", "labels": "all" }),
            "invalid_field",
        ),
    ]
}

/// Returns requests with a fault in their path, method or query.
fn bad_routes() -> Vec<BadRequest<'static>> {
    let get = |path, code| ("GET", path, json!({}), code);
    vec![
        get("/v1/operations?page_size=0", "invalid_field"),
        get("/v1/clusters?name=%00", "invalid_field"),
        get("/v1/operations?page_token=x", "invalid_field"),
        get("/v1/nowhere", "not_found"),
        ("PUT", "/v1/meshes", json!({}), "method_not_allowed"),
    ]
}

#[tokio::test]
async fn bad_input_is_answered_with_a_code_and_changes_nothing() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    let mesh = service.fleet.mesh;
    let upgrades = format!("/v1/meshes/{mesh}/upgrades");
    let rows = [
        bad_fleet_requests(),
        bad_upgrade_requests(&upgrades),
        bad_routes(),
    ];
    for (method, path, body, code) in rows.concat() {
        let reply = service
            .call(method, path, Some(&owner), &[], Some(&body))
            .await;
        assert_eq!(
            reply.body["code"], code,
            "{method} {path} {body}: {reply:?}"
        );
        assert!(!reply.body["hint"].as_str().expect("a hint").is_empty());
    }
    let clusters = service
        .call("GET", "/v1/clusters", Some(&owner), &[], None)
        .await;
    assert_eq!(clusters.body["items"].as_array().expect("a list").len(), 2);
}

/// Eight copies of each request at once: one of them does the work, and in the end all have the same answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_copies_of_a_request_exactly_one_has_an_effect() {
    const REQUESTS: usize = 12;
    const COPIES: usize = 8;
    let service = Arc::new(Service::new().await);
    let owner = service.key(Role::Owner).await;
    let mut answers = Vec::new();
    for request in 0..REQUESTS {
        let copies: Vec<_> = (0..COPIES)
            .map(|_| {
                let (service, owner) = (service.clone(), owner.clone());
                tokio::spawn(async move {
                    let (key, body) = (
                        format!("key-{request}"),
                        json!({ "name": format!("k{request}"), "role": "viewer" }),
                    );
                    loop {
                        let headers = [("Idempotency-Key", key.as_str())];
                        let reply = service
                            .call("POST", "/v1/api-keys", Some(&owner), &headers, Some(&body))
                            .await;
                        if reply.body["code"] != "request_in_flight" {
                            return (reply.status, reply.body);
                        }
                    }
                })
            })
            .collect();
        for copy in copies {
            answers.push((request, copy.await.expect("no panic")));
        }
    }
    for (request, (status, body)) in &answers {
        let first: &(StatusCode, Value) = &answers[request * COPIES].1;
        assert_eq!(
            (status, body),
            (&StatusCode::CREATED, &first.1),
            "request {request}"
        );
    }
    let listed = service
        .call("GET", "/v1/api-keys?page_size=500", Some(&owner), &[], None)
        .await;
    assert_eq!(
        listed.body["items"].as_array().expect("a list").len(),
        REQUESTS + 1,
        "and the owner's own"
    );
}

#[tokio::test]
async fn an_idempotency_key_belongs_to_whoever_sent_it() {
    let service = Service::new().await;
    let (one, other) = (
        service.key(Role::Owner).await,
        service.key(Role::Owner).await,
    );
    let (body, key) = (
        json!({ "name": "ci", "role": "viewer" }),
        [("Idempotency-Key", "shared")],
    );
    let first = service
        .call("POST", "/v1/api-keys", Some(&one), &key, Some(&body))
        .await;
    let second = service
        .call("POST", "/v1/api-keys", Some(&other), &key, Some(&body))
        .await;
    assert_eq!(first.status, StatusCode::CREATED);
    assert_eq!(
        second.body["code"], "name_taken",
        "its own request, not the stored answer with its secret"
    );
}

#[tokio::test]
async fn whoever_refuses_answers_with_a_problem_and_the_id_of_the_request() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    let large = json!({ "name": "x".repeat(2_000_000) });
    let rows = [
        ("GET", "/v1/events?after=x", None, "malformed_request"),
        ("GET", "/v1/events?after=-1", None, "invalid_field"),
        ("GET", "/v1/meshes?surprise=1", None, "malformed_query"),
        ("GET", "/v1/meshes?name=a&name=b", None, "malformed_query"),
        ("GET", "/v1/meshes/%ff", None, "malformed_request"),
        ("POST", "/v1/meshes", Some(&large), "body_too_large"),
        ("GET", "/v1/nowhere", None, "not_found"),
    ];
    for (method, path, body, code) in rows {
        let reply = service
            .call(
                method,
                path,
                Some(&owner),
                &[("X-Request-Id", "mine")],
                body,
            )
            .await;
        assert_eq!(
            (reply.body["code"].as_str(), reply.body["instance"].as_str()),
            (Some(code), Some("mine")),
            "{path}: {reply:?}"
        );
    }
    let unnamed = service
        .call("GET", "/v1/nowhere", Some(&owner), &[], None)
        .await;
    assert_eq!(
        unnamed.body["instance"]
            .as_str()
            .expect("an id of ours")
            .len(),
        36
    );
}

/// The `type` of a problem leads to a page about it, for anybody.
#[tokio::test]
async fn every_problem_leads_to_its_page() {
    let service = Service::new().await;
    let refused = service.call("GET", "/v1/meshes", None, &[], None).await;
    let page = service
        .call(
            "GET",
            refused.body["type"].as_str().expect("an address"),
            None,
            &[],
            None,
        )
        .await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(
        page.text.starts_with("# unauthenticated\n"),
        "{}",
        page.text
    );
    assert_eq!(
        service
            .call("GET", "/problems/nothing", None, &[], None)
            .await
            .status,
        StatusCode::NOT_FOUND
    );
}
