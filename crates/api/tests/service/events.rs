//! Events in commit order.

use std::sync::Arc;

use model::Clock;
use serde_json::json;
use store::{NewEvent, Reach};
use testkit::Fleet;

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
                let mut tx = fleet.db.api.begin(fleet.db.tenant).await.expect("a transaction");
                let at = fleet.clock.now();
                tx.tell(NewEvent {
                    at,
                    kind: "test",
                    mesh: None,
                    upgrade: None,
                    operation: None,
                    body: json!([writer, number]),
                });
                tx.commit().await.expect("a commit");
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
    let mut tx = fleet.db.api.begin(fleet.db.tenant).await.expect("a transaction");
    let events = tx.events_after(&Reach::ALL, after, None, 1000).await.expect("events");
    events.iter().map(|event| event.seq).collect()
}
