//! What can be typed about webhooks.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum WebhookCommand {
    /// All of them, without their secrets.
    List,
    /// Make a webhook; the secret that messages are signed with is printed once.
    Create {
        /// What to call it: a DNS label.
        name: String,
        /// Where messages go: an https address.
        #[arg(long)]
        url: String,
        /// Which kinds of events, for example upgrade.* or cluster.unreachable. Repeatable; everything by default.
        #[arg(long = "kind", default_value = "*")]
        kinds: Vec<String>,
    },
    /// Change where messages go and which, or switch a webhook on or off.
    Change {
        /// Its name or id.
        webhook: String,
        /// Where messages go.
        #[arg(long)]
        url: Option<String>,
        /// Which kinds of events; replaces all of them. Repeatable.
        #[arg(long = "kind")]
        kinds: Vec<String>,
        /// Whether anything is sent.
        #[arg(long)]
        enabled: Option<bool>,
    },
    /// Give a webhook another secret, which is printed once.
    Rotate {
        /// Its name or id.
        webhook: String,
        /// For how many seconds messages are signed with the former secret as well.
        #[arg(long, default_value_t = 3600)]
        overlap_seconds: u32,
    },
    /// Send a test message.
    Test {
        /// Its name or id.
        webhook: String,
    },
    /// What was and is to be sent to a webhook, newest first.
    Deliveries {
        /// Its name or id.
        webhook: String,
    },
    /// Send a message again.
    Redeliver {
        /// Its name or id.
        webhook: String,
        /// The number of the event.
        seq: i64,
    },
    /// Delete a webhook with everything that was to be sent to it.
    Delete {
        /// Its name or id.
        webhook: String,
    },
}
