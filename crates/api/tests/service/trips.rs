//! Limits how often a request waits for the database. The relay on the database's socket counts.

use std::time::Duration;

use axum::http::StatusCode;
use meshwright_model::access::Role;
use meshwright_store::Store;
use meshwright_testkit::db::{TestDb, test_sealer};
use meshwright_testkit::relay::Relay;
use serde_json::json;

use crate::support::{Service, routes};

/// Round trips of a list: a transaction for the tenant, the key with its tenant, the list, and the
/// end of the transaction.
const MAX_ROUND_TRIPS: usize = 4;
/// Number of calls, because the first ones prepare statements and open connections.
const CALLS: usize = 8;

/// Lists that need more round trips, with the reason. This list only shrinks.
const MORE: [(&str, usize); 2] = [
    // The role that sees every tenant is taken up and laid down; only operators list tenants.
    ("listTenants", 6),
    // The mesh, the catalogue and the rules are three queries.
    ("listUpgradeOptions", 6),
];

async fn relayed(relay: &Relay) -> Service {
    let mut service = Service::new().await;
    let url = service
        .fleet
        .db
        .relayed_url("mw_api", relay, Duration::from_mins(1));
    service.app.store = Store::connect(&url, test_sealer())
        .await
        .expect("a connection as mw_api")
        .with_connection_quota();
    service
}

/// Round trips of one call, once everything is warm.
async fn round_trips(service: &Service, relay: &Relay, path: &str, key: &str) -> usize {
    let mut least = usize::MAX;
    for _ in 0..CALLS {
        let before = relay.round_trips().await;
        let reply = service.call("GET", path, Some(key), &[], None).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}: {}", reply.text);
        least = least.min(relay.round_trips().await - before);
    }
    least
}

#[tokio::test]
async fn a_list_takes_four_round_trips_however_long_it_is() {
    let relay = Relay::start(&TestDb::socket_dir());
    let service = relayed(&relay).await;
    let (owner, operator) = (
        service.key(Role::Owner).await,
        service.operator(Role::Owner).await,
    );
    let wanted = json!({ "name": "w1", "url": "https://hooks.example/w1" });
    let webhook = service
        .call("POST", "/v1/webhooks", Some(&owner), &[], Some(&wanted))
        .await;
    let webhook = webhook.body["id"].as_str().expect("a webhook").to_owned();
    let test = service
        .call(
            "POST",
            &format!("/v1/webhooks/{webhook}/test"),
            Some(&owner),
            &[],
            Some(&json!({})),
        )
        .await;
    assert_eq!(test.status, StatusCode::ACCEPTED, "{}", test.text);
    let lists = routes()
        .into_iter()
        .filter(|route| route.method == "GET" && route.id.starts_with("list"));
    for route in lists {
        let path = service
            .path(&route.path.replace("{webhook_id}", &webhook), route.verb)
            .await;
        let key = if route.id == "listTenants" {
            &operator
        } else {
            &owner
        };
        let most = MORE
            .iter()
            .find(|(id, _)| *id == route.id)
            .map_or(MAX_ROUND_TRIPS, |(_, most)| *most);
        let taken = round_trips(&service, &relay, &path, key).await;
        assert!(taken <= most, "{} takes {taken} round trips", route.id);
    }
}

#[tokio::test]
async fn an_empty_list_takes_no_more_round_trips() {
    let relay = Relay::start(&TestDb::socket_dir());
    let service = relayed(&relay).await;
    let stranger = service.stranger().await;
    for path in [
        "/v1/meshes",
        "/v1/clusters",
        "/v1/operations",
        "/v1/webhooks",
        "/v1/role-bindings",
        "/v1/events",
    ] {
        let taken = round_trips(&service, &relay, path, &stranger).await;
        assert!(taken <= MAX_ROUND_TRIPS, "{path} takes {taken} round trips");
    }
}
