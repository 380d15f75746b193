//! Handles requests for the events of a tenant, as a list and as a stream of server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::Query;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use jiff::{SignedDuration, Timestamp};
use meshwright_model::ids::UpgradeId;
use meshwright_model::problem::ProblemCode;
use meshwright_store::{CursorStatus, Session};
use meshwright_wire::EventList;
use serde::Deserialize;

use crate::error::{ApiError, Result};
use crate::request::caller::{Authenticated, Caller};
use crate::request::params::parse_id;
use crate::resources::views;

/// Maximum number of events that one read of the database returns.
const EVENTS_PER_READ: i64 = 200;
/// Time after which a stream checks again that its caller is authorized. A caller whose access was
/// revoked gets events for this long at most.
const REAUTHORIZATION_INTERVAL: SignedDuration = SignedDuration::from_secs(30);
/// Pause of a stream between two reads that found no events.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// Query of the list of events: the number to continue after, and the upgrade to show.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventQuery {
    #[serde(default)]
    after: i64,
    upgrade_id: Option<String>,
}

/// List or follow events
///
/// Returns events from the oldest to the newest, starting after the number `after`. With `Accept:
/// text/event-stream` the answer is a stream that does not end; the header `Last-Event-ID` resumes
/// it on any replica without a gap. Events are kept for 30 days. A list that resumes further back
/// is refused, and a stream sends the event `reset`. The same happens with a number that no event
/// has had, which occurs after a backup was restored.
#[utoipa::path(get, path = "/v1/events", operation_id = "listEvents", tag = "events",
    params(("after" = Option<i64>, Query), ("upgrade_id" = Option<String>, Query), ("Last-Event-ID" = Option<i64>, Header)),
    responses((status = 200, body = EventList)))]
pub(crate) async fn list_events(
    Authenticated(caller, database): Authenticated,
    Query(from): Query<EventQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let upgrade: Option<UpgradeId> = from
        .upgrade_id
        .map(|text| parse_id(&text, "upgrade"))
        .transpose()?;
    let header = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or_default())
    };
    let resumed = header("last-event-id").map(str::parse).transpose();
    let resumed: Option<i64> =
        resumed.map_err(|_| ApiError::invalid_field("Last-Event-ID", "the number of an event"))?;
    let after = resumed.unwrap_or(from.after);
    if after < 0 {
        let field = if resumed.is_some() {
            "Last-Event-ID"
        } else {
            "after"
        };
        return Err(ApiError::invalid_field(
            field,
            "the number of an event, or 0 for the oldest that is kept",
        ));
    }
    if header(header::ACCEPT.as_str()).is_some_and(|accept| accept.contains("text/event-stream")) {
        let mut tx = database.begin_read().await?;
        let cursor = tx.events().check_cursor(after).await?;
        return Ok(
            stream_events(caller, tx.rollback_into_session(), after, upgrade, cursor)
                .into_response(),
        );
    }
    let mut tx = database.begin_read().await?;
    match tx.events().check_cursor(after).await? {
        CursorStatus::Retained => {}
        CursorStatus::Expired => return Err(events_expired()),
        CursorStatus::Ahead { last } => return Err(cursor_ahead(last)),
    }
    let found = tx
        .events()
        .list_events_after(&caller.access_filter(), after, upgrade, EVENTS_PER_READ)
        .await?;
    let items: Vec<meshwright_wire::Event> = found.into_iter().map(views::event).collect();
    let full = i64::try_from(items.len()) == Ok(EVENTS_PER_READ);
    let next_page_token = items
        .last()
        .filter(|_| full)
        .map(|last| last.seq.to_string());
    Ok(Json(EventList {
        items,
        next_page_token,
    })
    .into_response())
}

/// Builds the problem for a cursor that is older than the oldest event that is kept.
fn events_expired() -> ApiError {
    let days = meshwright_store::EVENT_RETENTION.as_hours() / 24;
    ApiError::new(
        StatusCode::GONE,
        ProblemCode::EventsExpired,
        format!("Events after this number are gone: they are kept for {days} days."),
        "List what there is, and follow events from the number 0 again, which is the oldest that is kept.",
    )
}

/// Builds the problem for a cursor beyond the newest event. The caller saw those events before a
/// backup was restored.
fn cursor_ahead(last: i64) -> ApiError {
    ApiError::new(
        StatusCode::GONE,
        ProblemCode::EventsExpired,
        format!(
            "No event has this number; the last one is {last}. A backup of the service was restored."
        ),
        format!("List what there is, and follow events from the number {last}."),
    )
}

/// State of one stream of events.
struct EventStream {
    caller: Caller,
    session: Session,
    /// Time at which the caller's authorization was checked last.
    authorized_at: Timestamp,
    after: i64,
    /// True if the stream must tell the client that events are missing.
    send_reset: bool,
    buffered: Vec<meshwright_wire::Event>,
}

/// Next item of a stream.
enum StreamItem {
    Event(meshwright_wire::Event),
    /// Tells the client that events are missing, so that it lists the resources again.
    Reset,
}

impl EventStream {
    /// Waits for the next item, and returns it with the stream's new state. Returns `None` when the
    /// caller is no longer authorized, which ends the stream.
    async fn next_item(mut self, upgrade: Option<UpgradeId>) -> Option<(StreamItem, Self)> {
        loop {
            if std::mem::take(&mut self.send_reset) {
                return Some((StreamItem::Reset, self));
            }
            if let Some(event) = self.buffered.pop() {
                self.after = event.seq;
                return Some((StreamItem::Event(event), self));
            }
            let now = self.caller.app.clock.now();
            // If the database does not answer, the next turn of the loop tries again.
            if let Ok(mut tx) = self.session.begin().await {
                if now.duration_since(self.authorized_at) >= REAUTHORIZATION_INTERVAL {
                    self.caller = self.caller.reload_grants(&mut tx).await.ok()?;
                    self.authorized_at = now;
                    // `Expired` is no error here: with a filter, the last number that a reader saw
                    // can be older than the oldest event that is kept although the reader missed
                    // nothing. A number beyond the newest event can only come from a restored
                    // backup.
                    if let Ok(cursor @ CursorStatus::Ahead { .. }) =
                        tx.events().check_cursor(self.after).await
                    {
                        drop(tx);
                        self.apply_cursor(cursor);
                        continue;
                    }
                }
                if let Ok(found) = tx
                    .events()
                    .list_events_after(
                        &self.caller.access_filter(),
                        self.after,
                        upgrade,
                        EVENTS_PER_READ,
                    )
                    .await
                {
                    self.buffered = found.into_iter().map(views::event).rev().collect();
                }
            }
            if self.buffered.is_empty() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
    }

    /// Takes over what the cursor says: whether events are missing, and where reading continues.
    fn apply_cursor(&mut self, cursor: CursorStatus) {
        self.send_reset = cursor != CursorStatus::Retained;
        if let CursorStatus::Ahead { last } = cursor {
            self.after = last;
        }
    }
}

/// Answers with a stream of server-sent events. A subscriber is only a cursor, so nothing is stored
/// for it between two reads. A subscriber that was away for too long, or whose event log was
/// replaced by a restored backup, gets the event `reset`. It then lists the resources, and the
/// stream continues with the events that follow.
fn stream_events(
    caller: Caller,
    session: Session,
    after: i64,
    upgrade: Option<UpgradeId>,
    cursor: CursorStatus,
) -> impl IntoResponse {
    let checked = caller.app.clock.now();
    let mut follower = EventStream {
        caller,
        session,
        authorized_at: checked,
        after,
        send_reset: false,
        buffered: Vec::new(),
    };
    follower.apply_cursor(cursor);
    let events = stream::unfold(follower, move |follower| async move {
        let (next, follower) = follower.next_item(upgrade).await?;
        let event = match next {
            // The client resumes with the last id that it got, so this id replaces the one that is
            // not valid.
            StreamItem::Reset => Event::default()
                .id(follower.after.to_string())
                .event("reset")
                .data("{}"),
            StreamItem::Event(next) => Event::default()
                .id(next.seq.to_string())
                .event(next.kind.as_str())
                .data(serde_json::to_string(&next).unwrap_or_default()),
        };
        Some((Ok::<Event, Infallible>(event), follower))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}
