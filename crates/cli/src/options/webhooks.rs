//! Declares the arguments of the commands on webhooks.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum WebhookCommand {
    /// List the webhooks, without their secrets.
    List,
    /// Create a webhook. The secret that messages are signed with is printed once.
    Create {
        /// Name of the webhook: a DNS label.
        name: String,
        /// Address that messages are sent to, with https.
        #[arg(long)]
        url: String,
        /// Kind of events to send, for example upgrade.* or cluster.unreachable (repeatable); all
        /// events by default.
        #[arg(long = "kind", default_value = "*")]
        kinds: Vec<String>,
    },
    /// Change the address or the kinds of events of a webhook, or switch it on or off.
    Change {
        /// Name or id of the webhook.
        webhook: String,
        /// New address that messages are sent to.
        #[arg(long)]
        url: Option<String>,
        /// Kind of events to send (repeatable). Given kinds replace all former ones.
        #[arg(long = "kind")]
        kinds: Vec<String>,
        /// With true, messages are sent; with false, none are.
        #[arg(long)]
        enabled: Option<bool>,
    },
    /// Give a webhook a new secret, which is printed once.
    Rotate {
        /// Name or id of the webhook.
        webhook: String,
        /// Seconds that messages are signed with the former secret as well, from 0 to 604800 (7
        /// days).
        #[arg(long, default_value_t = 3600)]
        overlap_seconds: u32,
    },
    /// Send a test message to a webhook.
    Test {
        /// Name or id of the webhook.
        webhook: String,
    },
    /// List the deliveries to a webhook, done and pending, newest first.
    Deliveries {
        /// Name or id of the webhook.
        webhook: String,
    },
    /// Send the message of an event again.
    Redeliver {
        /// Name or id of the webhook.
        webhook: String,
        /// Number of the event, from `webhook deliveries`.
        seq: i64,
    },
    /// Delete a webhook with its pending deliveries.
    Delete {
        /// Name or id of the webhook.
        webhook: String,
    },
}
