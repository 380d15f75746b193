//! Keys: narrowed, rotated, expired, revoked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::StatusCode;
use jiff::SignedDuration;
use meshwright_model::Clock;
use meshwright_model::access::Role;
use serde_json::{Value, json};

use crate::support::Service;

async fn make(service: &Service, owner: &str, body: Value) -> (String, String) {
    let made = service
        .call("POST", "/v1/api-keys", Some(owner), &[], Some(&body))
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let text = |field: &str| made.body[field].as_str().expect(field).to_owned();
    (text("id"), text("secret"))
}

async fn gets_in(service: &Service, key: &str) -> bool {
    service
        .call("GET", "/v1/releases", Some(key), &[], None)
        .await
        .status
        == StatusCode::OK
}

#[tokio::test]
async fn both_secrets_of_a_rotated_key_get_in_until_the_overlap_is_over() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    let (id, former) = make(&service, &owner, json!({ "name": "ci", "role": "viewer" })).await;
    let path = format!("/v1/api-keys/{id}/rotate");
    let rotated = service
        .call(
            "POST",
            &path,
            Some(&owner),
            &[],
            Some(&json!({ "overlap_seconds": 60 })),
        )
        .await;
    let secret = rotated.body["secret"]
        .as_str()
        .expect("a secret")
        .to_owned();
    assert_eq!(
        (
            gets_in(&service, &former).await,
            gets_in(&service, &secret).await
        ),
        (true, true)
    );
    service.fleet.clock.advance(SignedDuration::from_secs(61));
    assert_eq!(
        (
            gets_in(&service, &former).await,
            gets_in(&service, &secret).await
        ),
        (false, true)
    );
    let listed = service
        .call(
            "GET",
            &format!("/v1/api-keys/{id}"),
            Some(&owner),
            &[],
            None,
        )
        .await;
    assert!(
        listed.body.get("secret").is_none(),
        "it is shown once: {listed:?}"
    );
    assert!(listed.body["last_used_at"].is_string());
}

#[tokio::test]
async fn an_expired_key_and_both_secrets_of_a_revoked_one_stay_outside() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    let soon = (service.fleet.clock.now() + SignedDuration::from_secs(60)).to_string();
    let (_, brief) = make(
        &service,
        &owner,
        json!({ "name": "brief", "role": "viewer", "expires_at": soon }),
    )
    .await;
    assert!(gets_in(&service, &brief).await);
    service.fleet.clock.advance(SignedDuration::from_secs(60));
    assert!(!gets_in(&service, &brief).await);
    let (id, former) = make(&service, &owner, json!({ "name": "ci", "role": "viewer" })).await;
    let path = format!("/v1/api-keys/{id}");
    let rotated = service
        .call(
            "POST",
            &format!("{path}/rotate"),
            Some(&owner),
            &[],
            Some(&json!({})),
        )
        .await;
    let secret = rotated.body["secret"]
        .as_str()
        .expect("a secret")
        .to_owned();
    assert_eq!(
        service
            .call("DELETE", &path, Some(&owner), &[], None)
            .await
            .status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        (
            gets_in(&service, &former).await,
            gets_in(&service, &secret).await
        ),
        (false, false)
    );
    let again = service
        .call(
            "POST",
            &format!("{path}/rotate"),
            Some(&owner),
            &[],
            Some(&json!({})),
        )
        .await;
    assert_eq!(again.status, StatusCode::NOT_FOUND);
    assert_eq!(
        service
            .call("GET", &path, Some(&owner), &[], None)
            .await
            .status,
        StatusCode::NOT_FOUND
    );
    for (query, shown) in [("", false), ("?show_deleted=true", true)] {
        let list = service
            .call(
                "GET",
                &format!("/v1/api-keys{query}"),
                Some(&owner),
                &[],
                None,
            )
            .await;
        let known = list.body["items"]
            .as_array()
            .expect("keys")
            .iter()
            .any(|key| key["id"] == id.as_str());
        assert_eq!(known, shown, "{query}");
    }
}

#[tokio::test]
async fn bad_keys_are_refused_and_the_last_owner_stays() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    let past = (service.fleet.clock.now() + SignedDuration::from_secs(-1)).to_string();
    let stranger = "mesh_00000000000000000000000002";
    for (body, pointer) in [
        (json!({ "name": "k", "role": "admin" }), "/role"),
        (json!({ "name": "K", "role": "viewer" }), "/name"),
        (
            json!({ "name": "k", "role": "viewer", "expires_at": past }),
            "/expires_at",
        ),
        (
            json!({ "name": "k", "role": "viewer", "scopes": [stranger] }),
            "/scopes/0",
        ),
        (
            json!({ "name": "k", "role": "viewer", "scopes": ["tenant"] }),
            "/scopes/0",
        ),
        (
            json!({ "name": "k", "role": "viewer", "scopes": vec!["x"; 51] }),
            "/scopes",
        ),
    ] {
        let reply = service
            .call("POST", "/v1/api-keys", Some(&owner), &[], Some(&body))
            .await;
        assert_eq!(
            reply.body["errors"][0]["pointer"], pointer,
            "{body}: {reply:?}"
        );
    }
    let listed = service
        .call("GET", "/v1/api-keys", Some(&owner), &[], None)
        .await;
    let own = listed.body["items"][0]["id"].as_str().expect("an id");
    let last = service
        .call(
            "DELETE",
            &format!("/v1/api-keys/{own}"),
            Some(&owner),
            &[],
            None,
        )
        .await;
    assert_eq!(
        (last.status, last.body["code"].as_str()),
        (StatusCode::CONFLICT, Some("last_owner"))
    );
    assert!(gets_in(&service, &owner).await);
}

async fn ids(service: &Service, owner: &str) -> Vec<String> {
    let listed = service
        .call("GET", "/v1/api-keys", Some(owner), &[], None)
        .await;
    let items = listed.body["items"].as_array().expect("keys").clone();
    items
        .iter()
        .map(|key| key["id"].as_str().expect("an id").to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_owners_who_revoke_each_other_at_once_leave_one() {
    let service = Arc::new(Service::new().await);
    for round in 0..10 {
        let first = service.key(Role::Owner).await;
        let own = ids(&service, &first).await.remove(0);
        let (other, second) = make(
            &service,
            &first,
            json!({ "name": format!("r{round}"), "role": "owner" }),
        )
        .await;
        let revoke = |by: String, id: String| {
            let service = service.clone();
            tokio::spawn(async move {
                service
                    .call(
                        "DELETE",
                        &format!("/v1/api-keys/{id}"),
                        Some(&by),
                        &[],
                        None,
                    )
                    .await
                    .status
            })
        };
        let both = [
            revoke(first.clone(), other.clone()),
            revoke(second.clone(), own.clone()),
        ];
        let [one, two] = both;
        let gone = [one.await, two.await]
            .into_iter()
            .filter(|done| matches!(done, Ok(StatusCode::NO_CONTENT)))
            .count();
        assert_eq!(gone, 1, "round {round}");
        // The next round begins with no key at all.
        let all = "UPDATE api_keys SET revoked_at = now()";
        service
            .fleet
            .db
            .execute(meshwright_store::embedded_postgres::SUPERUSER, all)
            .await
            .expect("nothing is left");
    }
}

#[tokio::test]
async fn a_key_that_ends_does_not_count_as_an_owner() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    let own = ids(&service, &owner).await.remove(0);
    let soon = (service.fleet.clock.now() + SignedDuration::from_secs(3)).to_string();
    let (brief, ending) = make(
        &service,
        &owner,
        json!({ "name": "brief", "role": "owner", "expires_at": soon }),
    )
    .await;
    let revoke = async |by: &str, id: &str| {
        let reply = service
            .call("DELETE", &format!("/v1/api-keys/{id}"), Some(by), &[], None)
            .await;
        (reply.status, reply.body["code"].as_str().map(str::to_owned))
    };
    let refused = (StatusCode::CONFLICT, Some("last_owner".to_owned()));
    assert_eq!(revoke(&ending, &own).await, refused);
    assert_eq!(revoke(&owner, &brief).await.0, StatusCode::NO_CONTENT);
    let (_, lasting) = make(
        &service,
        &owner,
        json!({ "name": "lasting", "role": "owner" }),
    )
    .await;
    assert_eq!(revoke(&lasting, &own).await.0, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn the_name_of_a_revoked_key_can_be_used_again() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    let body = json!({ "name": "ci", "role": "viewer" });
    for _ in 0..3 {
        let (id, _) = make(&service, &owner, body.clone()).await;
        let taken = service
            .call("POST", "/v1/api-keys", Some(&owner), &[], Some(&body))
            .await;
        assert_eq!(taken.body["code"], "name_taken");
        let path = format!("/v1/api-keys/{id}");
        assert_eq!(
            service
                .call("DELETE", &path, Some(&owner), &[], None)
                .await
                .status,
            StatusCode::NO_CONTENT
        );
    }
}

#[tokio::test]
async fn a_second_rotation_waits_for_the_first_ones_overlap_or_ends_it() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    let (id, former) = make(&service, &owner, json!({ "name": "ci", "role": "viewer" })).await;
    let path = format!("/v1/api-keys/{id}/rotate");
    let rotate = async |overlap: u32| {
        let body = json!({ "overlap_seconds": overlap });
        service
            .call("POST", &path, Some(&owner), &[], Some(&body))
            .await
    };
    assert_eq!(rotate(60).await.status, StatusCode::OK);
    assert_eq!(rotate(60).await.body["code"], "rotation_under_way");
    assert!(gets_in(&service, &former).await, "it was promised a minute");
    assert_eq!(rotate(0).await.status, StatusCode::OK);
    assert!(!gets_in(&service, &former).await, "an emergency");
}

/// A caller that uses a key while it is rotated again and again is never refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rotation_under_load_turns_nobody_away() {
    const USERS: usize = 4;
    let service = Arc::new(Service::new().await);
    let owner = service.key(Role::Owner).await;
    let (id, secret) = make(&service, &owner, json!({ "name": "ci", "role": "viewer" })).await;
    let (newest, watched) = tokio::sync::watch::channel(secret);
    let calls: Arc<Vec<AtomicUsize>> = Arc::new((0..USERS).map(|_| AtomicUsize::new(0)).collect());
    let users: Vec<_> = (0..USERS)
        .map(|user| {
            let (service, watched, calls) = (service.clone(), watched.clone(), calls.clone());
            tokio::spawn(async move {
                while watched.has_changed().is_ok() {
                    let secret = watched.borrow().clone();
                    assert!(gets_in(&service, &secret).await, "user {user}");
                    calls[user].fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for _ in 0..20 {
        let path = format!("/v1/api-keys/{id}/rotate");
        let rotated = service
            .call(
                "POST",
                &path,
                Some(&owner),
                &[],
                Some(&json!({ "overlap_seconds": 60 })),
            )
            .await;
        newest
            .send(
                rotated.body["secret"]
                    .as_str()
                    .expect("a secret")
                    .to_owned(),
            )
            .expect("users");
        // The overlap is over when everybody has had the time to read the new secret.
        let before: Vec<usize> = calls
            .iter()
            .map(|count| count.load(Ordering::SeqCst))
            .collect();
        while calls
            .iter()
            .zip(&before)
            .any(|(count, before)| count.load(Ordering::SeqCst) < before + 2)
        {
            assert!(
                !users.iter().any(tokio::task::JoinHandle::is_finished),
                "somebody was turned away"
            );
            tokio::task::yield_now().await;
        }
        service.fleet.clock.advance(SignedDuration::from_secs(61));
    }
    drop(newest);
    for user in users {
        user.await.expect("nobody was turned away");
    }
}

/// Changed and invented tokens: none gets in. The checksum of each is right, so that the digest has to decide.
#[tokio::test]
async fn mutated_keys_are_refused() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    let (body, _) = owner.split_at(owner.len() - 8);
    let start = owner.rfind('_').expect("a secret") + 1;
    for place in start..body.len() {
        let mut bytes = body.as_bytes().to_vec();
        bytes[place] = if bytes[place] == b'0' { b'1' } else { b'0' };
        let changed = String::from_utf8(bytes).expect("letters");
        let forged = format!(
            "{changed}{}",
            &meshwright_store::sha256_hex(changed.as_bytes())[..8]
        );
        assert!(!gets_in(&service, &forged).await, "{forged}");
    }
    assert!(gets_in(&service, &owner).await);
}
