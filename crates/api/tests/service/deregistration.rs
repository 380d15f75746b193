//! Clusters that are deregistered: our account goes with them, or what stays is said.

use axum::http::StatusCode;
use meshwright_model::operation::Problem;
use meshwright_model::problem::ProblemCode;
use serde_json::{Value, json};

use crate::leaving::{Stage, forced, left};

/// The clusters of a fleet whose mesh is deleted.
async fn free() -> (Stage, String) {
    let stage = Stage::new().await;
    stage.begin("DELETE", "", None).await;
    stage.run().await;
    let listed = stage.call("GET", "/v1/clusters?name=c2", None).await.body;
    let id = listed["items"][0]["id"].as_str().expect("an id").to_owned();
    (stage, id)
}

async fn deregister(stage: &Stage, cluster: &str, body: Option<&Value>) -> String {
    let reply = stage
        .call("DELETE", &format!("/v1/clusters/{cluster}"), body)
        .await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text);
    assert_eq!(reply.body["kind"], "deregister_cluster");
    stage.run().await;
    reply.body["id"].as_str().expect("an id").to_owned()
}

/// Lets the cluster refuse our credential twice, some time after it has accepted the removal of our account.
async fn refused_twice(stage: &Stage) {
    stage.later(1).await;
    stage.later(1).await;
}

async fn state(stage: &Stage, cluster: &str) -> Option<String> {
    let reply = stage
        .call("GET", &format!("/v1/clusters/{cluster}"), None)
        .await;
    reply.body["state"].as_str().map(str::to_owned)
}

fn silent() -> Problem {
    Problem::new(
        ProblemCode::ClusterUnreachable,
        "c2 does not answer.",
        "Bring it back.",
    )
}

#[tokio::test]
async fn d6_a_cluster_is_forgotten_only_after_a_look_showed_that_our_account_is_gone() {
    let (stage, cluster) = free().await;
    let credentials = &stage.service.fleet.credentials;
    credentials.set_account_lingers(true);
    let operation = deregister(&stage, &cluster, None).await;
    assert_eq!(stage.operation(&operation).await["state"], "waiting");
    assert_eq!(
        state(&stage, &cluster).await.as_deref(),
        Some("deregistering")
    );
    let refused = stage
        .call("DELETE", &format!("/v1/clusters/{cluster}"), None)
        .await;
    assert_eq!(refused.body["code"], "deregistration_under_way");
    stage.later(1).await;
    credentials.set_account_lingers(false);
    refused_twice(&stage).await;
    assert_eq!(stage.operation(&operation).await["state"], "succeeded");
    assert_eq!(state(&stage, &cluster).await, None);
    assert!(credentials.removal_count() >= 2);
    assert_eq!(stage.audited("cluster.left").await, [cluster]);
}

#[tokio::test]
async fn d6_an_account_that_does_not_go_is_said_and_the_cluster_stays() {
    let (stage, cluster) = free().await;
    stage.service.fleet.credentials.set_account_lingers(true);
    let operation = deregister(&stage, &cluster, None).await;
    stage.later(11).await;
    let ended = stage.operation(&operation).await;
    assert_eq!(
        (&ended["state"], &ended["problem"]["code"]),
        (&json!("failed"), &json!("still_there"))
    );
    assert_eq!(state(&stage, &cluster).await.as_deref(), Some("ready"));
}

#[tokio::test]
async fn h3_a_dead_cluster_is_left_behind_with_force_only_and_what_stays_is_shown() {
    let (stage, cluster) = free().await;
    stage
        .service
        .fleet
        .credentials
        .set_leave_problem(Some(silent()));
    let operation = deregister(&stage, &cluster, None).await;
    assert_eq!(stage.operation(&operation).await["state"], "waiting");
    stage.later(3).await;
    let ended = stage.operation(&operation).await;
    assert_eq!(
        (&ended["state"], &ended["problem"]["code"]),
        (&json!("failed"), &json!("cluster_unreachable"))
    );
    assert!(
        ended["problem"]["hint"]
            .as_str()
            .expect("a hint")
            .contains("--force"),
        "{ended}"
    );
    assert_eq!(
        state(&stage, &cluster).await.as_deref(),
        Some("ready"),
        "it can be asked for again"
    );
    let operation = deregister(&stage, &cluster, Some(&forced())).await;
    assert_eq!(
        stage.operation(&operation).await["state"],
        "waiting",
        "it may answer yet"
    );
    stage.later(3).await;
    let ended = stage.operation(&operation).await;
    assert_eq!(ended["state"], "succeeded");
    assert_eq!(
        left(&ended),
        [("c2".to_owned(), "meshwright-system".to_owned())]
    );
    assert_eq!(state(&stage, &cluster).await, None);
    assert_eq!(
        stage.audited("force").await,
        [format!("{cluster}: the region is gone")]
    );
    assert_eq!(stage.audited("cluster.left_behind").await, [cluster]);
}

#[tokio::test]
async fn h3_force_removes_the_account_from_a_cluster_that_answers() {
    let (stage, cluster) = free().await;
    let operation = deregister(&stage, &cluster, Some(&forced())).await;
    refused_twice(&stage).await;
    let ended = stage.operation(&operation).await;
    assert_eq!(
        (&ended["state"], &ended["leftovers"]),
        (&json!("succeeded"), &json!([]))
    );
    assert_eq!(stage.service.fleet.credentials.removal_count(), 1);
}

#[tokio::test]
async fn a_deregistration_that_is_cancelled_leaves_the_cluster_as_it_was() {
    let (stage, cluster) = free().await;
    stage
        .service
        .fleet
        .credentials
        .set_leave_problem(Some(silent()));
    let operation = deregister(&stage, &cluster, None).await;
    stage.cancel(&operation).await;
    assert_eq!(state(&stage, &cluster).await.as_deref(), Some("ready"));
    stage.service.fleet.credentials.set_leave_problem(None);
    deregister(&stage, &cluster, None).await;
    refused_twice(&stage).await;
    assert_eq!(state(&stage, &cluster).await, None);
}

#[tokio::test]
async fn a_member_of_a_mesh_is_not_deregistered_not_even_with_force() {
    let stage = Stage::new().await;
    let listed = stage.call("GET", "/v1/clusters", None).await.body;
    let path = format!(
        "/v1/clusters/{}",
        listed["items"][0]["id"].as_str().expect("an id")
    );
    for body in [json!({}), forced()] {
        let refused = stage.call("DELETE", &path, Some(&body)).await;
        assert_eq!(
            (refused.status, &refused.body["code"]),
            (StatusCode::CONFLICT, &json!("cluster_in_use"))
        );
    }
}

/// A renewal of the cluster's credential that a person has paused.
async fn paused_renewal(stage: &Stage, cluster: &str) -> String {
    let renewal = stage
        .call(
            "POST",
            &format!("/v1/clusters/{cluster}/credentials"),
            Some(&json!({})),
        )
        .await;
    let renewal = renewal.body["id"]
        .as_str()
        .expect("an operation")
        .to_owned();
    stage
        .call("POST", &format!("/v1/operations/{renewal}/pause"), None)
        .await;
    stage.run().await;
    assert_eq!(stage.operation(&renewal).await["state"], "paused");
    renewal
}

#[tokio::test]
async fn a_paused_renewal_is_named_with_the_commands_that_go_on_with_it_or_end_it() {
    let (stage, cluster) = free().await;
    let renewal = paused_renewal(&stage, &cluster).await;
    for (method, below) in [("POST", "/credentials"), ("DELETE", "")] {
        let refused = stage
            .call(
                method,
                &format!("/v1/clusters/{cluster}{below}"),
                Some(&json!({})),
            )
            .await;
        assert_eq!(
            (refused.status, &refused.body["code"]),
            (StatusCode::CONFLICT, &json!("renewal_under_way"))
        );
        let hint = refused.body["hint"].as_str().expect("a hint");
        for verb in ["retry", "cancel"] {
            assert!(
                hint.contains(&format!("`meshwright operation {verb} {renewal}`")),
                "{hint}"
            );
        }
    }
    stage.cancel(&renewal).await;
    deregister(&stage, &cluster, None).await;
    refused_twice(&stage).await;
    assert_eq!(state(&stage, &cluster).await, None);
}

#[tokio::test]
async fn force_ends_a_renewal_that_stands_still_but_not_one_that_a_worker_holds() {
    let (stage, cluster) = free().await;
    let renewal = paused_renewal(&stage, &cluster).await;
    let lease = async |until: &str| {
        let change = format!("UPDATE work_queue SET lease_until = {until}");
        stage
            .service
            .fleet
            .db
            .execute("mw_worker", &change)
            .await
            .expect("a lease");
    };
    lease("now() + interval '1 hour'").await;
    let refused = stage
        .call(
            "DELETE",
            &format!("/v1/clusters/{cluster}"),
            Some(&forced()),
        )
        .await;
    assert_eq!(
        refused.body["code"], "renewal_under_way",
        "{}",
        refused.text
    );
    lease("NULL").await;
    deregister(&stage, &cluster, Some(&forced())).await;
    refused_twice(&stage).await;
    assert_eq!(stage.operation(&renewal).await["state"], "superseded");
    assert_eq!(state(&stage, &cluster).await, None);
}

/// Each hint is followed as far as the service accepts it.
#[tokio::test]
async fn a_cluster_without_a_credential_of_ours_gets_a_hint_that_fits_its_state() {
    let (stage, leaving) = free().await;
    let credentials = &stage.service.fleet.credentials;
    let hint = async |cluster: &str| {
        let path = format!("/v1/clusters/{cluster}/credentials");
        let refused = stage.call("POST", &path, Some(&json!({}))).await;
        assert_eq!(
            refused.body["code"], "cluster_not_ready",
            "{}",
            refused.text
        );
        refused.body["hint"].as_str().expect("a hint").to_owned()
    };
    let new = json!({ "name": "c9", "kubeconfig": "good" });
    let registered = stage.call("POST", "/v1/clusters", Some(&new)).await.body;
    let registering = registered["cluster_id"].as_str().expect("an id");
    assert!(hint(registering).await.contains("registration has ended"));
    credentials.set_connect_problem(Some(silent()));
    stage.run().await;
    assert_eq!(state(&stage, registering).await.as_deref(), Some("refused"));
    assert!(
        hint(registering)
            .await
            .starts_with("Remove it with `meshwright cluster delete`, then register it")
    );
    let taken = stage.call("POST", "/v1/clusters", Some(&new)).await;
    assert!(
        taken.text.contains("name_taken") && taken.text.contains("`meshwright cluster delete`"),
        "{}",
        taken.text
    );
    let removed = stage
        .call("DELETE", &format!("/v1/clusters/{registering}"), None)
        .await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT, "{}", removed.text);
    let again = stage.call("POST", "/v1/clusters", Some(&new)).await;
    assert_eq!(again.status, StatusCode::ACCEPTED, "{}", again.text);
    credentials.set_account_lingers(true);
    deregister(&stage, &leaving, None).await;
    assert!(hint(&leaving).await.contains("deregistration has ended"));
}
