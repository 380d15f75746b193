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
use store::{Cursor, Session};
use wire::EventList;

use crate::auth::{Asked, Caller};
use crate::fields::id;
use crate::problem::{ApiError, Result};
use crate::views;

/// Events of one read.
const BATCH: i64 = 200;
/// A stream looks so often whether its caller may stay: what was revoked follows nobody for longer.
const STAY: SignedDuration = SignedDuration::from_secs(30);
/// How often a stream looks for more.
const LOOK: Duration = Duration::from_millis(300);

/// Where to begin, and what about.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct From {
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
    Asked(caller, database): Asked,
    Query(from): Query<From>,
    headers: HeaderMap,
) -> Result<Response> {
    let upgrade: Option<UpgradeId> = from.upgrade_id.map(|text| id(&text, "upgrade")).transpose()?;
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let resumed = header("last-event-id").map(str::parse).transpose();
    let resumed: Option<i64> = resumed.map_err(|_| ApiError::field("Last-Event-ID", "the number of an event"))?;
    let after = resumed.unwrap_or(from.after);
    if after < 0 {
        let field = if resumed.is_some() { "Last-Event-ID" } else { "after" };
        return Err(ApiError::field(field, "the number of an event, or 0 for the oldest that is kept"));
    }
    if header(header::ACCEPT.as_str()).is_some_and(|accept| accept.contains("text/event-stream")) {
        let mut tx = database.begin().await?;
        let cursor = tx.cursor(after).await?;
        return Ok(follow(caller, tx.rest(), after, upgrade, cursor).into_response());
    }
    let mut tx = database.begin().await?;
    match tx.cursor(after).await? {
        Cursor::Kept => {}
        Cursor::Expired => return Err(expired()),
        Cursor::Ahead { last } => return Err(ahead(last)),
    }
    let found = tx.events_after(&caller.reach(), after, upgrade, BATCH).await?;
    let items: Vec<wire::Event> = found.into_iter().map(views::event).collect();
    let full = i64::try_from(items.len()) == Ok(BATCH);
    let next_page_token = items.last().filter(|_| full).map(|last| last.seq.to_string());
    Ok(Json(EventList { items, next_page_token }).into_response())
}

/// The caller was away for longer than events are kept.
fn expired() -> ApiError {
    let days = store::EVENTS_KEPT.as_hours() / 24;
    ApiError::new(
        StatusCode::GONE,
        "events_expired",
        format!("Events after this number are gone: they are kept for {days} days."),
        "List what there is, and follow events from the number 0 again, which is the oldest that is kept.",
    )
}

/// The caller has seen events of a log that is no longer there.
fn ahead(last: i64) -> ApiError {
    ApiError::new(
        StatusCode::GONE,
        "events_expired",
        format!("No event has this number; the last one is {last}. A backup of the service was restored."),
        format!("List what there is, and follow events from the number {last}."),
    )
}

/// Somebody who follows along.
struct Follower {
    caller: Caller,
    session: Session,
    /// When it was last looked whether they may stay.
    checked: Timestamp,
    after: i64,
    /// They are to be told that events are missing.
    reset: bool,
    ready: Vec<wire::Event>,
}

/// What a stream says next.
enum News {
    Event(wire::Event),
    /// Events are missing: list what there is.
    Reset,
}

impl Follower {
    /// The next event; nothing when they may not stay.
    async fn next(mut self, upgrade: Option<UpgradeId>) -> Option<(News, Self)> {
        loop {
            if std::mem::take(&mut self.reset) {
                return Some((News::Reset, self));
            }
            if let Some(event) = self.ready.pop() {
                self.after = event.seq;
                return Some((News::Event(event), self));
            }
            let now = self.caller.app.clock.now();
            // A database that fails for a moment is looked at again.
            if let Ok(mut tx) = self.session.begin().await {
                if now.duration_since(self.checked) >= STAY {
                    self.caller = self.caller.renewed(&mut tx).await.ok()?;
                    self.checked = now;
                    // A filter may keep a reader behind the oldest event without its missing anything; only a restore puts it
                    // ahead.
                    if let Ok(cursor @ Cursor::Ahead { .. }) = tx.cursor(self.after).await {
                        drop(tx);
                        self.see(cursor);
                        continue;
                    }
                }
                if let Ok(found) = tx.events_after(&self.caller.reach(), self.after, upgrade, BATCH).await {
                    self.ready = found.into_iter().map(views::event).rev().collect();
                }
            }
            if self.ready.is_empty() {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Goes on where the log can be read on.
    fn see(&mut self, cursor: Cursor) {
        self.reset = cursor != Cursor::Kept;
        if let Cursor::Ahead { last } = cursor {
            self.after = last;
        }
    }
}

/// A subscriber is a cursor: nothing is kept for it between two reads. One that was away for too long, or whose log was replaced
/// by a restored one, is told so by an event `reset`, lists what there is, and goes on with what follows.
fn follow(
    caller: Caller,
    session: Session,
    after: i64,
    upgrade: Option<UpgradeId>,
    cursor: Cursor,
) -> impl IntoResponse {
    let checked = caller.app.clock.now();
    let mut follower = Follower { caller, session, checked, after, reset: false, ready: Vec::new() };
    follower.see(cursor);
    let events = stream::unfold(follower, move |follower| async move {
        let (next, follower) = follower.next(upgrade).await?;
        let event = match next {
            // The id replaces the one that the client would resume with.
            News::Reset => Event::default().id(follower.after.to_string()).event("reset").data("{}"),
            News::Event(next) => Event::default()
                .id(next.seq.to_string())
                .event(next.kind.clone())
                .data(serde_json::to_string(&next).unwrap_or_default()),
        };
        Some((Ok::<Event, Infallible>(event), follower))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}
