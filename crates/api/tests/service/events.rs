//! Events in commit order.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures::StreamExt;
use jiff::SignedDuration;
use meshwright_model::Clock;
use meshwright_model::access::Role;
use meshwright_model::webhook::EventKind;
use meshwright_store::{AccessFilter, NewEvent, StoreError};
use meshwright_testkit::Fleet;
use serde_json::json;
use tower::ServiceExt;

use crate::support::Service;

/// Writes one event, and again where another transaction was in the way.
async fn tell(fleet: &Fleet, body: serde_json::Value) {
    loop {
        let mut tx = fleet.db.begin_beside_workers().await;
        let at = fleet.clock.now();
        tx.push_event(NewEvent {
            at,
            kind: EventKind::OperationProgress,
            mesh: None,
            upgrade: None,
            operation: None,
            body: body.clone(),
        });
        match tx.commit().await {
            Ok(()) => return,
            Err(StoreError::SerializationConflict) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Four readers tail what eight writers write: no event is lost, and none comes out of order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn events_are_neither_lost_nor_reordered() {
    const WRITERS: usize = 8;
    const EACH: usize = 40;
    let fleet = Arc::new(Fleet::new().await);
    let start = tail(&fleet, 0).await.last().copied().unwrap_or(0);
    let writers = (0..WRITERS).map(|writer| {
        let fleet = fleet.clone();
        tokio::spawn(async move {
            for number in 0..EACH {
                tell(&fleet, json!([writer, number])).await;
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let readers = (0..4).map(|_| {
        let fleet = fleet.clone();
        tokio::spawn(async move {
            let (mut cursor, mut seen) = (start, Vec::new());
            while seen.len() < WRITERS * EACH {
                let found = tail(&fleet, cursor).await;
                cursor = found.last().copied().unwrap_or(cursor);
                seen.extend(found);
            }
            seen
        })
    });
    let readers: Vec<_> = readers.collect();
    for writer in writers {
        writer.await.expect("no panic");
    }
    let expected: Vec<i64> = (start + 1..).take(WRITERS * EACH).collect();
    for reader in readers {
        assert_eq!(reader.await.expect("no panic"), expected);
    }
}

async fn tail(fleet: &Fleet, after: i64) -> Vec<i64> {
    let mut tx = fleet.db.begin_beside_workers().await;
    let events = tx
        .events()
        .list_events_after(&AccessFilter::ALL, after, None, 1000)
        .await
        .expect("events");
    events.iter().map(|event| event.seq).collect()
}

/// A stream that is read for as long as it lasts, by the ids of its events.
pub(crate) async fn ids(
    response: axum::response::Response,
    until: usize,
) -> (Vec<i64>, axum::body::BodyDataStream, String) {
    let (mut stream, mut text) = (response.into_body().into_data_stream(), String::new());
    loop {
        let seen: Vec<i64> = text
            .lines()
            .filter_map(|line| line.strip_prefix("id: ")?.parse().ok())
            .collect();
        if seen.len() >= until {
            return (seen, stream, text);
        }
        let part = stream.next().await.expect("more").expect("bytes");
        text += &String::from_utf8_lossy(&part);
    }
}

/// A client that was cut off resumes where it was, on any replica, and the stream of a revoked key
/// ends.
#[tokio::test]
async fn a_stream_is_resumed_without_a_gap_and_ends_with_its_key() {
    let service = Service::new().await;
    let (owner, viewer) = (
        service.key(Role::Owner).await,
        service.key(Role::Viewer).await,
    );
    let open = async |last: &str| {
        let request = Request::get("/v1/events")
            .header("Authorization", format!("Bearer {viewer}"))
            .header("Accept", "text/event-stream")
            .header("Last-Event-ID", last);
        let request = request.body(Body::empty()).expect("a request");
        service.router().oneshot(request).await.expect("an answer")
    };
    let (first, ..) = ids(open("0").await, 3).await;
    assert_eq!(first[..3], [1, 2, 3]);
    let (second, mut stream, _) = ids(open("3").await, 2).await;
    assert_eq!(second[..2], [4, 5]);
    let list = service
        .call("GET", "/v1/api-keys", Some(&owner), &[], None)
        .await;
    let items = list.body["items"].as_array().expect("keys");
    let key = items
        .iter()
        .find(|key| key["role"] == "viewer")
        .expect("the viewer's")["id"]
        .clone();
    let path = format!("/v1/api-keys/{}", key.as_str().expect("an id"));
    assert_eq!(
        service
            .call("DELETE", &path, Some(&owner), &[], None)
            .await
            .status,
        StatusCode::NO_CONTENT
    );
    service.fleet.clock.advance(SignedDuration::from_secs(31));
    while let Some(part) = stream.next().await {
        part.expect("bytes");
    }
}

/// Events are kept for a while. A client that was away for longer must learn that events are
/// missing.
#[tokio::test]
async fn old_events_go_and_whoever_resumes_before_them_is_told() {
    let service = Service::new().await;
    let owner = service.key(Role::Owner).await;
    let fleet = &service.fleet;
    for number in 0..150 {
        tell(fleet, json!(number)).await;
    }
    fleet
        .clock
        .advance(meshwright_store::EVENT_RETENTION + SignedDuration::from_hours(1));
    for number in 0..100 {
        tell(fleet, json!(number)).await;
    }
    let kept = tail(fleet, 0).await;
    assert!(kept[0] > 150 && kept.len() >= 99, "{kept:?}");
    let list = async |after: i64| {
        service
            .call(
                "GET",
                &format!("/v1/events?after={after}"),
                Some(&owner),
                &[],
                None,
            )
            .await
    };
    assert_eq!(list(0).await.body["items"][0]["seq"], kept[0]);
    assert_eq!(list(kept[0] - 1).await.status, StatusCode::OK);
    let gone = list(kept[0] - 2).await;
    assert_eq!(
        (gone.status, gone.body["code"].as_str()),
        (StatusCode::GONE, Some("events_expired"))
    );
    let request = Request::get("/v1/events").header("Authorization", format!("Bearer {owner}"));
    let request = request
        .header("Accept", "text/event-stream")
        .header("Last-Event-ID", "3");
    let answer = service
        .router()
        .oneshot(request.body(Body::empty()).expect("a request"))
        .await;
    let mut stream = answer.expect("an answer").into_body().into_data_stream();
    let first = stream.next().await.expect("an event").expect("bytes");
    assert!(
        String::from_utf8_lossy(&first).contains("event: reset"),
        "{first:?}"
    );
}

async fn follow_after(service: &Service, key: &str, last: i64) -> axum::body::BodyDataStream {
    let request = Request::get("/v1/events").header("Authorization", format!("Bearer {key}"));
    let request = request
        .header("Accept", "text/event-stream")
        .header("Last-Event-ID", last);
    let answer = service
        .router()
        .oneshot(request.body(Body::empty()).expect("a request"))
        .await;
    answer.expect("an answer").into_body().into_data_stream()
}

async fn next_text(stream: &mut axum::body::BodyDataStream) -> String {
    String::from_utf8_lossy(&stream.next().await.expect("an event").expect("bytes")).into_owned()
}

/// As after a restore from a backup: the reader has seen more than there is.
#[tokio::test]
async fn a_reader_ahead_of_the_log_is_told_and_goes_on_with_what_follows() {
    let service = Service::new().await;
    let (owner, fleet) = (service.key(Role::Owner).await, &service.fleet);
    let newest = tail(fleet, 0).await.last().copied().expect("events");
    let list = async |after: i64| {
        service
            .call(
                "GET",
                &format!("/v1/events?after={after}"),
                Some(&owner),
                &[],
                None,
            )
            .await
    };
    assert_eq!(list(newest).await.status, StatusCode::OK);
    for ahead in [newest + 1, i64::MAX] {
        let refused = list(ahead).await;
        assert_eq!(
            (refused.status, refused.body["code"].as_str()),
            (StatusCode::GONE, Some("events_expired"))
        );
    }
    let mut stream = follow_after(&service, &owner, newest + 40).await;
    let first = next_text(&mut stream).await;
    assert!(
        first.contains("event: reset") && first.contains(&format!("id: {newest}\n")),
        "{first}"
    );
    tell(fleet, json!("new")).await;
    assert!(
        next_text(&mut stream)
            .await
            .contains(&format!("id: {}\n", newest + 1))
    );
}

#[tokio::test]
async fn a_stream_whose_log_is_replaced_under_it_is_told() {
    let service = Service::new().await;
    let (owner, fleet) = (service.key(Role::Owner).await, &service.fleet);
    let last = tail(fleet, 0).await.last().copied().expect("events");
    let mut stream = follow_after(&service, &owner, last - 1).await;
    assert!(
        next_text(&mut stream)
            .await
            .contains(&format!("id: {last}\n"))
    );
    let superuser = meshwright_store::embedded_postgres::SUPERUSER;
    for restore in [
        format!("DELETE FROM events WHERE seq > {}", last - 3),
        format!("UPDATE tenant_heads SET event_seq = {}", last - 3),
    ] {
        fleet
            .db
            .execute(superuser, &restore)
            .await
            .expect("a restore");
    }
    fleet.clock.advance(SignedDuration::from_secs(31));
    let told = next_text(&mut stream).await;
    assert!(
        told.contains("event: reset") && told.contains(&format!("id: {}\n", last - 3)),
        "{told}"
    );
}
