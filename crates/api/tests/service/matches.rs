//! `If-Match`: every change hears it, or says that it does not.

use axum::http::StatusCode;
use meshwright_model::access::{Action, Role};
use serde_json::{Value, json};

use crate::support::{Route, Service, routes};

/// A tag that no thing ever had.
const STALE: &str = "\"999\"";
/// The verbs of an upgrade, each of which hears the tag before its state is looked at.
const VERBS: [&str; 9] = [
    "start",
    "cancel",
    "acknowledge",
    "retry",
    "promote",
    "pause",
    "resume",
    "rollback",
    "retire",
];

/// What the document says of an operation.
fn described(route: &Route) -> Value {
    let document: Value = serde_json::from_str(&meshwright_api::openapi()).expect("a document");
    document["paths"][&route.path][route.method.to_lowercase()].clone()
}

fn declares_it(operation: &Value) -> bool {
    let mut parameters = operation["parameters"].as_array().into_iter().flatten();
    parameters.any(|parameter| parameter["name"] == "If-Match")
}

/// Addresses of things that there are, for an operation that names one.
async fn addresses(service: &Service, route: &Route, owner: &str, operator: &str) -> Vec<String> {
    let mut path = route.path.clone();
    if path.contains("{webhook_id}") {
        let wanted = json!({ "name": format!("w-{}", route.id.to_lowercase()), "url": "https://hooks.example/w" });
        let made = service
            .call("POST", "/v1/webhooks", Some(owner), &[], Some(&wanted))
            .await;
        path = path.replace("{webhook_id}", made.body["id"].as_str().expect("a webhook"));
    }
    if path.contains("{tenant_id}") {
        let wanted = json!({ "name": format!("t-{}", route.id.to_lowercase()) });
        let made = service
            .call("POST", "/v1/tenants", Some(operator), &[], Some(&wanted))
            .await;
        path = path.replace("{tenant_id}", made.body["id"].as_str().expect("a tenant"));
    }
    let verbs = if route.id == "askUpgrade" {
        &VERBS[..]
    } else {
        &[route.verb]
    };
    let mut all = Vec::new();
    for verb in verbs {
        all.push(service.path(&path, verb).await);
    }
    all
}

#[tokio::test]
async fn every_change_hears_if_match_or_says_that_it_does_not() {
    let service = Service::new().await;
    let (owner, operator) = (
        service.key(Role::Owner).await,
        service.operator(Role::Owner).await,
    );
    let mut heard = 0;
    for route in routes().iter().filter(|route| route.method != "GET") {
        let operation = described(route);
        let said = operation["description"].as_str().unwrap_or_default();
        assert_eq!(
            declares_it(&operation),
            !said.contains("This operation ignores `If-Match`."),
            "{}: {said}",
            route.id
        );
        if !declares_it(&operation) {
            continue;
        }
        let caller = if route.action == Action::ChangePlatform {
            &operator
        } else {
            &owner
        };
        for address in addresses(&service, route, &owner, &operator).await {
            let reply = service
                .call(
                    &route.method,
                    &address,
                    Some(caller),
                    &[("If-Match", STALE)],
                    Some(&route.body),
                )
                .await;
            assert_eq!(
                reply.status,
                StatusCode::PRECONDITION_FAILED,
                "{} {address}: {}",
                route.method,
                reply.text
            );
            assert_eq!(reply.body["code"], "moved_on", "{address}");
            heard += 1;
        }
    }
    assert!(heard >= 10 + VERBS.len(), "only {heard} hear it");
}
