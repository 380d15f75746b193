//! Decides which events a webhook gets, and when a failed delivery is tried again.

use std::time::Duration;

/// Kinds of events that a webhook can ask for. It can also ask for all kinds (`*`), or for all
/// kinds about one resource (`upgrade.*`).
pub const EVENT_KINDS: [&str; 10] = [
    "cluster.credential_expires_soon",
    "cluster.credential_renewed",
    "cluster.reachable",
    "cluster.unreachable",
    "mesh.tags_removed",
    "operation.progress",
    "operation.state",
    "upgrade.state",
    "webhook.disabled",
    TEST_EVENT_KIND,
];
/// Kind of the test event, which a user sends to one webhook to see whether it arrives.
pub const TEST_EVENT_KIND: &str = "webhook.test";
/// Most kinds that one webhook may list.
pub const MAX_EVENT_KINDS: usize = 20;
/// Delays between the attempts of a delivery, as Standard Webhooks advises: more than three days in
/// all.
const DELIVERY_RETRY_DELAYS: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(14),
    Duration::from_hours(20),
    Duration::from_hours(24),
];

/// Error for a text that names no kind of event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no event is of kind {0}: write *, a kind such as upgrade.state, or everything about something such as upgrade.*"
)]
pub struct UnknownEventKind(pub String);

/// Parses the kind of events that a webhook asks for.
///
/// # Errors
/// Returns [`UnknownEventKind`] if no event would ever match the text.
pub fn parse_event_kind(text: &str) -> Result<String, UnknownEventKind> {
    let known = EVENT_KINDS
        .iter()
        .any(|kind| matches_event_kind(text, kind));
    if known {
        Ok(text.to_owned())
    } else {
        Err(UnknownEventKind(text.chars().take(64).collect()))
    }
}

/// Returns true if a webhook that asks for `wanted` gets an event of this kind.
pub fn matches_event_kind(wanted: &str, kind: &str) -> bool {
    let about = || {
        wanted
            .strip_suffix(".*")
            .is_some_and(|about| kind.split('.').next() == Some(about))
    };
    wanted == "*" || wanted == kind || about()
}

/// Returns the delay before the next attempt, after this many failed ones; `None` after the last
/// attempt.
pub fn delivery_retry_delay(attempts: i32) -> Option<Duration> {
    usize::try_from(attempts.checked_sub(1)?)
        .ok()
        .and_then(|past| DELIVERY_RETRY_DELAYS.get(past))
        .copied()
}

/// Returns the id of a message, which is the same in each attempt to send it.
pub fn message_id(webhook: crate::ids::WebhookId, seq: i64) -> String {
    format!(
        "msg_{}_{seq}",
        webhook.to_string().trim_start_matches("webhook_")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named_one_by_one_or_together() {
        for (wanted, kind, expected) in [
            ("*", "upgrade.state", true),
            ("upgrade.*", "upgrade.state", true),
            ("upgrade.*", "upgrades.state", false),
            ("upgrade.state", "upgrade.state", true),
            ("upgrade", "upgrade.state", false),
            ("operation.*", "upgrade.state", false),
            (".*", "upgrade.state", false),
        ] {
            assert_eq!(
                matches_event_kind(wanted, kind),
                expected,
                "{wanted} and {kind}"
            );
        }
        for text in ["*", "upgrade.*", "cluster.unreachable"] {
            assert_eq!(parse_event_kind(text).as_deref(), Ok(text));
        }
        for text in ["", "upgrade", "upgrade.", "*.state", "nothing.*"] {
            assert_eq!(parse_event_kind(text), Err(UnknownEventKind(text.into())));
        }
    }

    #[test]
    fn ten_attempts_are_made_over_more_than_three_days() {
        let rests: Vec<Duration> = (1..).map_while(delivery_retry_delay).collect();
        assert_eq!(rests.len(), 9);
        assert!(rests.iter().sum::<Duration>() > Duration::from_hours(72));
        assert!(rests.is_sorted());
        assert_eq!(
            [
                delivery_retry_delay(0),
                delivery_retry_delay(-1),
                delivery_retry_delay(i32::MIN),
                delivery_retry_delay(10)
            ],
            [None; 4]
        );
    }
}
