//! Runs the commands on webhooks.

use meshwright_wire::{
    ChangeWebhook, CreateWebhook, Delivery, RotateWebhookSecret, Webhook as WebhookView,
};
use serde_json::json;

use crate::client::Client;
use crate::options::{OutputFormat, WebhookCommand};
use crate::output::{or_dash, print_line, print_value};
use crate::{Failure, Result};

const WEBHOOK_COLUMNS: [&str; 6] = ["name", "state", "kinds", "url", "last arrived", "id"];
const DELIVERY_COLUMNS: [&str; 7] = [
    "event", "kind", "state", "attempts", "last", "answer", "next",
];

fn format_time(time: Option<jiff::Timestamp>) -> String {
    or_dash(time.map(|time| time.to_string()).as_ref())
}

fn webhook_row(webhook: &WebhookView) -> Vec<String> {
    let state = match (&webhook.stopped, webhook.enabled) {
        (Some(why), _) => why.to_string(),
        (None, true) => "on".into(),
        (None, false) => "off".into(),
    };
    vec![
        webhook.name.clone(),
        state,
        webhook.kinds.join(","),
        webhook.url.clone(),
        format_time(webhook.delivered_at),
        webhook.id.clone(),
    ]
}

fn delivery_row(delivery: &Delivery) -> Vec<String> {
    let answer = match (delivery.last_status, &delivery.last_error) {
        (Some(status), _) => Some(status.to_string()),
        (None, error) => error.as_ref().map(ToString::to_string),
    };
    vec![
        delivery.seq.to_string(),
        delivery.kind.to_string(),
        delivery.state.to_string(),
        delivery.attempts.to_string(),
        format_time(delivery.last_at),
        or_dash(answer.as_ref()),
        format_time(delivery.next_at),
    ]
}

async fn resolve_webhook_path(client: &Client, named: &str) -> Result<String> {
    let all = client.list_all::<WebhookView>("/v1/webhooks").await?;
    let found = all
        .items
        .iter()
        .find(|webhook| webhook.id == named || webhook.name == named);
    let found = found.ok_or_else(|| Failure::new(5, format!("There is no webhook {named}.")))?;
    Ok(format!("/v1/webhooks/{}", found.id))
}

/// Prints the secret of a webhook. The service shows it in this answer only.
fn print_webhook_secret(format: OutputFormat, webhook: &WebhookView) -> Result<()> {
    print_value(format, webhook, &["id", "secret, shown once"], |webhook| {
        vec![vec![webhook.id.clone(), or_dash(webhook.secret.as_ref())]]
    })
}

fn print_webhook(format: OutputFormat, webhook: &WebhookView) -> Result<()> {
    print_value(format, webhook, &WEBHOOK_COLUMNS, |webhook| {
        vec![webhook_row(webhook)]
    })
}

pub(crate) async fn run_webhook_command(
    client: &Client,
    format: OutputFormat,
    command: WebhookCommand,
) -> Result<()> {
    match command {
        WebhookCommand::List => list_webhooks(client, format).await,
        WebhookCommand::Create { name, url, kinds } => {
            let body = CreateWebhook {
                name,
                url,
                kinds,
                enabled: true,
            };
            print_webhook_secret(format, &client.post("/v1/webhooks", &body, None).await?)
        }
        WebhookCommand::Change {
            webhook,
            url,
            kinds,
            enabled,
        } => {
            let body = ChangeWebhook {
                url,
                kinds: Some(kinds).filter(|kinds| !kinds.is_empty()),
                enabled,
            };
            let path = resolve_webhook_path(client, &webhook).await?;
            print_webhook(format, &client.patch(&path, &body).await?)
        }
        WebhookCommand::Rotate {
            webhook,
            overlap_seconds,
        } => rotate_secret(client, format, &webhook, overlap_seconds).await,
        WebhookCommand::Test { webhook } => send_test_event(client, &webhook).await,
        WebhookCommand::Deliveries { webhook } => list_deliveries(client, format, &webhook).await,
        WebhookCommand::Redeliver { webhook, seq } => {
            requeue_delivery(client, format, &webhook, seq).await
        }
        WebhookCommand::Delete { webhook } => {
            let path = resolve_webhook_path(client, &webhook).await?;
            client.delete(&path).await?;
            print_line("deleted")
        }
    }
}

async fn list_webhooks(client: &Client, format: OutputFormat) -> Result<()> {
    let list = client.list_all::<WebhookView>("/v1/webhooks").await?;
    print_value(format, &list, &WEBHOOK_COLUMNS, |list| {
        list.items.iter().map(webhook_row).collect()
    })
}

async fn rotate_secret(
    client: &Client,
    format: OutputFormat,
    webhook: &str,
    overlap_seconds: u32,
) -> Result<()> {
    let path = format!("{}/rotate", resolve_webhook_path(client, webhook).await?);
    let body = RotateWebhookSecret { overlap_seconds };
    print_webhook_secret(format, &client.post(&path, &body, None).await?)
}

async fn send_test_event(client: &Client, webhook: &str) -> Result<()> {
    let path = format!("{}/test", resolve_webhook_path(client, webhook).await?);
    let _: WebhookView = client.post(&path, &json!({}), None).await?;
    print_line(&format!(
        "on its way; see: meshwright webhook deliveries {webhook}"
    ))
}

async fn list_deliveries(client: &Client, format: OutputFormat, webhook: &str) -> Result<()> {
    let path = resolve_webhook_path(client, webhook).await?;
    let list = client
        .list_all::<Delivery>(&format!("{path}/deliveries"))
        .await?;
    print_value(format, &list, &DELIVERY_COLUMNS, |list| {
        list.items.iter().map(delivery_row).collect()
    })
}

async fn requeue_delivery(
    client: &Client,
    format: OutputFormat,
    webhook: &str,
    seq: i64,
) -> Result<()> {
    let path = resolve_webhook_path(client, webhook).await?;
    let path = format!("{path}/deliveries/{seq}/redeliver");
    let delivery: Delivery = client.post(&path, &json!({}), None).await?;
    print_value(format, &delivery, &DELIVERY_COLUMNS, |delivery| {
        vec![delivery_row(delivery)]
    })
}
