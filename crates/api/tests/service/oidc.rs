//! People who come from an identity provider.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt;
use jiff::SignedDuration;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use meshwright_model::Clock;
use meshwright_model::access::Role;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::events::ids;
use crate::issuer::{FakeIssuer, ISSUER, signed};
use crate::support::Service;

/// A tenant that trusts the issuer, with one viewer by name and the operators by a group.
struct Stage {
    service: Service,
    owner: String,
    audience: String,
    provider: String,
}

impl Stage {
    async fn new() -> Self {
        Self::with(&["EdDSA", "RS256"]).await
    }

    async fn with(algorithms: &[&str]) -> Self {
        let service = Service::new().await;
        let owner = service.key(Role::Owner).await;
        service.issuer.publish("k1");
        let body = json!({
            "name": "company", "issuer": ISSUER, "algorithms": algorithms, "required_claims": { "email_verified": "true" },
        });
        let made = service
            .call(
                "POST",
                "/v1/identity-providers",
                Some(&owner),
                &[],
                Some(&body),
            )
            .await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        let text = |field: &str| made.body[field].as_str().expect(field).to_owned();
        let (audience, provider) = (text("audience"), text("id"));
        for subject in [
            json!({ "provider_id": provider, "subject": "vera", "role": "viewer" }),
            json!({ "provider_id": provider, "group": "mesh-operators", "role": "operator" }),
        ] {
            let bound = service
                .call(
                    "POST",
                    "/v1/role-bindings",
                    Some(&owner),
                    &[],
                    Some(&subject),
                )
                .await;
            assert_eq!(bound.status, StatusCode::CREATED, "{bound:?}");
        }
        Self {
            service,
            owner,
            audience,
            provider,
        }
    }

    fn claims(&self, subject: &str) -> Value {
        let now = self.service.fleet.clock.now().as_second();
        json!({ "iss": ISSUER, "aud": self.audience, "sub": subject, "iat": now, "exp": now + 300, "email_verified": true })
    }

    fn token(&self, subject: &str) -> String {
        self.service.issuer.sign("k1", &self.claims(subject))
    }

    async fn status(&self, token: &str) -> StatusCode {
        self.service
            .call("GET", "/v1/meshes", Some(token), &[], None)
            .await
            .status
    }

    /// Returns whether the token is accepted. Each caller is a viewer by name, and no caller has
    /// another role.
    async fn gets_in(&self, token: &str) -> bool {
        match self.status(token).await {
            StatusCode::OK => true,
            StatusCode::UNAUTHORIZED => false,
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn people_may_do_what_they_or_their_groups_were_granted() {
    let stage = Stage::new().await;
    let call = async |token: &str, method: &str, path: &str| {
        stage
            .service
            .call(method, path, Some(token), &[], Some(&json!({})))
            .await
    };
    let restarts = format!("/v1/meshes/{}/restarts", stage.service.fleet.mesh);
    let viewer = stage.token("vera");
    assert_eq!(
        call(&viewer, "GET", "/v1/meshes").await.body["items"]
            .as_array()
            .expect("a list")
            .len(),
        1
    );
    assert_eq!(
        call(&viewer, "POST", &restarts).await.status,
        StatusCode::FORBIDDEN
    );
    let mut claims = stage.claims("oskar");
    claims["groups"] = json!(["staff", "mesh-operators"]);
    let operator = stage.service.issuer.sign("k1", &claims);
    assert_eq!(
        call(&operator, "POST", &restarts).await.status,
        StatusCode::ACCEPTED
    );
    let log = stage
        .service
        .call(
            "GET",
            "/v1/audit-entries?page_size=1000",
            Some(&stage.owner),
            &[],
            None,
        )
        .await;
    let last = log.body["items"]
        .as_array()
        .expect("entries")
        .last()
        .expect("one")
        .clone();
    assert_eq!(
        last["actor"],
        format!("{}/oskar", stage.provider),
        "the log names the person"
    );
    // A person without a role binding is authenticated and sees nothing.
    let nobody = stage.token("nora");
    assert_eq!(
        call(&nobody, "GET", "/v1/meshes").await.body["items"],
        json!([])
    );
    assert_eq!(
        call(&nobody, "POST", &restarts).await.status,
        StatusCode::NOT_FOUND
    );
}

/// Every other field of the header and the signature are right.
#[tokio::test]
async fn a_token_that_needs_an_extension_to_be_understood_is_refused() {
    let stage = Stage::new().await;
    let private = EncodingKey::from_ed_der(&stage.service.issuer.private("k1"));
    let token = |crit: Option<Vec<String>>| {
        let header = Header {
            kid: Some("k1".into()),
            crit,
            ..Header::new(Algorithm::EdDSA)
        };
        encode(&header, &stage.claims("vera"), &private).expect("a token")
    };
    assert!(stage.gets_in(&token(None)).await);
    for crit in [
        vec!["exp".to_owned()],
        vec!["https://x.example/must".to_owned()],
        Vec::new(),
    ] {
        assert!(!stage.gets_in(&token(Some(crit.clone()))).await, "{crit:?}");
    }
}

#[tokio::test]
async fn a_grant_that_is_taken_back_and_a_provider_that_is_deleted_are_worth_nothing_at_once() {
    let stage = Stage::new().await;
    let (owner, token) = (Some(stage.owner.as_str()), stage.token("vera"));
    let list = stage
        .service
        .call("GET", "/v1/role-bindings", owner, &[], None)
        .await;
    let binding = list.body["items"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    stage
        .service
        .call(
            "DELETE",
            &format!("/v1/role-bindings/{binding}"),
            owner,
            &[],
            None,
        )
        .await;
    let seen = stage
        .service
        .call("GET", "/v1/meshes", Some(&token), &[], None)
        .await;
    assert_eq!(seen.body["items"], json!([]), "granted nothing any more");
    stage
        .service
        .call(
            "DELETE",
            &format!("/v1/identity-providers/{}", stage.provider),
            owner,
            &[],
            None,
        )
        .await;
    assert!(!stage.gets_in(&token).await);
}

/// Who follows events is looked at again every half a minute: they see what they may see by then, and leave with their token.
#[tokio::test]
async fn a_person_who_follows_events_stays_until_their_token_ends() {
    let stage = Stage::new().await;
    let token = stage.token("nora");
    let request = Request::get("/v1/events").header("Authorization", format!("Bearer {token}"));
    let request = request
        .header("Accept", "text/event-stream")
        .header("Last-Event-ID", "0");
    let answer = stage
        .service
        .router()
        .oneshot(request.body(Body::empty()).expect("a request"))
        .await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let binding = json!({ "provider_id": stage.provider, "subject": "nora", "role": "viewer" });
    let bound = stage
        .service
        .call(
            "POST",
            "/v1/role-bindings",
            Some(&stage.owner),
            &[],
            Some(&binding),
        )
        .await;
    assert_eq!(bound.status, StatusCode::CREATED, "{bound:?}");
    stage
        .service
        .fleet
        .clock
        .advance(SignedDuration::from_secs(31));
    let (seen, mut stream, _) = ids(answer, 2).await;
    assert_eq!(seen[..2], [1, 2], "granted meanwhile");
    stage
        .service
        .fleet
        .clock
        .advance(SignedDuration::from_secs(300));
    while let Some(part) = stream.next().await {
        part.expect("bytes");
    }
}

#[tokio::test]
async fn tokens_that_say_something_wrong_are_refused() {
    let stage = Stage::new().await;
    assert!(
        stage.gets_in(&stage.token("vera")).await,
        "the one that says everything right gets in"
    );
    let now = stage.service.fleet.clock.now().as_second();
    let stranger = "meshwright:tenant_00000000000000000000000002";
    for (field, value) in [
        ("iss", json!("https://evil.example")),
        ("iss", json!(format!("{ISSUER}/"))),
        ("iss", Value::Null),
        ("aud", json!(stranger)),
        ("aud", json!([stage.audience, stranger])),
        ("aud", json!([])),
        ("aud", json!("meshwright:")),
        ("aud", Value::Null),
        ("sub", json!("")),
        ("sub", json!("v".repeat(256))),
        ("sub", json!(7)),
        ("exp", json!(now - 30)),
        ("exp", json!("never")),
        ("exp", Value::Null),
        ("nbf", json!(now + 31)),
        ("iat", json!(now + 31)),
        ("email_verified", json!(false)),
        ("email_verified", json!("yes")),
        ("email_verified", Value::Null),
    ] {
        let mut claims = stage.claims("vera");
        if value.is_null() {
            claims.as_object_mut().expect("an object").remove(field);
        } else {
            claims[field] = value.clone();
        }
        assert!(
            !stage
                .gets_in(&stage.service.issuer.sign("k1", &claims))
                .await,
            "{field} = {value}"
        );
    }
}

/// Clocks differ by a few seconds, and a claim that must be `true` may be written as text.
#[tokio::test]
async fn tokens_that_are_a_little_out_of_time_are_accepted() {
    let stage = Stage::new().await;
    let now = stage.service.fleet.clock.now().as_second();
    for (field, value) in [
        ("exp", json!(now - 29)),
        ("nbf", json!(now + 30)),
        ("iat", json!(now + 30)),
        ("email_verified", json!("true")),
    ] {
        let mut claims = stage.claims("vera");
        claims[field] = value.clone();
        assert!(
            stage
                .gets_in(&stage.service.issuer.sign("k1", &claims))
                .await,
            "{field} = {value}"
        );
    }
}

/// Tokens that are signed in a wrong way: not at all, with the public key as a secret, with another key, under another name.
#[tokio::test]
async fn tokens_that_are_signed_wrongly_are_refused() {
    let stage = Stage::new().await;
    let (issuer, claims) = (&stage.service.issuer, stage.claims("vera"));
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let body = part(&claims);
    for header in [
        json!({ "alg": "none", "kid": "k1" }),
        json!({ "alg": "None", "kid": "k1", "typ": "JWT" }),
        json!({ "alg": "EdDSA", "kid": "k1" }),
        json!({ "alg": "EdDSA" }),
    ] {
        for signature in ["", "AAAA"] {
            assert!(
                !stage
                    .gets_in(&format!("{}.{body}.{signature}", part(&header)))
                    .await,
                "{header}"
            );
        }
    }
    let public = URL_SAFE_NO_PAD
        .decode(issuer.public("k1")["x"].as_str().expect("x"))
        .expect("bytes");
    for secret in [
        public.as_slice(),
        issuer.public("k1").to_string().as_bytes(),
    ] {
        let header = Header {
            kid: Some("k1".into()),
            ..Header::new(Algorithm::HS256)
        };
        let token = encode(&header, &claims, &EncodingKey::from_secret(secret)).expect("a token");
        assert!(!stage.gets_in(&token).await, "a public key is no secret");
    }
    let other = FakeIssuer::default();
    other.publish("k1");
    assert!(
        !stage.gets_in(&other.sign("k1", &claims)).await,
        "another key of the same name"
    );
    for name in ["k2", "", "../k1", "k1 "] {
        assert!(
            !stage
                .gets_in(&signed(&issuer.private("k1"), name, &claims))
                .await,
            "{name}"
        );
    }
}

/// Changed tokens, thousands of them: none gets in.
#[tokio::test]
async fn five_thousand_mutated_tokens_are_refused() {
    const TOKENS: u64 = 5000;
    let stage = Stage::new().await;
    let honest = stage.token("vera");
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=";
    let mut seed: u64 = 42;
    let mut random = |below: usize| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).expect("31 bits") % below
    };
    for number in 0..TOKENS {
        let mut bytes = honest.clone().into_bytes();
        for _ in 0..=random(3) {
            let place = random(bytes.len());
            match random(4) {
                0 => drop(bytes.remove(place)),
                1 => bytes.insert(place, letters[random(letters.len())]),
                2 => {
                    let other = (place + 1) % bytes.len();
                    bytes.swap(place, other);
                }
                _ => bytes[place] = letters[random(letters.len())],
            }
        }
        let mutated = String::from_utf8(bytes).expect("letters");
        assert!(
            mutated == honest || !stage.gets_in(&mutated).await,
            "number {number}: {mutated}"
        );
    }
    assert!(stage.gets_in(&honest).await);
}

#[tokio::test]
async fn what_is_known_of_issuers_is_not_shown() {
    let stage = Stage::new().await;
    assert!(stage.gets_in(&stage.token("vera")).await);
    assert_eq!(
        format!("{:?}", stage.service.app.issuers),
        "IssuerKeys { .. }"
    );
}

#[tokio::test]
async fn a_withdrawn_key_is_dead_within_a_minute_and_a_silent_issuer_keeps_its_keys() {
    let stage = Stage::new().await;
    let (issuer, clock) = (&stage.service.issuer, &stage.service.fleet.clock);
    assert!(stage.gets_in(&stage.token("vera")).await);
    issuer.down.store(true, Ordering::SeqCst);
    clock.advance(SignedDuration::from_hours(23));
    assert!(
        stage.gets_in(&stage.token("vera")).await,
        "a silent issuer keeps its keys for a day"
    );
    clock.advance(SignedDuration::from_hours(2));
    assert!(
        !stage.gets_in(&stage.token("vera")).await,
        "and not for longer"
    );
    issuer.down.store(false, Ordering::SeqCst);
    clock.advance(SignedDuration::from_secs(10));
    assert!(stage.gets_in(&stage.token("vera")).await, "it is back");
    let stolen = issuer.withdraw("k1");
    clock.advance(SignedDuration::from_secs(60));
    assert!(
        !stage
            .gets_in(&signed(&stolen, "k1", &stage.claims("vera")))
            .await
    );
}

/// Keys are rotated under load and published before they are used, so no caller is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rotation_of_an_issuers_keys_turns_nobody_away() {
    let stage = Arc::new(Stage::new().await);
    let mut newest = "k1".to_owned();
    for round in 2..12 {
        let next = format!("k{round}");
        stage.service.issuer.publish(&next);
        stage
            .service
            .fleet
            .clock
            .advance(SignedDuration::from_secs(11));
        let calls: Vec<_> = (0..12)
            .map(|call| {
                let (stage, name) = (
                    stage.clone(),
                    if call % 2 == 0 {
                        newest.clone()
                    } else {
                        next.clone()
                    },
                );
                tokio::spawn(async move {
                    stage
                        .gets_in(&stage.service.issuer.sign(&name, &stage.claims("vera")))
                        .await
                })
            })
            .collect();
        for call in calls {
            assert!(call.await.expect("no panic"), "round {round}");
        }
        stage.service.issuer.withdraw(&newest);
        newest = next;
    }
}

/// A caller that invents key names makes this service ask the issuer at most every ten seconds.
#[tokio::test]
async fn invented_key_names_do_not_make_a_storm() {
    let stage = Stage::new().await;
    let private = stage.service.issuer.private("k1");
    for number in 0..50 {
        assert!(
            !stage
                .gets_in(&signed(
                    &private,
                    &format!("x{number}"),
                    &stage.claims("vera")
                ))
                .await
        );
    }
    assert_eq!(stage.service.issuer.asked.load(Ordering::SeqCst), 1);
    assert!(
        stage.gets_in(&stage.token("vera")).await,
        "and nobody else suffers"
    );
}

/// Returns providers with one invalid field each, with the pointer of this field.
fn bad_providers() -> Vec<(Value, &'static str)> {
    let named = |fields: Value| {
        let mut provider = json!({ "name": "x", "issuer": "https://x.example" });
        let (all, fields) = (provider.as_object_mut(), fields.as_object().cloned());
        all.expect("an object").extend(fields.expect("an object"));
        provider
    };
    [
        (json!({ "issuer": "http://login.example" }), "/issuer"),
        (json!({ "issuer": "https://a@login.example" }), "/issuer"),
        (json!({ "issuer": "https://login.example/?x=1" }), "/issuer"),
        (json!({ "issuer": "https://login.example/#x" }), "/issuer"),
        (json!({ "name": "X" }), "/name"),
        (json!({ "algorithms": [] }), "/algorithms"),
        (json!({ "algorithms": ["HS256"] }), "/algorithms"),
        (json!({ "algorithms": ["none"] }), "/algorithms"),
        (json!({ "groups_claim": "g\u{0}" }), "/groups_claim"),
        (
            json!({ "required_claims": { "a/b": "\u{0}" } }),
            "/required_claims/a~1b",
        ),
        (
            json!({ "required_claims": { "\u{0}": "x" } }),
            "/required_claims/\u{0}",
        ),
    ]
    .map(|(fields, pointer)| (named(fields), pointer))
    .into()
}

/// Returns role bindings with one invalid field each, with the pointer of this field.
fn bad_bindings(provider: &str) -> Vec<(Value, &'static str)> {
    vec![
        (
            json!({ "provider_id": provider, "role": "viewer" }),
            "/subject",
        ),
        (
            json!({ "provider_id": provider, "subject": "a", "group": "b", "role": "viewer" }),
            "/subject",
        ),
        (
            json!({ "provider_id": provider, "subject": "a", "role": "king" }),
            "/role",
        ),
        (
            json!({ "provider_id": provider, "subject": "a", "role": "viewer", "scope": "x" }),
            "/scope",
        ),
        (
            json!({ "provider_id": "idp_00000000000000000000000000", "subject": "a", "role": "viewer" }),
            "/provider_id",
        ),
    ]
}

#[tokio::test]
async fn bad_providers_and_bindings_are_refused_by_field() {
    let stage = Stage::new().await;
    let owner = Some(stage.owner.as_str());
    let post = async |path: &str, body: &Value| {
        let service = &stage.service;
        service.call("POST", path, owner, &[], Some(body)).await
    };
    let rows = [
        ("/v1/identity-providers", bad_providers()),
        ("/v1/role-bindings", bad_bindings(&stage.provider)),
    ];
    for (path, bad) in rows {
        for (body, pointer) in bad {
            let reply = post(path, &body).await;
            assert_eq!(
                reply.body["errors"][0]["pointer"], pointer,
                "{body}: {reply:?}"
            );
        }
    }
    let twice = json!({ "provider_id": stage.provider, "subject": "vera", "role": "viewer" });
    let reply = post("/v1/role-bindings", &twice).await;
    assert_eq!(reply.body["code"], "granted_already");
}

/// The issuer signs with `EdDSA` throughout.
#[tokio::test]
async fn only_algorithms_that_the_provider_was_registered_with_let_anybody_in() {
    for (algorithms, expected) in [
        (["EdDSA"].as_slice(), true),
        (&["RS256"], false),
        (&["ES256", "PS512"], false),
    ] {
        let stage = Stage::with(algorithms).await;
        assert_eq!(
            stage.gets_in(&stage.token("vera")).await,
            expected,
            "{algorithms:?}"
        );
    }
}
