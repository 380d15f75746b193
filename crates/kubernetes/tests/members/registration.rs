//! Tests registration and renewal: accounts, serial numbers, and the end of credentials.

use std::time::Duration;

use meshwright_kubernetes::problems::problem_unless_changed;
use meshwright_kubernetes::registration::{
    RegisteredCluster, RegistrationRequest, read_cluster_uid, register_cluster, renew_credential,
    withdraw_registration,
};
use meshwright_kubernetes::{
    Account, AddressPolicy, ClusterClient, Credential, MemberCluster, PreviousCredential,
    ResponseLimits,
};
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::ClusterError;
use serde_json::json;

use super::fake::{FakeCluster, open, rules};

const UID: &str = "5b0f6a3e-0000-4000-8000-000000000001";

fn account(number: u8) -> Account {
    Account::for_cluster(format!("cluster_{number:026}").parse().expect("an id"))
}

fn wanted(number: u8, known: Option<&RegisteredCluster>) -> RegistrationRequest<'_> {
    RegistrationRequest {
        name: "c",
        account: account(number),
        serial: known.map_or(0, |known| known.serial),
        token_lifetime: Duration::from_hours(1),
        uid: known.map(|known| known.uid.as_str()),
        now: "2026-11-22T10:00:00Z".parse().expect("a time"),
    }
}

async fn registered(cluster: &FakeCluster, number: u8) -> RegisteredCluster {
    register_cluster(&wanted(number, None), &cluster.administrator(), &rules())
        .await
        .expect("a registration")
}

async fn works(credential: &Credential) -> bool {
    open(credential).get("/version").await.is_ok()
}

fn member(number: u8, present: &RegisteredCluster, former: &Credential) -> MemberCluster {
    MemberCluster {
        name: "c".parse().expect("a name"),
        client: open(&present.credential),
        credential: present.credential.clone(),
        serial: present.serial,
        account: account(number),
        previous: Some(PreviousCredential {
            credential: former.clone(),
            client: open(former),
        }),
    }
}

#[tokio::test]
async fn two_registrations_of_one_cluster_share_nothing_that_one_of_them_could_take_from_the_other()
{
    let cluster = FakeCluster::new(UID).await;
    let (one, other) = (registered(&cluster, 1).await, registered(&cluster, 2).await);
    let renewed = renew_credential(&wanted(2, Some(&other)), &other.credential, &rules())
        .await
        .expect("a renewal");
    member(2, &renewed, &other.credential)
        .check_health(true)
        .await
        .expect("an answer");
    assert!(
        !works(&other.credential).await,
        "the former credential of the one that was renewed is dead"
    );
    assert!(
        works(&one.credential).await,
        "the other registration's lives on"
    );
    let roles = cluster
        .paths()
        .into_iter()
        .filter(|path| path.contains("/clusterroles/"))
        .count();
    assert_eq!(roles, 2);
}

#[tokio::test]
async fn a_former_credential_counts_as_gone_when_the_cluster_was_seen_to_refuse_it() {
    let cluster = FakeCluster::new(UID).await;
    let first = registered(&cluster, 1).await;
    let second = renew_credential(&wanted(1, Some(&first)), &first.credential, &rules())
        .await
        .expect("a renewal");
    let member = member(1, &second, &first.credential);
    // An API server remembers for a while whom it has let in.
    cluster.remember(2);
    let mut settled = Vec::new();
    for _ in 0..4 {
        settled.push(member.check_health(true).await.expect("an answer").1);
    }
    assert_eq!(settled, [false, false, false, true]);
}

#[tokio::test]
async fn serial_numbers_go_on_from_what_is_found() {
    let cluster = FakeCluster::new(UID).await;
    let mut present = registered(&cluster, 1).await;
    let backup = registered(&FakeCluster::new(UID).await, 1).await.serial;
    for _ in 0..3 {
        present = renew_credential(&wanted(1, Some(&present)), &present.credential, &rules())
            .await
            .expect("a renewal");
    }
    assert_eq!((backup, present.serial), (1, 4));
    let restored = RegistrationRequest {
        serial: backup,
        ..wanted(1, Some(&present))
    };
    let next = renew_credential(&restored, &present.credential, &rules())
        .await
        .expect("a renewal");
    assert_eq!(
        next.serial, 5,
        "a database that was restored knows less than the cluster"
    );
}

#[tokio::test]
async fn a_token_that_no_request_can_carry_ends_the_registration_with_a_problem() {
    for token in ["two\nlines", "", &"x".repeat(100_000)] {
        let cluster = FakeCluster::new(UID).await;
        cluster.answer_tokens_with(token);
        let refused = register_cluster(&wanted(1, None), &cluster.administrator(), &rules())
            .await
            .expect_err("no token");
        assert_eq!(refused.code, ProblemCode::TokenUnusable);
    }
}

#[tokio::test]
async fn a_registration_that_is_refused_takes_its_account_away_and_no_other_one() {
    let cluster = FakeCluster::new(UID).await;
    let nothing = cluster.paths();
    withdraw_registration(&wanted(1, None), &cluster.administrator(), &rules())
        .await
        .expect("nothing was made");
    assert_eq!(cluster.paths(), nothing);
    let other = registered(&cluster, 2).await;
    let before = cluster.paths();
    cluster.answer_tokens_with("two\nlines");
    register_cluster(&wanted(1, None), &cluster.administrator(), &rules())
        .await
        .expect_err("no token");
    assert_ne!(cluster.paths(), before, "its account was made");
    withdraw_registration(&wanted(1, None), &cluster.administrator(), &rules())
        .await
        .expect("it is removed");
    assert_eq!(cluster.paths(), before);
    assert!(
        works(&other.credential).await,
        "the other registration's account lives on"
    );
}

#[tokio::test]
async fn a_cluster_that_names_no_identity_of_its_own_is_refused_before_anything_is_written() {
    for uid in ["", "a b", &"x".repeat(65), "a\0b"] {
        let cluster = FakeCluster::new(uid).await;
        let refused = read_cluster_uid(&wanted(1, None), &cluster.administrator(), &rules())
            .await
            .expect_err("no identity");
        assert_eq!(refused.code, ProblemCode::ClusterRefused, "{uid:?}");
        assert!(cluster.writes().is_empty());
    }
}

#[tokio::test]
async fn everything_that_a_former_istio_left_is_named_with_the_command_that_removes_it() {
    let cluster = FakeCluster::new(UID).await;
    let validators = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    for (name, entry) in [
        ("istiod-default-validator", "validation.istio.io"),
        ("istio-validator-istio-system", "rev.validation.istio.io"),
    ] {
        let object = json!({ "metadata": { "name": name }, "webhooks": [{ "name": entry, "failurePolicy": "Fail" }] });
        cluster.put(&format!("{validators}/{name}"), object);
    }
    let refused = register_cluster(&wanted(1, None), &cluster.administrator(), &rules())
        .await
        .expect_err("leftovers");
    assert_eq!(refused.code, ProblemCode::ForeignIstio);
    for name in ["istiod-default-validator", "istio-validator-istio-system"] {
        assert!(refused.message.contains(name), "{}", refused.message);
    }
    let command = "`kubectl delete validatingwebhookconfiguration/istio-validator-istio-system validatingwebhookconfiguration/istiod-default-validator`";
    assert!(refused.hint.contains(command), "{}", refused.hint);
}

/// A cluster with a namespace whose new pods are shown to another's webhook.
async fn scanned() -> FakeCluster {
    let cluster = FakeCluster::new(UID).await;
    cluster.put(
        "/api/v1/namespaces/scanned",
        json!({ "metadata": { "name": "scanned", "labels": { "scan": "yes" } } }),
    );
    let scanner = json!({ "metadata": { "name": "image-scanner" }, "webhooks": [{
        "name": "pods.scanner.example", "failurePolicy": "Fail", "namespaceSelector": { "matchLabels": { "scan": "yes" } },
        "rules": [{ "apiGroups": [""], "operations": ["CREATE"], "resources": ["pods"] }],
    }] });
    cluster.put(
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/image-scanner",
        scanner,
    );
    cluster
}

#[tokio::test]
async fn a_webhook_of_somebody_else_that_does_not_answer_is_a_finding_and_no_obstacle() {
    let cluster = scanned().await;
    let present = registered(&cluster, 1).await;
    let member = member(1, &present, &present.credential);
    assert_eq!(member.list_findings().await, [], "it answers");
    cluster.silence_webhook("image-scanner");
    let found = member.list_findings().await;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].code.known(), found[0].object.as_str()),
        (
            Some(ProblemCode::WebhookSilent),
            "mutatingwebhookconfiguration/image-scanner"
        )
    );
    assert!(
        found[0]
            .hint
            .contains("kubectl delete mutatingwebhookconfiguration/image-scanner"),
        "{}",
        found[0].hint
    );
}

#[tokio::test]
async fn a_webhook_that_the_api_server_waits_for_longer_than_we_do_is_silent_while_the_api_server_answers()
 {
    let cluster = scanned().await;
    let present = registered(&cluster, 1).await;
    let limits = ResponseLimits {
        call_timeout: Duration::from_millis(500),
        ..ResponseLimits::default()
    };
    let client = ClusterClient::open(
        "c",
        &present.credential,
        &AddressPolicy { limits, ..rules() },
    )
    .expect("a client");
    let member = MemberCluster {
        client,
        ..member(1, &present, &present.credential)
    };
    cluster.stall_dry_runs();
    let found: Vec<String> = member
        .list_findings()
        .await
        .into_iter()
        .map(|finding| finding.object)
        .collect();
    assert_eq!(found, ["mutatingwebhookconfiguration/image-scanner"]);
}

#[test]
fn an_object_that_another_worker_changed_is_not_done_yet_and_no_silence_of_the_cluster() {
    assert_eq!(
        problem_unless_changed(Err(ClusterError::Changed { place: "c".into() })),
        Ok(false)
    );
    assert_eq!(problem_unless_changed(Ok(true)), Ok(true));
    let silent = problem_unless_changed(Err(ClusterError::unreachable("c", "no answer in time")))
        .expect_err("a silence");
    assert_eq!(silent.code, ProblemCode::ClusterUnreachable);
}
