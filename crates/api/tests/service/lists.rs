//! Lists, a page at a time.

use axum::http::StatusCode;
use meshwright_model::access::Role;
use serde_json::json;

use crate::support::Service;

#[tokio::test]
async fn pages_hold_every_item_once_and_the_last_one_says_so() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    for number in 0..6 {
        let body = json!({ "name": format!("k{number}"), "role": "viewer" });
        service
            .call("POST", "/v1/api-keys", Some(&owner), &[], Some(&body))
            .await;
    }
    for size in [1, 2, 6, 7, 8] {
        let (mut names, mut token) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/api-keys?page_size={size}{token}");
            let page = service.call("GET", &path, Some(&owner), &[], None).await;
            let items = page.body["items"].as_array().expect("items");
            assert!(items.len() <= size, "{page:?}");
            names.extend(
                items
                    .iter()
                    .map(|key| key["name"].as_str().expect("a name").to_owned()),
            );
            match page.body["next_page_token"].as_str() {
                Some(next) => token = format!("&page_token={next}"),
                None => break,
            }
        }
        assert_eq!(
            names[1..],
            ["k0", "k1", "k2", "k3", "k4", "k5"],
            "pages of {size}"
        );
    }
}

#[tokio::test]
async fn a_page_token_is_good_for_its_own_tenant_route_and_filter_only() {
    let service = Service::new().await;
    let (owner, stranger) = (service.key(Role::Owner).await, service.stranger().await);
    let page = service
        .call("GET", "/v1/clusters?page_size=1", Some(&owner), &[], None)
        .await;
    let token = page.body["next_page_token"]
        .as_str()
        .expect("a second cluster")
        .to_owned();
    let good = service
        .call(
            "GET",
            &format!("/v1/clusters?page_size=5&page_token={token}"),
            Some(&owner),
            &[],
            None,
        )
        .await;
    assert_eq!(
        (good.status, good.body["items"][0]["name"].as_str()),
        (StatusCode::OK, Some("c2"))
    );
    let flipped = token.chars().rev().collect::<String>();
    for (path, caller) in [
        (format!("/v1/clusters?page_token={token}"), &stranger),
        (format!("/v1/meshes?page_token={token}"), &owner),
        (format!("/v1/clusters?name=c2&page_token={token}"), &owner),
        (format!("/v1/clusters?page_token={flipped}"), &owner),
        ("/v1/clusters?page_token=".into(), &owner),
        ("/v1/clusters?page_token=%F0%9F%98%80".into(), &owner),
    ] {
        let reply = service.call("GET", &path, Some(caller), &[], None).await;
        assert_eq!(
            reply.body["errors"][0]["pointer"], "?page_token",
            "{path}: {reply:?}"
        );
    }
}

#[tokio::test]
async fn lists_are_filtered_by_name_and_sizes_are_limited() {
    let service = Service::new().await;
    let viewer = service.key(Role::Viewer).await;
    let one = service
        .call("GET", "/v1/clusters?name=c2", Some(&viewer), &[], None)
        .await;
    assert_eq!(one.body["items"].as_array().expect("items").len(), 1);
    let none = service
        .call("GET", "/v1/meshes?name=nothing", Some(&viewer), &[], None)
        .await;
    assert_eq!(none.body["items"], json!([]));
    for size in ["0", "501", "-1", "x", ""] {
        let reply = service
            .call(
                "GET",
                &format!("/v1/clusters?page_size={size}"),
                Some(&viewer),
                &[],
                None,
            )
            .await;
        assert_eq!(reply.body["errors"][0]["pointer"], "?page_size", "{size}");
    }
}
