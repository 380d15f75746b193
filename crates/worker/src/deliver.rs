//! Sends events to webhooks, by the Standard Webhooks scheme: signed, in order, again and again until they arrive.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use model::ids::{TenantId, WebhookId};
use model::webhook::message_id;
use serde_json::json;
use store::{DeliveryAttempt, Delivery, DeliveryState, DeliveryBatch, StoreError, hmac_sha256};

use crate::rounds::{WorkLoop, run_with_timeout};
use crate::{Engine, vitals};

/// How long one message may take, whatever the sender's own limits are.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// The status that asks not to be told anything any more.
const HTTP_STATUS_GONE: u16 = 410;
/// How many messages go to a webhook before another one's turn.
const MAX_MESSAGES_PER_ROUND: i64 = 20;
/// How long a round may take, before its last message.
const ROUND_TIME_BUDGET: Duration = Duration::from_secs(20);
/// How long others leave a webhook alone that somebody sends to: longer than a round and its last message.
const WEBHOOK_LEASE_DURATION: Duration = Duration::from_mins(1);

/// Sends a message to an address that a tenant has named.
#[async_trait]
pub trait WebhookSender: Send + Sync {
    /// Sends it once. Answers with the status, or with a stable word for why there is none: `address_refused`,
    /// `unreachable` or `too_slow`.
    async fn send_message(&self, url: &str, headers: &[(&'static str, String)], body: Vec<u8>) -> DeliveryAttempt;
}

/// The delivery of events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WebhookDelivery;

#[async_trait]
impl WorkLoop for WebhookDelivery {
    type Due = (TenantId, WebhookId);
    const NAME: &'static str = "deliver";
    const MAX_CONCURRENT: usize = 8;

    async fn claim_due(&self, engine: &Engine, without: &[TenantId]) -> Result<Option<(TenantId, Self::Due)>, StoreError> {
        let claimed = engine.store.claim_webhook(WEBHOOK_LEASE_DURATION, without).await?;
        Ok(claimed.map(|(tenant, webhook)| (tenant, (tenant, webhook))))
    }

    async fn process_due(&self, engine: &Engine, (tenant, webhook): Self::Due) -> Result<(), StoreError> {
        engine.deliver_to_webhook(tenant, webhook).await
    }
}

impl Engine {
    /// Sends what is due to the webhook that has been waiting the longest. Answers false when none is waiting.
    ///
    /// # Errors
    /// The database failed; what was sent and not recorded is sent again.
    pub async fn deliver_due(&self) -> Result<bool, StoreError> {
        let Some((tenant, webhook)) = self.store.claim_webhook(WEBHOOK_LEASE_DURATION, &[]).await? else { return Ok(false) };
        self.deliver_to_webhook(tenant, webhook).await.map(|()| true)
    }

    async fn deliver_to_webhook(&self, tenant: TenantId, webhook: WebhookId) -> Result<(), StoreError> {
        let mail = self.store.begin(tenant).await?.next_delivery_batch(webhook, MAX_MESSAGES_PER_ROUND, self.clock.now()).await?;
        let failed = match mail {
            Some(mail) => self.send_batch(tenant, webhook, &mail).await?,
            None => false,
        };
        let mut tx = self.store.begin(tenant).await?;
        tx.reschedule_webhook(webhook, failed).await?;
        tx.commit().await
    }

    /// Answers whether the last message did not arrive: then the others wait.
    async fn send_batch(&self, tenant: TenantId, webhook: WebhookId, mail: &DeliveryBatch) -> Result<bool, StoreError> {
        let since = Instant::now();
        for delivery in &mail.deliveries {
            let (headers, body) = sign_message(webhook, mail, delivery, self.clock.now());
            let attempt = match &self.webhook_sender {
                Some(post) => match run_with_timeout(MESSAGE_TIMEOUT, post.send_message(&mail.url, &headers, body)).await {
                    Ok(attempt) => attempt,
                    Err(missed) => {
                        vitals::report_failed_call(WebhookDelivery::NAME, missed);
                        DeliveryAttempt::Failed("too_slow")
                    }
                },
                None => return Ok(false),
            };
            vitals::count_delivery(&attempt);
            let now = self.clock.now();
            let mut tx = self.store.begin(tenant).await?;
            let state = tx.record_delivery_attempt(webhook, delivery, &attempt, now).await?;
            match (&attempt, state) {
                (DeliveryAttempt::Answered(HTTP_STATUS_GONE), _) => tx.disable_webhook(webhook, "gone", now).await?,
                (_, DeliveryState::Failed) => tx.disable_webhook(webhook, "failing", now).await?,
                _ => {}
            }
            tx.commit().await?;
            if !attempt.is_accepted() {
                return Ok(true);
            }
            if since.elapsed() > ROUND_TIME_BUDGET {
                break;
            }
        }
        Ok(false)
    }
}

/// The headers and the body of a message. It is signed with every secret that is good.
fn sign_message(
    webhook: WebhookId,
    mail: &DeliveryBatch,
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
