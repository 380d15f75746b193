//! Many callers at once on the few connections of one process: each waits for its own answers only.

use std::time::Duration;

use axum::http::StatusCode;
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use meshwright_model::Clock as _;
use meshwright_model::access::Role;
use meshwright_model::ids::{ClusterId, KeyId, TenantId};
use meshwright_model::operation::OperationKind;
use meshwright_store::{ApiKeyToken, IssuedCredential, NewCluster, Store, TxMode, UserMetadata};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Service, key};

/// Tenants that call at once: with several calls each, many more than a process has connections.
const TENANTS: u128 = 40;
/// Calls that each tenant has under way at once.
const EACH: usize = 4;
/// More than the changes that a process makes at once.
const MOST_CHANGES: u128 = 6;
/// Requests of one tenant that may wait for a change at the same time.
const WAITS: usize = 100;

/// A cluster of a tenant that is ready to be a member of a mesh.
async fn ready_cluster(service: &Service, tenant: TenantId) -> ClusterId {
    let (clock, id) = (
        &service.fleet.clock,
        ClusterId(service.fleet.clock.new_uuid()),
    );
    let new = NewCluster {
        id,
        name: "c1".into(),
        server: "https://c1.example".into(),
        kubeconfig: b"stored".to_vec(),
        metadata: UserMetadata::default(),
    };
    let issued = IssuedCredential {
        uid: format!("uid-{id}"),
        kubernetes_version: "v1.33.1".into(),
        server: "https://c1.example".into(),
        kubeconfig: b"issued".to_vec(),
        serial: 1,
        issued_at: clock.now(),
        expires_at: clock.now() + jiff::SignedDuration::from_hours(24),
    };
    let mut tx = service
        .fleet
        .db
        .api
        .begin(tenant)
        .await
        .expect("a transaction");
    tx.clusters()
        .create_cluster(&new, clock.now())
        .await
        .expect("a cluster");
    tx.clusters()
        .store_renewed_credential(id, &issued, Duration::from_mins(1), clock.now())
        .await
        .expect("a credential");
    tx.commit().await.expect("a commit");
    id
}

/// A tenant with a ready cluster: a key of its owner, and a mesh that it could create.
async fn tenant(service: &Service, number: u128) -> (String, Value) {
    let tenant = TenantId(Uuid::from_u128(1000 + number));
    let store: &Store = &service.fleet.db.api;
    let clock = service.fleet.clock.as_ref();
    store
        .create_tenant(tenant, &format!("crowd-{number}"), clock.now())
        .await
        .expect("a tenant");
    let cluster = ready_cluster(service, tenant).await;
    let mesh = json!({ "name": "m1", "version": "1.25.1.1", "edition": "enterprise", "clusters": [cluster.to_string()] });
    (key(store, clock, tenant, Role::Owner, &[]).await, mesh)
}

#[tokio::test]
async fn trial_meshes_of_forty_tenants_at_once_are_all_answered_and_a_bystander_is_too() {
    let service = Service::new().await;
    let mut callers = Vec::new();
    for number in 0..TENANTS {
        callers.push(tenant(&service, number).await);
    }
    let bystander = service.key(Role::Viewer).await;
    let trials = callers
        .iter()
        .flat_map(|caller| std::iter::repeat_n(caller, EACH))
        .map(|(key, mesh)| {
            service.call(
                "POST",
                "/v1/meshes?validate_only=true",
                Some(key),
                &[],
                Some(mesh),
            )
        });
    let looks =
        (0..TENANTS).map(|_| service.call("GET", "/v1/meshes", Some(&bystander), &[], None));
    let (tried, looked) = tokio::join!(join_all(trials), join_all(looks));
    for reply in tried.iter().chain(&looked) {
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    }
}

#[tokio::test]
async fn requests_that_wait_for_their_tenants_turn_hold_no_connection() {
    let service = Service::new().await;
    let (crowded, bystander) = (service.key(Role::Viewer).await, service.stranger().await);
    let mut held = Vec::new();
    // As many as one tenant may have at once.
    for _ in 0..2 {
        held.push(
            service
                .app
                .store
                .begin(service.fleet.db.tenant)
                .await
                .expect("a transaction"),
        );
    }
    let look = |key| service.call("GET", "/v1/meshes", Some(key), &[], None);
    let waiting = join_all((0..TENANTS).map(|_| look(crowded.as_str())));
    let mut waiting = std::pin::pin!(waiting);
    let looked = tokio::select! {
        biased;
        _ = &mut waiting => panic!("there was a third turn"),
        reply = look(bystander.as_str()) => reply,
    };
    assert_eq!(looked.status, StatusCode::OK, "{}", looked.text);
    drop(held);
    for reply in waiting.await {
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    }
}

#[tokio::test]
async fn a_caller_with_an_invented_key_is_refused_without_waiting_for_other_changes() {
    let service = Service::new().await;
    let unknown = KeyId(service.fleet.clock.new_uuid());
    let invented = ApiKeyToken::generate(service.fleet.db.tenant, unknown).reveal();
    let mut held = Vec::new();
    for number in 0..MOST_CHANGES {
        let session = service
            .app
            .store
            .session(TenantId(Uuid::from_u128(2000 + number)), TxMode::Write);
        let change = tokio::time::timeout(Duration::from_secs(1), session.into_tx_without_keys());
        held.extend(change.await);
    }
    let body = json!({});
    let refused = service.call("POST", "/v1/meshes", Some(&invented), &[], Some(&body));
    let refused = tokio::time::timeout(Duration::from_secs(10), refused)
        .await
        .expect("an answer while the changes last");
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{}", refused.text);
    drop(held);
}

/// Asks something while others wait, none of which is answered.
async fn beside<T>(
    waiting: &mut FuturesUnordered<impl Future<Output = T>>,
    asked: impl Future<Output = T>,
) -> T {
    let mut asked = std::pin::pin!(asked);
    tokio::select! {
        answered = &mut asked => answered,
        Some(_) = waiting.next() => panic!("one of those that wait was answered"),
    }
}

#[tokio::test]
async fn one_tenants_requests_that_wait_for_a_change_are_counted_and_take_no_place_from_another_tenants()
 {
    let service = Service::new().await;
    let (crowded, bystander) = (service.key(Role::Viewer).await, service.stranger().await);
    // Nothing runs it, so it does not change.
    let operation = service
        .fleet
        .queue_operation(OperationKind::Restart, Value::Null)
        .await;
    let path = format!("/v1/operations/{operation}?wait_seconds=60");
    let wait = |key| service.call("GET", &path, Some(key), &[], None);
    // Each is polled until it waits; the one above the limit is answered.
    let mut waiting: FuturesUnordered<_> = (0..=WAITS).map(|_| wait(crowded.as_str())).collect();
    let refused = waiting.next().await.expect("one of them is answered");
    assert_eq!(
        refused.status,
        StatusCode::TOO_MANY_REQUESTS,
        "{}",
        refused.text
    );
    assert!(
        refused.text.contains("rate_limited") && refused.text.contains("/v1/events"),
        "{}",
        refused.text
    );
    assert_eq!(refused.headers["retry-after"], "1");
    // The others go on meanwhile: one that stood still within a transaction would keep its connection.
    let path = format!("/v1/operations/{operation}");
    let look = beside(
        &mut waiting,
        service.call("GET", &path, Some(&crowded), &[], None),
    )
    .await;
    assert_eq!(
        look.status,
        StatusCode::OK,
        "who does not wait is answered: {}",
        look.text
    );
    let other = beside(&mut waiting, wait(bystander.as_str())).await;
    assert_eq!(
        other.status,
        StatusCode::NOT_FOUND,
        "another tenant is not refused for it: {}",
        other.text
    );
    drop(waiting);
    let again = service
        .call(
            "GET",
            &format!("/v1/operations/{operation}?wait_seconds=1"),
            Some(&crowded),
            &[],
            None,
        )
        .await;
    assert_eq!(again.status, StatusCode::OK, "{}", again.text);
}
