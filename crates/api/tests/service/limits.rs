//! Fair share: a tenant that calls too often is told so, and no other tenant notices.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use jiff::SignedDuration;
use meshwright_api::{Rate, Rates, RequestLimiter};
use meshwright_model::access::Role;
use serde_json::json;

use crate::support::{Reply, Service};

/// So many reads, half as many writes, and two expensive ones, every ten seconds.
fn rates(reads: u32) -> Rates {
    let rate = |burst| Rate {
        burst,
        period: Duration::from_secs(10),
    };
    Rates {
        read: rate(reads),
        write: rate(reads / 2),
        expensive: rate(2),
    }
}

async fn limited(tenant: u32, principal: u32) -> Service {
    let mut service = Service::new().await;
    service.app.limits = Arc::new(RequestLimiter::new(
        rates(tenant),
        rates(principal),
        service.fleet.clock.clone(),
    ));
    service
}

async fn look(service: &Service, key: &str) -> Reply {
    service
        .call("GET", "/v1/releases", Some(key), &[], None)
        .await
}

fn header(reply: &Reply, name: &str) -> String {
    reply
        .headers
        .get(name)
        .map(|value| value.to_str().expect("text").to_owned())
        .unwrap_or_default()
}

#[tokio::test]
async fn one_who_asks_too_often_is_told_when_to_come_back() {
    let service = limited(100, 10).await;
    let (greedy, modest) = (
        service.key(Role::Viewer).await,
        service.key(Role::Viewer).await,
    );
    for left in (0..10).rev() {
        let reply = look(&service, &greedy).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(header(&reply, "ratelimit"), format!("\"read\";r={left}"));
        assert_eq!(header(&reply, "ratelimit-policy"), "\"read\";q=10;w=10");
    }
    let refused = look(&service, &greedy).await;
    assert_eq!(
        (refused.status, refused.body["code"].as_str()),
        (StatusCode::TOO_MANY_REQUESTS, Some("rate_limited"))
    );
    assert_eq!(
        (
            header(&refused, "retry-after").as_str(),
            &refused.body["retryable"]
        ),
        ("1", &json!(true))
    );
    assert_eq!(
        look(&service, &modest).await.status,
        StatusCode::OK,
        "another program of the same tenant goes on"
    );
    service.fleet.clock.advance(SignedDuration::from_secs(1));
    assert_eq!(look(&service, &greedy).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_largest_factor_leaves_rates_that_can_be_counted() {
    let mut service = Service::new().await;
    service.app.limits = Arc::new(RequestLimiter::new(
        Rates::TENANT.scaled_by(Rates::MAX_FACTOR),
        Rates::PRINCIPAL.scaled_by(Rates::MAX_FACTOR),
        service.fleet.clock.clone(),
    ));
    let key = service.key(Role::Viewer).await;
    assert_eq!(look(&service, &key).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_clock_that_steps_back_makes_no_caller_wait_for_longer() {
    let service = limited(100, 10).await;
    let greedy = service.key(Role::Viewer).await;
    for _ in 0..10 {
        assert_eq!(look(&service, &greedy).await.status, StatusCode::OK);
    }
    service.fleet.clock.advance(SignedDuration::from_hours(-1));
    let refused = look(&service, &greedy).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(header(&refused, "retry-after"), "1");
    service.fleet.clock.advance(SignedDuration::from_secs(1));
    assert_eq!(look(&service, &greedy).await.status, StatusCode::OK);
    assert_eq!(
        look(&service, &greedy).await.status,
        StatusCode::TOO_MANY_REQUESTS,
        "a second has passed, and no more"
    );
}

#[tokio::test]
async fn a_tenant_has_one_share_however_many_keys_it_makes_and_nobody_elses() {
    let service = limited(15, 10).await;
    let stranger = service.stranger().await;
    let mut answered = 0;
    for _ in 0..3 {
        let key = service.key(Role::Viewer).await;
        for _ in 0..10 {
            answered += usize::from(look(&service, &key).await.status == StatusCode::OK);
        }
    }
    assert_eq!(answered, 15);
    assert_eq!(look(&service, &stranger).await.status, StatusCode::OK);
}

#[tokio::test]
async fn looks_changes_and_expensive_changes_are_counted_apart() {
    let service = limited(100, 10).await;
    let owner = service.key(Role::Owner).await;
    let register = async |name: &str| {
        let body = json!({ "name": name, "kubeconfig": "good" });
        service
            .call("POST", "/v1/clusters", Some(&owner), &[], Some(&body))
            .await
            .status
    };
    assert_eq!(register("a").await, StatusCode::ACCEPTED);
    assert_eq!(register("b").await, StatusCode::ACCEPTED);
    assert_eq!(register("c").await, StatusCode::TOO_MANY_REQUESTS);
    let body = json!({ "name": "k", "role": "viewer" });
    assert_eq!(
        service
            .call("POST", "/v1/api-keys", Some(&owner), &[], Some(&body))
            .await
            .status,
        StatusCode::CREATED
    );
    assert_eq!(look(&service, &owner).await.status, StatusCode::OK);
}

/// The database is away: only who is refused without it gets their answer.
#[tokio::test]
async fn whoever_asks_too_often_is_refused_without_the_database() {
    let service = limited(100, 3).await;
    let (greedy, other) = (
        service.key(Role::Viewer).await,
        service.key(Role::Viewer).await,
    );
    for _ in 0..3 {
        assert_eq!(look(&service, &greedy).await.status, StatusCode::OK);
    }
    service.fleet.db.api.close().await;
    for _ in 0..10 {
        assert_eq!(
            look(&service, &greedy).await.status,
            StatusCode::TOO_MANY_REQUESTS
        );
    }
    assert_eq!(
        look(&service, &other).await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    service.fleet.clock.advance(SignedDuration::from_secs(11));
    assert_eq!(
        look(&service, &greedy).await.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "nobody is known for long"
    );
}

/// A cached key does not authenticate a caller after its revocation.
#[tokio::test]
async fn a_revoked_key_is_dead_however_lately_it_was_used() {
    let service = limited(100, 100).await;
    let (owner, brief) = (
        service.key(Role::Owner).await,
        service.key(Role::Owner).await,
    );
    assert_eq!(look(&service, &brief).await.status, StatusCode::OK);
    let id = brief.split('_').nth(2).expect("its id").to_owned();
    let listed = service
        .call("GET", "/v1/api-keys", Some(&owner), &[], None)
        .await;
    let keys = listed.body["items"].as_array().expect("keys");
    let id = keys
        .iter()
        .filter_map(|key| key["id"].as_str())
        .find(|known| known.ends_with(&id))
        .expect("the key");
    let gone = service
        .call(
            "DELETE",
            &format!("/v1/api-keys/{id}"),
            Some(&owner),
            &[],
            None,
        )
        .await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{}", gone.text);
    assert_eq!(
        look(&service, &brief).await.status,
        StatusCode::UNAUTHORIZED
    );
}
