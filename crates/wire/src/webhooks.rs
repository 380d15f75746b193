//! Bodies about webhooks, the addresses that events are sent to.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{DeliveryError, DeliveryState, EventKind, WebhookStop};

/// Request to create a webhook.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWebhook {
    /// Name of the webhook: a DNS label of 1 to 63 characters.
    #[schema(example = "on-call")]
    pub name: String,
    /// Address that messages are sent to, at most 2048 bytes, with https. Plain http is allowed
    /// only within networks that the operator has listed.
    #[schema(example = "https://hooks.example.com/meshwright")]
    pub url: String,
    /// Kinds of events to send, 1 to 20: `*` for all events, `upgrade.*` for all events about
    /// upgrades, `upgrade.state` for one kind.
    #[serde(default = "default_kinds")]
    #[schema(default = json!(["*"]))]
    pub kinds: Vec<String>,
    /// True if messages are sent.
    #[serde(default = "default_enabled")]
    #[schema(default = true)]
    pub enabled: bool,
}

fn default_kinds() -> Vec<String> {
    vec!["*".into()]
}

fn default_enabled() -> bool {
    true
}

/// Changes to a webhook. Fields that are left out stay as they are.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeWebhook {
    /// New address that messages are sent to, at most 2048 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// New kinds of events to send, 1 to 20, which replace all former ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<String>>,
    /// True if messages are sent. When a webhook is enabled, waiting messages are sent at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// Request to give a webhook a new secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateWebhookSecret {
    /// Seconds that messages are signed with the former secret as well, from 0 to 604800 (7 days).
    #[serde(
        default = "crate::keys::default_overlap_seconds",
        deserialize_with = "crate::integer::deserialize_u32"
    )]
    #[schema(default = 3600, maximum = 604_800)]
    pub overlap_seconds: u32,
}

/// Address that events are sent to, as in Standard Webhooks. Each message is signed with
/// HMAC-SHA256 over `webhook-id.webhook-timestamp.body`, and is sent up to ten times over three
/// days until it is answered with a 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// Id of the webhook.
    pub id: String,
    /// Name of the webhook.
    pub name: String,
    /// Address that messages are sent to.
    pub url: String,
    /// Kinds of events to send: `*` for all events, `upgrade.*` for all events about upgrades,
    /// `upgrade.state` for one kind.
    pub kinds: Vec<String>,
    /// True if messages are sent.
    pub enabled: bool,
    /// Reason why the service has switched the webhook off: `gone` (it answered 410) or `failing`
    /// (all attempts for a message failed); null if it has not.
    #[schema(inline)]
    pub stopped: Option<WebhookStop>,
    /// Secret that messages are signed with: `whsec_` and 32 bytes in base64. It is shown once, in
    /// the answer that created or rotated it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Time until which messages are signed with the former secret as well; null if there is none.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub former_until: Option<Timestamp>,
    /// Time of the last successful delivery; null if there was none.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub delivered_at: Option<Timestamp>,
    /// Time at which the webhook was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Delivery of one event to one webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// Number of the event.
    pub seq: i64,
    /// Id of the message, the same in every attempt.
    pub message_id: String,
    /// Kind of the event.
    #[schema(inline)]
    pub kind: EventKind,
    /// State of the delivery: `pending`, `delivered` or `failed`.
    #[schema(inline)]
    pub state: DeliveryState,
    /// Number of attempts so far.
    pub attempts: i32,
    /// Time of the next attempt; null if there is none.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_at: Option<Timestamp>,
    /// Time of the last attempt; null if there was none.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_at: Option<Timestamp>,
    /// HTTP status of the answer to the last attempt; null if there was no answer.
    pub last_status: Option<i32>,
    /// Reason why the last attempt had no answer: `address_refused`, `unreachable` or `too_slow`;
    /// null if it had one.
    #[schema(inline)]
    pub last_error: Option<DeliveryError>,
}
