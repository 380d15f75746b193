//! Tests that every connect resolves and checks the name, and that a renewed credential is read
//! again.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use meshwright_kubernetes::resolver::Resolver;
use meshwright_kubernetes::{
    AddressPolicy, ClusterClient, Credential, CredentialSource, ResponseLimits,
};
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::ClusterError;
use serde_json::json;

use crate::fake::{Answer, FakeCluster, NAME, client, within};

/// A name server that the test moves names in.
#[derive(Debug, Default)]
struct Names {
    found: Mutex<Vec<SocketAddr>>,
}

impl Names {
    fn move_to(&self, addresses: &[SocketAddr]) {
        *self.found.lock().expect("no holder panics") = addresses.to_vec();
    }
}

#[async_trait]
impl Resolver for Names {
    async fn resolve_host(&self, _host: &str, _port: u16) -> std::io::Result<Vec<SocketAddr>> {
        Ok(self.found.lock().expect("no holder panics").clone())
    }
}

async fn answering(text: &'static str) -> FakeCluster {
    FakeCluster::start(move |_, _| Answer::Closing(json!({ "from": text }))).await
}

/// Rules with a resolver of ours, and the resolver.
fn rules() -> (AddressPolicy, Arc<Names>) {
    let names = Arc::new(Names::default());
    let limits = ResponseLimits {
        call_timeout: Duration::from_secs(2),
        ..ResponseLimits::default()
    };
    (
        AddressPolicy {
            resolver: names.clone(),
            ..within(limits)
        },
        names,
    )
}

async fn said(client: &ClusterClient) -> Result<String, ClusterError> {
    let answer = client.get("/version").await?.unwrap_or_default();
    Ok(answer["from"].as_str().unwrap_or_default().to_owned())
}

fn named(cluster: &FakeCluster, rules: &AddressPolicy) -> ClusterClient {
    ClusterClient::open(
        "c",
        &cluster.credential(&format!("https://{NAME}:6443"), "t"),
        rules,
    )
    .expect("a client")
}

#[tokio::test]
async fn a_name_that_moves_is_followed_and_its_certificate_is_still_checked() {
    let (first, second) = (answering("first").await, answering("second").await);
    let (rules, names) = rules();
    let client = named(&first, &rules);
    names.move_to(&[first.address]);
    assert_eq!(said(&client).await.as_deref(), Ok("first"));
    // The second server has a certificate of another authority for the same name.
    names.move_to(&[second.address]);
    assert!(matches!(
        said(&client).await,
        Err(ClusterError::Unreachable { .. })
    ));
    assert_eq!(
        second.asked(),
        Vec::<String>::new(),
        "no credential was sent to it"
    );
    names.move_to(&[first.address]);
    assert_eq!(said(&client).await.as_deref(), Ok("first"));
}

#[tokio::test]
async fn every_allowed_record_is_tried() {
    let cluster = answering("second record").await;
    let (rules, names) = rules();
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port")
        .local_addr()
        .expect("an address");
    let refused: SocketAddr = "10.0.0.1:443".parse().expect("an address");
    names.move_to(&[refused, dead, cluster.address]);
    assert_eq!(
        said(&named(&cluster, &rules)).await.as_deref(),
        Ok("second record")
    );
}

#[tokio::test]
async fn a_name_that_moves_to_a_refused_address_is_refused_in_every_disguise() {
    let cluster = answering("it").await;
    let (rules, names) = rules();
    let client = named(&cluster, &rules);
    names.move_to(&[cluster.address]);
    assert_eq!(said(&client).await.as_deref(), Ok("it"));
    for address in [
        "169.254.169.254:443",
        "[::ffff:10.0.0.1]:443",
        "[64:ff9b::a00:1]:443",
        "[::1]:443",
    ] {
        names.move_to(&[address.parse().expect("an address")]);
        let answer = said(&client).await;
        assert!(
            matches!(
                answer,
                Err(ClusterError::Refused {
                    code: ProblemCode::AddressRefused,
                    ..
                })
            ),
            "{address}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_a_silent_cluster_also_when_the_door_is_opened() {
    let cluster = answering("it").await;
    let (rules, names) = rules();
    let client = named(&cluster, &rules);
    assert!(matches!(
        said(&client).await,
        Err(ClusterError::Unreachable {
            code: ProblemCode::ClusterUnreachable,
            ..
        })
    ));
    names.move_to(&[cluster.address]);
    assert_eq!(said(&client).await.as_deref(), Ok("it"));
}

#[tokio::test]
async fn a_literal_address_that_is_not_allowed_is_refused_before_anything_is_called() {
    let cluster = answering("it").await;
    let credential = cluster.credential("https://10.0.0.1:6443", "t");
    let opened = ClusterClient::open("c", &credential, &AddressPolicy::default());
    assert!(
        matches!(
            opened,
            Err(ClusterError::Refused {
                code: ProblemCode::AddressRefused,
                ..
            })
        ),
        "{opened:?}"
    );
}

struct Vault(Credential);

#[async_trait]
impl CredentialSource for Vault {
    async fn current_credential(&self) -> Option<Credential> {
        Some(self.0.clone())
    }
}

#[tokio::test]
async fn a_claim_that_outlives_a_credential_goes_on_with_the_next_one() {
    let cluster = FakeCluster::start(|asked, _| {
        if asked.contains("Bearer second") {
            Answer::Json(200, json!({ "from": "in" }))
        } else {
            Answer::Json(401, json!({ "kind": "Status", "reason": "Unauthorized" }))
        }
    })
    .await;
    let server = format!("https://{}", cluster.address);
    let (rules, _) = rules();
    let first = cluster.credential(&server, "first");
    let kept = |token: &str| Arc::new(Vault(cluster.credential(&server, token)));
    let client = ClusterClient::open("c", &first, &rules)
        .expect("a client")
        .with_credential_source(kept("second"));
    let copy = client.clone();
    assert_eq!(said(&client).await.as_deref(), Ok("in"));
    assert_eq!(said(&copy).await.as_deref(), Ok("in"));
    assert_eq!(cluster.asked().len(), 3, "the dead token was sent once");

    let dead = ClusterClient::open("c", &first, &rules)
        .expect("a client")
        .with_credential_source(kept("first"));
    let answer = said(&dead).await;
    assert!(
        matches!(
            answer,
            Err(ClusterError::Refused {
                code: ProblemCode::CredentialExpired,
                ..
            })
        ),
        "{answer:?}"
    );
    assert_eq!(
        cluster.asked().len(),
        4,
        "the same credential is not tried twice"
    );
}

#[tokio::test]
async fn what_a_call_started_ends_with_the_call() {
    let cluster = FakeCluster::start(|_, _| Answer::Drip).await;
    let (rules, _) = rules();
    let client = client(&cluster, rules);
    let call = tokio::time::timeout(Duration::from_millis(200), client.get("/version"));
    assert!(
        call.await.is_err(),
        "the claim was dropped in the middle of an answer"
    );
    let gone = async {
        while cluster.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(2), gone)
        .await
        .expect("the connection is closed");
}
