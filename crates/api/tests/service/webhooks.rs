//! Webhooks as their owners see them.

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshwright_model::access::Role;
use serde_json::{Value, json};

use crate::support::Service;

const PATH: &str = "/v1/webhooks";

#[tokio::test]
async fn a_secret_is_shown_once_and_a_change_says_what_it_looked_at() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    let wanted = json!({ "name": "on-call", "url": "https://hooks.example.com/x?y=z", "kinds": ["upgrade.*", "cluster.unreachable"] });
    let made = service
        .call("POST", PATH, Some(&owner), &[], Some(&wanted))
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let secret = made.body["secret"]
        .as_str()
        .expect("a secret")
        .strip_prefix("whsec_")
        .expect("its prefix")
        .to_owned();
    assert_eq!(STANDARD.decode(&secret).expect("base64").len(), 32);
    let taken = service
        .call("POST", PATH, Some(&owner), &[], Some(&wanted))
        .await;
    assert_eq!(
        (taken.status, &taken.body["code"]),
        (StatusCode::CONFLICT, &json!("name_taken"))
    );
    let path = format!("{PATH}/{}", made.body["id"].as_str().expect("an id"));
    for reply in [
        service.call("GET", &path, Some(&owner), &[], None).await,
        service.call("GET", PATH, Some(&owner), &[], None).await,
        service
            .call(
                "PATCH",
                &path,
                Some(&owner),
                &[("If-Match", "\"1\"")],
                Some(&json!({ "enabled": false })),
            )
            .await,
    ] {
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        assert!(!reply.text.contains(&secret) && reply.body.get("secret").is_none());
    }
    let late = service
        .call(
            "PATCH",
            &path,
            Some(&owner),
            &[("If-Match", "\"1\"")],
            Some(&json!({ "enabled": true })),
        )
        .await;
    assert_eq!(late.status, StatusCode::PRECONDITION_FAILED);
    let off = service
        .call("POST", &format!("{path}/test"), Some(&owner), &[], None)
        .await;
    assert_eq!(
        (off.status, &off.body["code"]),
        (StatusCode::CONFLICT, &json!("webhook_disabled"))
    );
    let rotated = service
        .call("POST", &format!("{path}/rotate"), Some(&owner), &[], None)
        .await;
    assert_ne!(rotated.body["secret"], made.body["secret"]);
    assert!(rotated.body["former_until"].is_string());
    let gone = service.call("DELETE", &path, Some(&owner), &[], None).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    assert_eq!(
        service
            .call("GET", &path, Some(&owner), &[], None)
            .await
            .status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_where_it_is() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    let long = format!("https://hooks.example/{}", "x".repeat(2048));
    for (field, value) in [
        ("/url", json!("ftp://hooks.example")),
        ("/url", json!("https://me:secret@hooks.example")),
        ("/url", json!("https://hooks.example/#part")),
        ("/url", json!("hooks.example")),
        ("/url", json!("https:///x")),
        ("/url", json!("")),
        ("/url", json!(long)),
        ("/kinds", json!([])),
        ("/kinds", json!(vec!["*"; 21])),
        ("/kinds/1", json!(["*", "upgrades.state"])),
        ("/name", json!("No Name")),
    ] {
        let mut wanted = json!({ "name": "hook", "url": "https://hooks.example" });
        let member = field.split('/').nth(1).expect("a member");
        wanted[member] = value;
        let refused = service
            .call("POST", PATH, Some(&owner), &[], Some(&wanted))
            .await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{wanted}");
        assert_eq!(refused.body["errors"][0]["pointer"], field, "{wanted}");
    }
}

#[tokio::test]
async fn deliveries_are_listed_newest_first_page_by_page_and_sent_again() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    let wanted =
        json!({ "name": "hook", "url": "https://hooks.example", "kinds": ["webhook.test"] });
    let made = service
        .call("POST", PATH, Some(&owner), &[], Some(&wanted))
        .await;
    let path = format!("{PATH}/{}", made.body["id"].as_str().expect("an id"));
    for _ in 0..3 {
        let test = service
            .call("POST", &format!("{path}/test"), Some(&owner), &[], None)
            .await;
        assert_eq!(test.status, StatusCode::ACCEPTED, "{}", test.text);
    }
    let mut seen: Vec<Value> = Vec::new();
    let mut token = String::new();
    loop {
        let page = format!("{path}/deliveries?page_size=2{token}");
        let reply = service.call("GET", &page, Some(&owner), &[], None).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        seen.extend(
            reply.body["items"]
                .as_array()
                .expect("items")
                .iter()
                .map(|delivery| delivery["seq"].clone()),
        );
        match reply.body["next_page_token"].as_str() {
            Some(next) => token = format!("&page_token={next}"),
            None => break,
        }
    }
    let numbers: Vec<i64> = seen.iter().filter_map(Value::as_i64).collect();
    assert_eq!(numbers.len(), 3);
    assert!(numbers.is_sorted_by(|a, b| a > b));
    let again = format!("{path}/deliveries/{}/redeliver", numbers[0]);
    let reply = service.call("POST", &again, Some(&owner), &[], None).await;
    assert_eq!(
        (reply.status, &reply.body["state"]),
        (StatusCode::ACCEPTED, &json!("pending"))
    );
    for unknown in [
        "999999",
        "0",
        "-1",
        "x",
        "9223372036854775807",
        "9223372036854775808",
    ] {
        let reply = service
            .call(
                "POST",
                &format!("{path}/deliveries/{unknown}/redeliver"),
                Some(&owner),
                &[],
                None,
            )
            .await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{unknown}");
    }
}
