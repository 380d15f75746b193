//! Work is told of: a worker that looks at the queue once an hour begins at once.

use std::time::Duration;

use meshwright_model::operation::OperationKind;
use meshwright_testkit::{Fleet, NOTIFICATIONS_ENV};
use serde_json::json;
use tokio::time::timeout;

const HOUR: Duration = Duration::from_hours(1);
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn whoever_waits_for_work_is_told_of_it_and_of_what_came_while_they_worked() {
    if std::env::var(NOTIFICATIONS_ENV).is_ok_and(|hints| hints == "off") {
        return;
    }
    let fleet = Fleet::new().await;
    let mut hints = fleet.db.worker.work_notifications();
    // The test cannot know when the listener is ready, so it notifies until it is heard.
    let told = async {
        loop {
            fleet
                .db
                .execute("mw_worker", "SELECT pg_notify('mw_work', '')")
                .await
                .expect("it is told");
        }
    };
    let heard = async {
        tokio::select! { () = hints.wait(HOUR) => {}, () = told => {} }
    };
    timeout(LIMIT, heard).await.expect("the first hint arrives");
    for round in ["while it worked", "and once more"] {
        fleet
            .queue_operation(OperationKind::Precheck, json!({}))
            .await;
        timeout(LIMIT, hints.wait(HOUR))
            .await
            .unwrap_or_else(|_| panic!("a hint arrives, {round}"));
        fleet.run_due().await;
    }
}
