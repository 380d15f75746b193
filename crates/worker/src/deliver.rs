//! Sends events to webhooks, by the Standard Webhooks scheme: signed, in order, again and again until they arrive.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use model::ids::{TenantId, WebhookId};
use model::webhook::message_id;
use serde_json::json;
use store::{Attempt, Delivery, DeliveryState, Mail, StoreError, hmac_sha256};

use crate::rounds::{Round, guarded};
use crate::{Engine, vitals};

/// How long one message may take, whatever the sender's own limits are.
const LONGEST: Duration = Duration::from_secs(30);
/// The status that asks not to be told anything any more.
const GONE: u16 = 410;
/// How many messages go to a webhook before another one's turn.
const ROUND: i64 = 20;
/// How long a round may take, before its last message.
const BUDGET: Duration = Duration::from_secs(20);
/// How long others leave a webhook alone that somebody sends to: longer than a round and its last message.
const LEASE: Duration = Duration::from_mins(1);

/// Sends a message to an address that a tenant has named.
#[async_trait]
pub trait Post: Send + Sync {
    /// Sends it once. Answers with the status, or with a stable word for why there is none: `address_refused`,
    /// `unreachable` or `too_slow`.
    async fn post(&self, url: &str, headers: &[(&'static str, String)], body: Vec<u8>) -> Attempt;
}

/// The delivery of events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivering;

#[async_trait]
impl Round for Delivering {
    type Due = (TenantId, WebhookId);
    const NAME: &'static str = "deliver";
    const WIDTH: usize = 8;

    async fn claim(&self, engine: &Engine, without: &[TenantId]) -> Result<Option<(TenantId, Self::Due)>, StoreError> {
        let claimed = engine.store.claim_webhook(LEASE, without).await?;
        Ok(claimed.map(|(tenant, webhook)| (tenant, (tenant, webhook))))
    }

    async fn work(&self, engine: &Engine, (tenant, webhook): Self::Due) -> Result<(), StoreError> {
        engine.send_round(tenant, webhook).await
    }
}

impl Engine {
    /// Sends what is due to the webhook that has been waiting the longest. Answers false when none is waiting.
    ///
    /// # Errors
    /// The database failed; what was sent and not recorded is sent again.
    pub async fn deliver_due(&self) -> Result<bool, StoreError> {
        let Some((tenant, webhook)) = self.store.claim_webhook(LEASE, &[]).await? else { return Ok(false) };
        self.send_round(tenant, webhook).await.map(|()| true)
    }

    async fn send_round(&self, tenant: TenantId, webhook: WebhookId) -> Result<(), StoreError> {
        let mail = self.store.begin(tenant).await?.mail(webhook, ROUND, self.clock.now()).await?;
        let failed = match mail {
            Some(mail) => self.send(tenant, webhook, &mail).await?,
            None => false,
        };
        let mut tx = self.store.begin(tenant).await?;
        tx.rest_webhook(webhook, failed).await?;
        tx.commit().await
    }

    /// Answers whether the last message did not arrive: then the others wait.
    async fn send(&self, tenant: TenantId, webhook: WebhookId, mail: &Mail) -> Result<bool, StoreError> {
        let since = Instant::now();
        for delivery in &mail.deliveries {
            let (headers, body) = message(webhook, mail, delivery, self.clock.now());
            let attempt = match &self.post {
                Some(post) => match guarded(LONGEST, post.post(&mail.url, &headers, body)).await {
                    Ok(attempt) => attempt,
                    Err(missed) => {
                        vitals::missed(Delivering::NAME, missed);
                        Attempt::Failed("too_slow")
                    }
                },
                None => return Ok(false),
            };
            vitals::sent(&attempt);
            let now = self.clock.now();
            let mut tx = self.store.begin(tenant).await?;
            let state = tx.attempted(webhook, delivery, &attempt, now).await?;
            match (&attempt, state) {
                (Attempt::Answered(GONE), _) => tx.stop_webhook(webhook, "gone", now).await?,
                (_, DeliveryState::Failed) => tx.stop_webhook(webhook, "failing", now).await?,
                _ => {}
            }
            tx.commit().await?;
            if !attempt.arrived() {
                return Ok(true);
            }
            if since.elapsed() > BUDGET {
                break;
            }
        }
        Ok(false)
    }
}

/// The headers and the body of a message. It is signed with every secret that is good.
fn message(
    webhook: WebhookId,
    mail: &Mail,
    delivery: &Delivery,
    now: Timestamp,
) -> (Vec<(&'static str, String)>, Vec<u8>) {
    let event = &delivery.event;
    let body = json!({
        "type": event.kind, "timestamp": event.at.to_string(),
        "data": {
            "seq": event.seq, "body": event.body,
            "mesh_id": event.mesh.map(|id| id.to_string()),
            "upgrade_id": event.upgrade.map(|id| id.to_string()),
            "operation_id": event.operation.map(|id| id.to_string()),
        },
    });
    let body = body.to_string().into_bytes();
    let (id, at) = (message_id(webhook, event.seq), now.as_second());
    let signed = [format!("{id}.{at}.").as_bytes(), &body].concat();
    let signatures: Vec<String> =
        mail.secrets.iter().map(|secret| format!("v1,{}", STANDARD.encode(hmac_sha256(secret, &signed)))).collect();
    let headers =
        vec![("webhook-id", id), ("webhook-timestamp", at.to_string()), ("webhook-signature", signatures.join(" "))];
    (headers, body)
}
