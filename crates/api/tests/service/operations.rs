//! Operations that people ask something of, alone or as stages of an upgrade.

use axum::http::StatusCode;
use meshwright_model::access::Role;
use serde_json::json;

use crate::leaving::Stage;
use crate::support::Service;

#[tokio::test]
async fn a_paused_operation_that_was_asked_to_go_on_shows_the_verb_and_is_waited_for() {
    let stage = Stage::new().await;
    let restart = stage.begin("POST", "/restarts", None).await;
    let verb = async |verb: &str| {
        stage
            .call("POST", &format!("/v1/operations/{restart}/{verb}"), None)
            .await
            .body
    };
    assert_eq!(verb("pause").await["pending_verbs"], json!(["pause"]));
    stage.run().await;
    let paused = stage.operation(&restart).await;
    assert_eq!(
        (&paused["state"], &paused["pending_verbs"]),
        (&json!("paused"), &json!([]))
    );
    let asked = verb("retry").await;
    assert_eq!(
        (&asked["state"], &asked["pending_verbs"]),
        (&json!("paused"), &json!(["retry"]))
    );
    let path = format!("/v1/operations/{restart}?wait_seconds=60");
    // The first look comes before a worker hears of the retry.
    let (looked, ()) = tokio::join!(stage.call("GET", &path, None), async {
        tokio::task::yield_now().await;
        stage.run().await;
    });
    assert_eq!(
        (&looked.body["state"], &looked.body["pending_verbs"]),
        (&json!("succeeded"), &json!([]))
    );
}

/// The verb that the hint of the refusal names is accepted, and one that the upgrade refuses now is not named.
#[tokio::test]
async fn a_stage_of_an_upgrade_names_commands_that_the_upgrade_takes_now() {
    let service = Service::new().await;
    let operator = service.key(Role::Operator).await;
    let upgrade = service.fleet.get_or_plan_upgrade().await;
    let post = async |path: String| {
        service
            .call("POST", &path, Some(&operator), &[], None)
            .await
    };
    let upgrade_now = async || {
        service
            .call(
                "GET",
                &format!("/v1/upgrades/{upgrade}"),
                Some(&operator),
                &[],
                None,
            )
            .await
    };
    let hint = async || {
        let stage = upgrade_now().await.body["operation_id"]
            .as_str()
            .expect("a stage")
            .to_owned();
        let refused = post(format!("/v1/operations/{stage}/cancel")).await;
        assert_eq!(
            (refused.status, &refused.body["code"]),
            (StatusCode::CONFLICT, &json!("stage_of_an_upgrade"))
        );
        refused.body["hint"].as_str().expect("a hint").to_owned()
    };
    assert_eq!(
        post(format!("/v1/upgrades/{upgrade}/start")).await.status,
        StatusCode::ACCEPTED
    );
    assert_eq!(
        hint().await,
        format!("Use `meshwright upgrade cancel {upgrade}`.")
    );
    service.fleet.run_due().await;
    let verifying = hint().await;
    assert!(
        verifying.contains(&format!("`meshwright upgrade promote {upgrade}`")),
        "{verifying}"
    );
    assert!(
        !verifying.contains("upgrade cancel") && !verifying.contains("upgrade move"),
        "{verifying}"
    );
    assert_eq!(
        post(format!("/v1/upgrades/{upgrade}/cancel")).await.status,
        StatusCode::CONFLICT
    );
}
