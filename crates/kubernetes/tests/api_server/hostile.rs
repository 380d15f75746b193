//! Tests API servers that answer without an end, slowly, or with hostile text: each costs one call
//! and gives a problem code of its own.

use std::time::Duration;

use meshwright_kubernetes::{ClusterClient, ResponseLimits};
use meshwright_model::problem::ProblemCode;
use meshwright_rollout::ports::ClusterError;
use serde_json::json;

use crate::fake::{Answer, FakeCluster, client, within};

/// Limits that a test reaches.
fn limits() -> ResponseLimits {
    ResponseLimits {
        call_timeout: Duration::from_secs(2),
        max_response_bytes: 64 * 1024,
        max_list_pages: 5,
        max_list_items: 1_000,
        max_list_bytes: 256 * 1024,
        list_timeout: Duration::from_secs(4),
        ..ResponseLimits::default()
    }
}

fn code(error: &ClusterError) -> ProblemCode {
    match error {
        ClusterError::Unreachable { code, .. } | ClusterError::Refused { code, .. } => *code,
        ClusterError::Changed { .. } | ClusterError::Delayed { .. } | ClusterError::Expired => {
            panic!("{error:?}")
        }
    }
}

async fn listed(client: &ClusterClient) -> ProblemCode {
    code(
        &client
            .list("/api/v1/pods", "")
            .await
            .expect_err("a list without an end"),
    )
}

#[tokio::test]
async fn a_list_that_always_has_another_page_ends_with_its_code() {
    let cluster = FakeCluster::start(|_, count| {
        Answer::Json(
            200,
            json!({ "metadata": { "continue": format!("page-{count}") }, "items": [{}] }),
        )
    })
    .await;
    assert_eq!(
        listed(&client(&cluster, within(limits()))).await,
        ProblemCode::ListTooLong
    );
    assert_eq!(cluster.asked().len(), 5, "as many pages as a list may have");
}

#[tokio::test]
async fn a_list_that_comes_back_to_a_page_ends_at_once() {
    let cluster = FakeCluster::start(|_, count| {
        Answer::Json(
            200,
            json!({ "metadata": { "continue": format!("page-{}", count % 2) }, "items": [] }),
        )
    })
    .await;
    assert_eq!(
        listed(&client(&cluster, within(limits()))).await,
        ProblemCode::ListRepeats
    );
    assert_eq!(
        cluster.asked().len(),
        3,
        "two pages and the first one again"
    );
}

#[tokio::test]
async fn a_page_with_more_objects_than_a_list_may_have_is_refused_while_it_is_parsed() {
    let cluster =
        FakeCluster::start(|_, _| Answer::Json(200, json!({ "items": vec![json!({}); 1_001] })))
            .await;
    assert_eq!(
        listed(&client(&cluster, within(limits()))).await,
        ProblemCode::ListTooLong
    );
}

#[tokio::test]
async fn a_body_without_an_end_is_cut_off_and_never_held() {
    let cluster = FakeCluster::start(|_, _| Answer::Endless).await;
    let client = client(&cluster, within(limits()));
    assert_eq!(
        code(&client.get("/version").await.expect_err("no end")),
        ProblemCode::AnswerTooLarge
    );
    assert_eq!(listed(&client).await, ProblemCode::AnswerTooLarge);
    let sent = cluster.sent();
    assert!(
        sent < 64 * 1024 * 1024,
        "the server could send {sent} bytes"
    );
}

#[tokio::test]
async fn a_body_that_drips_ends_with_the_time_of_a_call() {
    let cluster = FakeCluster::start(|_, _| Answer::Drip).await;
    let client = client(
        &cluster,
        within(ResponseLimits {
            call_timeout: Duration::from_millis(400),
            ..limits()
        }),
    );
    assert_eq!(
        code(&client.get("/version").await.expect_err("no end")),
        ProblemCode::AnswerTooSlow
    );
    assert_eq!(listed(&client).await, ProblemCode::AnswerTooSlow);
}

#[tokio::test]
async fn a_list_whose_pages_are_slow_together_ends_with_the_time_of_a_list() {
    let cluster = FakeCluster::start(|_, count| {
        let page = json!({ "metadata": { "continue": format!("page-{count}") }, "items": [] });
        Answer::Late(Duration::from_millis(200), page)
    })
    .await;
    let limits = ResponseLimits {
        list_timeout: Duration::from_millis(500),
        ..limits()
    };
    assert_eq!(
        listed(&client(&cluster, within(limits))).await,
        ProblemCode::ListTooSlow
    );
}

#[tokio::test]
async fn an_answer_that_is_no_json_ends_with_its_code() {
    let cluster = FakeCluster::start(|_, _| Answer::Text(200, "<html>".into())).await;
    let client = client(&cluster, within(limits()));
    assert_eq!(
        code(&client.get("/version").await.expect_err("no JSON")),
        ProblemCode::AnswerUnreadable
    );
}

#[tokio::test]
async fn a_page_that_is_too_large_is_asked_for_again_in_smaller_pages() {
    let cluster = FakeCluster::start(|asked, _| {
        let size = if asked.contains("limit=20&") {
            100
        } else {
            100_000
        };
        Answer::Json(
            200,
            json!({ "items": [{ "metadata": { "name": "x".repeat(size) } }] }),
        )
    })
    .await;
    let listed = client(&cluster, within(limits()))
        .list("/api/v1/pods", "")
        .await
        .expect("a list");
    assert_eq!(listed.len(), 1);
}

#[tokio::test]
async fn a_refusal_is_told_in_our_words_and_text_is_cleaned_where_it_enters() {
    let cluster = FakeCluster::start(|asked, _| match asked {
        asked if asked.contains("/version") => {
            Answer::Json(200, json!({ "gitVersion": "v1.33\u{0}\u{1b}[31m\n", "platform": "x".repeat(50_000) }))
        }
        _ => Answer::Json(
            403,
            json!({ "kind": "Status", "message": "\u{1b}[2Jadmission webhook \"p.example.com\" denied: <script>", "reason": "Forbidden" }),
        ),
    })
    .await;
    let client = client(&cluster, within(limits()));
    let version = client
        .get("/version")
        .await
        .expect("an answer")
        .expect("an object");
    assert_eq!(version["gitVersion"], "v1.33  [31m ");
    assert_eq!(version["platform"].as_str().map(str::len), Some(16 * 1024));
    let refused = client
        .list("/api/v1/pods", "")
        .await
        .expect_err("a refusal");
    assert_eq!(
        refused,
        ClusterError::Refused {
            place: "c".into(),
            code: ProblemCode::PermissionMissing,
            cause: "the admission webhook p.example.com denied it".into()
        }
    );
}

#[tokio::test]
async fn a_patch_of_an_object_that_is_gone_says_that_it_changed() {
    let cluster = FakeCluster::start(|_, _| {
        Answer::Json(404, json!({ "kind": "Status", "reason": "NotFound" }))
    })
    .await;
    let client = client(&cluster, within(limits()));
    let answer = client.patch("/api/v1/namespaces/a", &json!({}), None).await;
    assert_eq!(answer, Err(ClusterError::Changed { place: "c".into() }));
}
