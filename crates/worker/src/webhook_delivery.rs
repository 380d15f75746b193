//! Delivers events to webhooks by the Standard Webhooks scheme. Messages are signed, sent in order,
//! and retried until they arrive or are given up.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use meshwright_model::ids::{TenantId, WebhookId};
use meshwright_model::webhook::{DeliveryError, DeliveryState, WebhookStop, message_id};
use meshwright_store::{Delivery, DeliveryAttempt, DeliveryBatch, StoreError, hmac_sha256};
use serde_json::json;

use crate::Engine;
use crate::guarded_call::run_with_timeout;
use crate::metrics;
use crate::rounds::WorkLoop;

/// Timeout of one message. It applies in addition to the limits of the sender.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// HTTP status 410: the receiver wants no more events, so the webhook is switched off.
const HTTP_STATUS_GONE: u16 = 410;
/// Messages sent to one webhook before the next webhook is served.
const MAX_MESSAGES_PER_ROUND: i64 = 20;
/// Time after which no further message of a batch is sent. The message that is under way is
/// finished.
const ROUND_TIME_BUDGET: Duration = Duration::from_secs(20);
/// Time for which a claimed webhook is hidden from other workers. It is longer than a batch and its
/// last message together.
const WEBHOOK_LEASE_DURATION: Duration = Duration::from_mins(1);

/// Sends messages to addresses that tenants have entered.
#[async_trait]
pub trait WebhookSender: Send + Sync {
    /// Sends a message once. Returns the HTTP status, or a stable word that says why there is none:
    /// `address_refused`, `unreachable` or `too_slow`.
    async fn send_message(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: Vec<u8>,
    ) -> DeliveryAttempt;
}

/// Work loop that delivers events to webhooks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WebhookDelivery;

#[async_trait]
impl WorkLoop for WebhookDelivery {
    type Due = (TenantId, WebhookId);
    const NAME: &'static str = "deliver";
    const MAX_CONCURRENT: usize = 8;

    async fn claim_due(
        &self,
        engine: &Engine,
        without: &[TenantId],
    ) -> Result<Option<(TenantId, Self::Due)>, StoreError> {
        let claimed = engine
            .store
            .claim_webhook(WEBHOOK_LEASE_DURATION, without)
            .await?;
        Ok(claimed.map(|(tenant, webhook)| (tenant, (tenant, webhook))))
    }

    async fn process_due(
        &self,
        engine: &Engine,
        (tenant, webhook): Self::Due,
    ) -> Result<(), StoreError> {
        engine.deliver_to_webhook(tenant, webhook).await
    }
}

impl Engine {
    /// Sends the due messages of the webhook that has waited longest. Returns false when no webhook
    /// is due.
    ///
    /// # Errors
    /// Returns an error when the database does not answer. Messages that were sent and not recorded
    /// are sent again.
    pub async fn deliver_due(&self) -> Result<bool, StoreError> {
        let Some((tenant, webhook)) = self
            .store
            .claim_webhook(WEBHOOK_LEASE_DURATION, &[])
            .await?
        else {
            return Ok(false);
        };
        self.deliver_to_webhook(tenant, webhook)
            .await
            .map(|()| true)
    }

    /// Sends a batch of messages to a claimed webhook and gives the webhook back. After a failure
    /// the webhook is not due for a while.
    async fn deliver_to_webhook(
        &self,
        tenant: TenantId,
        webhook: WebhookId,
    ) -> Result<(), StoreError> {
        let mail = self
            .store
            .begin(tenant)
            .await?
            .deliveries()
            .next_delivery_batch(webhook, MAX_MESSAGES_PER_ROUND, self.clock.now())
            .await?;
        let failed = match mail {
            Some(mail) => self.send_batch(tenant, webhook, &mail).await?,
            None => false,
        };
        let mut tx = self.store.begin(tenant).await?;
        tx.deliveries().reschedule_webhook(webhook, failed).await?;
        tx.commit().await
    }

    /// Sends the messages of a batch in order and records each attempt. Returns true when the last
    /// message did not arrive: the rest of the batch then waits, because events arrive in order.
    async fn send_batch(
        &self,
        tenant: TenantId,
        webhook: WebhookId,
        mail: &DeliveryBatch,
    ) -> Result<bool, StoreError> {
        let since = Instant::now();
        for delivery in &mail.deliveries {
            let (headers, body) = sign_message(webhook, mail, delivery, self.clock.now());
            let attempt = match &self.webhook_sender {
                Some(post) => {
                    match run_with_timeout(
                        MESSAGE_TIMEOUT,
                        post.send_message(&mail.url, &headers, body),
                    )
                    .await
                    {
                        Ok(attempt) => attempt,
                        Err(missed) => {
                            metrics::report_given_up_call(WebhookDelivery::NAME, missed);
                            DeliveryAttempt::Failed(DeliveryError::TooSlow)
                        }
                    }
                }
                None => return Ok(false),
            };
            metrics::count_delivery(&attempt);
            let now = self.clock.now();
            let mut tx = self.store.begin(tenant).await?;
            let state = tx
                .deliveries()
                .record_delivery_attempt(webhook, delivery, &attempt, now)
                .await?;
            match (&attempt, state) {
                (DeliveryAttempt::Answered(HTTP_STATUS_GONE), _) => {
                    tx.deliveries()
                        .disable_webhook(webhook, WebhookStop::Gone, now)
                        .await?;
                }
                (_, DeliveryState::Failed) => {
                    tx.deliveries()
                        .disable_webhook(webhook, WebhookStop::Failing, now)
                        .await?;
                }
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

/// Builds the headers and the body of a message. The message is signed with every valid secret of
/// the webhook.
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
    let signatures: Vec<String> = mail
        .secrets
        .iter()
        .map(|secret| format!("v1,{}", STANDARD.encode(hmac_sha256(secret, &signed))))
        .collect();
    let headers = vec![
        ("webhook-id", id),
        ("webhook-timestamp", at.to_string()),
        ("webhook-signature", signatures.join(" ")),
    ];
    (headers, body)
}
