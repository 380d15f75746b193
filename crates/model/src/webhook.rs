//! Webhooks: which events go where, and how often they are tried.

use std::time::Duration;

/// Kinds of events that can be asked for, besides everything (`*`) and everything about something (`upgrade.*`).
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
/// The event that is sent to one webhook because somebody wants to see whether it arrives.
pub const TEST_EVENT_KIND: &str = "webhook.test";
/// The most kinds that one webhook names.
pub const MAX_EVENT_KINDS: usize = 20;
/// The rests between the attempts, as Standard Webhooks advises: more than three days in all.
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

/// A text that names no kind of event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no event is of kind {0}: write *, a kind such as upgrade.state, or everything about something such as upgrade.*"
)]
pub struct UnknownEventKind(pub String);

/// Reads what somebody wants to be told of.
///
/// # Errors
/// No event would ever match.
pub fn parse_event_kind(text: &str) -> Result<String, UnknownEventKind> {
    let known = EVENT_KINDS.iter().any(|kind| matches_event_kind(text, kind));
    if known { Ok(text.to_owned()) } else { Err(UnknownEventKind(text.chars().take(64).collect())) }
}

/// Whether an event of this kind is wanted by this text.
pub fn matches_event_kind(wanted: &str, kind: &str) -> bool {
    let about = || wanted.strip_suffix(".*").is_some_and(|about| kind.split('.').next() == Some(about));
    wanted == "*" || wanted == kind || about()
}

/// How long to rest after so many attempts in vain; `None` when it is over.
pub fn delivery_retry_delay(attempts: i32) -> Option<Duration> {
    usize::try_from(attempts.checked_sub(1)?).ok().and_then(|past| DELIVERY_RETRY_DELAYS.get(past)).copied()
}

/// The name of a message, which stays the same however often it is sent.
pub fn message_id(webhook: crate::ids::WebhookId, seq: i64) -> String {
    format!("msg_{}_{seq}", webhook.to_string().trim_start_matches("webhook_"))
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
            assert_eq!(matches_event_kind(wanted, kind), expected, "{wanted} and {kind}");
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
        assert_eq!([delivery_retry_delay(0), delivery_retry_delay(-1), delivery_retry_delay(i32::MIN), delivery_retry_delay(10)], [None; 4]);
    }
}
