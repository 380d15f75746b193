//! What happened, as a list and as a stream.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::Query;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use jiff::{SignedDuration, Timestamp};
use model::ids::UpgradeId;
use serde::Deserialize;
use store::{CursorStatus, Session};
use wire::EventList;

use crate::auth::{Authenticated, Caller};
use crate::fields::parse_id;
use crate::problem::{ApiError, Result};
use crate::views;

/// Events of one read.
const EVENTS_PER_READ: i64 = 200;
/// A stream looks so often whether its caller may stay: what was revoked follows nobody for longer.
const REAUTHORIZATION_INTERVAL: SignedDuration = SignedDuration::from_secs(30);
/// How often a stream looks for more.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// Where to begin, and what about.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventQuery {
    #[serde(default)]
    after: i64,
    upgrade_id: Option<String>,
}

/// Follow events
///
/// Oldest first, after the number `after`. With `Accept: text/event-stream` the answer goes on for ever; `Last-Event-ID` resumes
/// it on any replica without a gap. Events are kept for 30 days: a list that resumes further back is refused, and a stream
/// sends the event `reset`. So it is with a number that no event has had, which is what a restored backup leaves behind.
#[utoipa::path(get, path = "/v1/events", operation_id = "listEvents", tag = "events",
    params(("after" = Option<i64>, Query), ("upgrade_id" = Option<String>, Query), ("Last-Event-ID" = Option<i64>, Header)),
    responses((status = 200, body = EventList)))]
pub(crate) async fn list_events(
    Authenticated(caller, database): Authenticated,
    Query(from): Query<EventQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let upgrade: Option<UpgradeId> = from.upgrade_id.map(|text| parse_id(&text, "upgrade")).transpose()?;
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let resumed = header("last-event-id").map(str::parse).transpose();
    let resumed: Option<i64> = resumed.map_err(|_| ApiError::invalid_field("Last-Event-ID", "the number of an event"))?;
    let after = resumed.unwrap_or(from.after);
    if after < 0 {
        let field = if resumed.is_some() { "Last-Event-ID" } else { "after" };
        return Err(ApiError::invalid_field(field, "the number of an event, or 0 for the oldest that is kept"));
    }
    if header(header::ACCEPT.as_str()).is_some_and(|accept| accept.contains("text/event-stream")) {
        let mut tx = database.begin_read().await?;
        let cursor = tx.check_cursor(after).await?;
        return Ok(stream_events(caller, tx.rollback_into_session(), after, upgrade, cursor).into_response());
    }
    let mut tx = database.begin_read().await?;
    match tx.check_cursor(after).await? {
        CursorStatus::Retained => {}
        CursorStatus::Expired => return Err(events_expired()),
        CursorStatus::Ahead { last } => return Err(cursor_ahead(last)),
    }
    let found = tx.list_events_after(&caller.access_filter(), after, upgrade, EVENTS_PER_READ).await?;
    let items: Vec<wire::Event> = found.into_iter().map(views::event).collect();
    let full = i64::try_from(items.len()) == Ok(EVENTS_PER_READ);
    let next_page_token = items.last().filter(|_| full).map(|last| last.seq.to_string());
    Ok(Json(EventList { items, next_page_token }).into_response())
}

/// The caller was away for longer than events are kept.
fn events_expired() -> ApiError {
    let days = store::EVENTS_KEPT.as_hours() / 24;
    ApiError::new(
        StatusCode::GONE,
        "events_expired",
        format!("Events after this number are gone: they are kept for {days} days."),
        "List what there is, and follow events from the number 0 again, which is the oldest that is kept.",
    )
}

/// The caller has seen events of a log that is no longer there.
fn cursor_ahead(last: i64) -> ApiError {
    ApiError::new(
        StatusCode::GONE,
        "events_expired",
        format!("No event has this number; the last one is {last}. A backup of the service was restored."),
        format!("List what there is, and follow events from the number {last}."),
    )
}

/// Somebody who follows along.
struct EventStream {
    caller: Caller,
    session: Session,
    /// When it was last looked whether they may stay.
    authorized_at: Timestamp,
    after: i64,
    /// They are to be told that events are missing.
    send_reset: bool,
    buffered: Vec<wire::Event>,
}

/// What a stream says next.
enum StreamItem {
    Event(wire::Event),
    /// Events are missing: list what there is.
    Reset,
}

impl EventStream {
    /// The next event; nothing when they may not stay.
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
            // A database that fails for a moment is looked at again.
            if let Ok(mut tx) = self.session.begin().await {
                if now.duration_since(self.authorized_at) >= REAUTHORIZATION_INTERVAL {
                    self.caller = self.caller.reload_grants(&mut tx).await.ok()?;
                    self.authorized_at = now;
                    // A filter may keep a reader behind the oldest event without its missing anything; only a restore puts it
                    // ahead.
                    if let Ok(cursor @ CursorStatus::Ahead { .. }) = tx.check_cursor(self.after).await {
                        drop(tx);
                        self.apply_cursor(cursor);
                        continue;
                    }
                }
                if let Ok(found) = tx.list_events_after(&self.caller.access_filter(), self.after, upgrade, EVENTS_PER_READ).await {
                    self.buffered = found.into_iter().map(views::event).rev().collect();
                }
            }
            if self.buffered.is_empty() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
    }

    /// Goes on where the log can be read on.
    fn apply_cursor(&mut self, cursor: CursorStatus) {
        self.send_reset = cursor != CursorStatus::Retained;
        if let CursorStatus::Ahead { last } = cursor {
            self.after = last;
        }
    }
}

/// A subscriber is a cursor: nothing is kept for it between two reads. One that was away for too long, or whose log was replaced
/// by a restored one, is told so by an event `reset`, lists what there is, and goes on with what follows.
fn stream_events(
    caller: Caller,
    session: Session,
    after: i64,
    upgrade: Option<UpgradeId>,
    cursor: CursorStatus,
) -> impl IntoResponse {
    let checked = caller.app.clock.now();
    let mut follower = EventStream { caller, session, authorized_at: checked, after, send_reset: false, buffered: Vec::new() };
    follower.apply_cursor(cursor);
    let events = stream::unfold(follower, move |follower| async move {
        let (next, follower) = follower.next_item(upgrade).await?;
        let event = match next {
            // The id replaces the one that the client would resume with.
            StreamItem::Reset => Event::default().id(follower.after.to_string()).event("reset").data("{}"),
            StreamItem::Event(next) => Event::default()
                .id(next.seq.to_string())
                .event(next.kind.clone())
                .data(serde_json::to_string(&next).unwrap_or_default()),
        };
        Some((Ok::<Event, Infallible>(event), follower))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}
