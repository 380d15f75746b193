//! Webhooks.

use serde_json::json;
use wire::{ChangeWebhook, CreateWebhook, Delivery, RotateWebhookSecret, Webhook as View};

use crate::client::Client;
use crate::options::{Format, Webhook};
use crate::output::{or_dash, print, say};
use crate::{Failure, Result};

const WEBHOOK: [&str; 6] = ["name", "state", "kinds", "url", "last arrived", "id"];
const DELIVERY: [&str; 7] = ["event", "kind", "state", "attempts", "last", "answer", "next"];

fn time(time: Option<jiff::Timestamp>) -> String {
    or_dash(time.map(|time| time.to_string()).as_ref())
}

fn row(webhook: &View) -> Vec<String> {
    let state = match (&webhook.stopped, webhook.enabled) {
        (Some(why), _) => why.clone(),
        (None, true) => "on".into(),
        (None, false) => "off".into(),
    };
    vec![
        webhook.name.clone(),
        state,
        webhook.kinds.join(","),
        webhook.url.clone(),
        time(webhook.delivered_at),
        webhook.id.clone(),
    ]
}

fn delivery_row(delivery: &Delivery) -> Vec<String> {
    let answer = delivery.last_status.map(|status| status.to_string());
    vec![
        delivery.seq.to_string(),
        delivery.kind.clone(),
        delivery.state.clone(),
        delivery.attempts.to_string(),
        time(delivery.last_at),
        or_dash(answer.as_ref().or(delivery.last_error.as_ref())),
        time(delivery.next_at),
    ]
}

async fn address(client: &Client, named: &str) -> Result<String> {
    let all = client.all::<View>("/v1/webhooks").await?;
    let found = all.items.iter().find(|webhook| webhook.id == named || webhook.name == named);
    let found = found.ok_or_else(|| Failure::new(5, format!("There is no webhook {named}.")))?;
    Ok(format!("/v1/webhooks/{}", found.id))
}

/// The only time that anybody sees the secret.
fn reveal(format: Format, webhook: &View) -> Result<()> {
    print(format, webhook, &["id", "secret, shown once"], |webhook| {
        vec![vec![webhook.id.clone(), or_dash(webhook.secret.as_ref())]]
    })
}

pub(crate) async fn webhook(client: &Client, format: Format, command: Webhook) -> Result<()> {
    match command {
        Webhook::List => {
            let list = client.all::<View>("/v1/webhooks").await?;
            print(format, &list, &WEBHOOK, |list| list.items.iter().map(row).collect())
        }
        Webhook::Create { name, url, kinds } => {
            let body = CreateWebhook { name, url, kinds, enabled: true };
            reveal(format, &client.post("/v1/webhooks", &body, None).await?)
        }
        Webhook::Change { webhook, url, kinds, enabled } => {
            let body = ChangeWebhook { url, kinds: Some(kinds).filter(|kinds| !kinds.is_empty()), enabled };
            let changed: View = client.patch(&address(client, &webhook).await?, &body).await?;
            print(format, &changed, &WEBHOOK, |webhook| vec![row(webhook)])
        }
        Webhook::Rotate { webhook, overlap_seconds } => {
            let path = format!("{}/rotate", address(client, &webhook).await?);
            reveal(format, &client.post(&path, &RotateWebhookSecret { overlap_seconds }, None).await?)
        }
        Webhook::Test { webhook } => {
            let path = format!("{}/test", address(client, &webhook).await?);
            let _: View = client.post(&path, &json!({}), None).await?;
            say(&format!("on its way; see: meshwright webhook deliveries {webhook}"))
        }
        Webhook::Deliveries { webhook } => {
            let path = format!("{}/deliveries", address(client, &webhook).await?);
            let list = client.all::<Delivery>(&path).await?;
            print(format, &list, &DELIVERY, |list| list.items.iter().map(delivery_row).collect())
        }
        Webhook::Redeliver { webhook, seq } => {
            let path = format!("{}/deliveries/{seq}/redeliver", address(client, &webhook).await?);
            let delivery: Delivery = client.post(&path, &json!({}), None).await?;
            print(format, &delivery, &DELIVERY, |delivery| vec![delivery_row(delivery)])
        }
        Webhook::Delete { webhook } => {
            client.delete(&address(client, &webhook).await?).await?;
            say("deleted")
        }
    }
}
