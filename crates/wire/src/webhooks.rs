//! Webhooks: events that are sent to an address.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A webhook to make.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWebhook {
    /// Its name: a DNS label.
    #[schema(example = "on-call")]
    pub name: String,
    /// Where messages go: an https address.
    #[schema(example = "https://hooks.example.com/meshwright")]
    pub url: String,
    /// Which kinds of events: `*` for all, `upgrade.*` for all about something, `upgrade.state` for one.
    #[serde(default = "default_kinds")]
    #[schema(default = json!(["*"]))]
    pub kinds: Vec<String>,
    /// Whether anything is sent.
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

/// What to change of a webhook; what is left out stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeWebhook {
    /// Where messages go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Which kinds of events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<String>>,
    /// Whether anything is sent. Switched on, what waits is sent at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// How the secret of a webhook is rotated.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateWebhookSecret {
    /// For how many seconds messages are signed with the former secret as well.
    #[serde(default = "crate::keys::default_overlap_seconds", deserialize_with = "crate::whole::deserialize_u32")]
    #[schema(default = 3600, maximum = 604_800)]
    pub overlap_seconds: u32,
}

/// An address that events are sent to, as Standard Webhooks describes it: each message is signed with HMAC-SHA256 over
/// `webhook-id.webhook-timestamp.body`, and tried ten times over three days until it is answered with a 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where messages go.
    pub url: String,
    /// Which kinds of events.
    pub kinds: Vec<String>,
    /// Whether anything is sent.
    pub enabled: bool,
    /// Why we have switched it off: `gone` when it was answered with 410, `failing` when a message was given up.
    pub stopped: Option<String>,
    /// What messages are signed with: `whsec_` and 32 bytes in base64. Only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Until when they are signed with the former secret as well.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub former_until: Option<Timestamp>,
    /// When something last arrived.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub delivered_at: Option<Timestamp>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// One event on its way to one webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// The number of the event.
    pub seq: i64,
    /// The message's own name, the same in every attempt.
    pub message_id: String,
    /// Which kind of event.
    pub kind: String,
    /// `pending`, `delivered` or `failed`.
    pub state: String,
    /// How often it was tried.
    pub attempts: i32,
    /// When it is tried next.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_at: Option<Timestamp>,
    /// When it was last tried.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_at: Option<Timestamp>,
    /// With which status that was answered.
    pub last_status: Option<i32>,
    /// Why it was not: `address_refused`, `unreachable` or `too_slow`.
    pub last_error: Option<String>,
}
