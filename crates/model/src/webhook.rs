//! Decides which events a webhook gets, and when a failed delivery is tried again.

use std::time::Duration;

use crate::closed_set;

/// Kind of an event. A webhook can ask for one kind, for all kinds (`*`), or for all kinds about one
/// resource (`upgrade.*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Our credential of a cluster is in the last third of its lifetime.
    ClusterCredentialExpiresSoon,
    /// Our credential of a cluster was renewed.
    ClusterCredentialRenewed,
    /// A cluster answers again.
    ClusterReachable,
    /// A cluster does not answer, or refuses our credential.
    ClusterUnreachable,
    /// Tags of a mesh were removed from a member cluster.
    MeshTagsRemoved,
    /// A step of an operation made progress.
    OperationProgress,
    /// An operation has another state.
    OperationState,
    /// An upgrade has another state.
    UpgradeState,
    /// A webhook was switched off, because it does not accept messages.
    WebhookDisabled,
    /// Test event, which a user sends to one webhook to see whether it arrives.
    WebhookTest,
}

closed_set!(EventKind {
    ClusterCredentialExpiresSoon = "cluster.credential_expires_soon",
    ClusterCredentialRenewed = "cluster.credential_renewed",
    ClusterReachable = "cluster.reachable",
    ClusterUnreachable = "cluster.unreachable",
    MeshTagsRemoved = "mesh.tags_removed",
    OperationProgress = "operation.progress",
    OperationState = "operation.state",
    UpgradeState = "upgrade.state",
    WebhookDisabled = "webhook.disabled",
    WebhookTest = "webhook.test",
});

/// State of the delivery of one event to one webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// The delivery is due now or will be tried again.
    Pending,
    /// The webhook accepted the event.
    Delivered,
    /// All attempts failed, and the delivery was given up.
    Failed,
}

closed_set!(DeliveryState {
    Pending = "pending",
    Delivered = "delivered",
    Failed = "failed",
});

/// Reason why an attempt to deliver a message got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryError {
    /// The address of the webhook is not allowed.
    AddressRefused,
    /// The webhook did not answer in time.
    TooSlow,
    /// The webhook could not be reached.
    Unreachable,
}

closed_set!(DeliveryError {
    AddressRefused = "address_refused",
    TooSlow = "too_slow",
    Unreachable = "unreachable",
});

/// Reason why the service switched a webhook off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookStop {
    /// The webhook answered 410, with which it refuses all further messages.
    Gone,
    /// All attempts for a message failed.
    Failing,
}

closed_set!(WebhookStop {
    Gone = "gone",
    Failing = "failing",
});

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
    let known = EventKind::ALL
        .into_iter()
        .any(|kind| matches_event_kind(text, kind.as_str()));
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
